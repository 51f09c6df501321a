"""The sums of a small least squares problem with forgetting, and its solution."""

from __future__ import annotations

import torch
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad, check_tensor
from blockcopy_plugins.ops.library import operator


def _ridge_sums_fake(
    products: Tensor, targets: Tensor, features: Tensor, values: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor]:
    torch._check_value(
        features.dim() == 2,
        lambda: f"blockcopy: features must be (m, n), found {tuple(features.shape)}",
    )
    samples, count = features.shape
    check_tensor("products", products, torch.float64, (count, count))
    check_tensor("targets", targets, torch.float64, (count,))
    check_tensor("features", features, torch.float32, (samples, count))
    check_tensor("values", values, torch.float32, (samples,))
    check_tensor("seen", seen, torch.bool, (samples,))
    return torch.empty_like(products), torch.empty_like(targets)


def _ridge_weights_fake(products: Tensor, targets: Tensor, prior: Tensor) -> Tensor:
    count = prior.numel()
    check_tensor("products", products, torch.float64, (count, count))
    check_tensor("targets", targets, torch.float64, (count,))
    check_tensor("prior", prior, torch.float64, (count,))
    return torch.empty_like(prior)


@operator(
    "ridge_sums(Tensor products, Tensor targets, Tensor features, Tensor values, Tensor seen, "
    "float decay) -> (Tensor, Tensor)",
    fake=_ridge_sums_fake,
)
def ridge_sums(
    products: Tensor,
    targets: Tensor,
    features: Tensor,
    values: Tensor,
    seen: Tensor,
    decay: float,
) -> tuple[Tensor, Tensor]:
    """Add samples ``(x, y)`` to the sums of ``x x'`` and of ``y x``.

    Args:
        products: float64 ``(n, n)``.
        targets: float64 ``(n,)``.
        features: float32 ``(m, n)``, ``x`` of each sample.
        values: float32 ``(m,)``, ``y`` of each sample, finite even in rows that are not samples.
        seen: bool ``(m,)``: which rows are samples.
        decay: Factor on the old sums.

    Returns:
        The new ``products`` and ``targets``.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If a dtype does not fit.
        RuntimeError: If gradients are recorded and a tensor requires grad.
    """
    check_no_grad("ridge_sums", products, targets, features, values)
    _ridge_sums_fake(products, targets, features, values, seen)
    wide = features.to(torch.float64)
    # A product with zeros instead of picking rows: finding out how many there are would mean
    # waiting for the device.
    chosen = (wide * seen.unsqueeze(1)).T
    products = torch.addmm(products, chosen, wide, beta=decay)
    return products, torch.addmv(targets, chosen, values.to(torch.float64), beta=decay)


@operator(
    "ridge_weights(Tensor products, Tensor targets, Tensor prior, float strength) -> Tensor",
    fake=_ridge_weights_fake,
)
def ridge_weights(products: Tensor, targets: Tensor, prior: Tensor, strength: float) -> Tensor:
    """Solve ``(products + strength I) w = targets + strength prior``.

    Args:
        products: float64 ``(n, n)``, from :func:`ridge_sums`.
        targets: float64 ``(n,)``, likewise.
        prior: float64 ``(n,)``, the weights if there are no samples.
        strength: The number of unit samples that the prior is worth, above 0.

    Returns:
        float64 ``(n,)``.

    Raises:
        ValueError: If a shape does not fit.
        TypeError: If a dtype does not fit.
        RuntimeError: If gradients are recorded and a tensor requires grad.
    """
    check_no_grad("ridge_weights", products, targets, prior)
    _ridge_weights_fake(products, targets, prior)
    table = products.clone()
    table.diagonal().add_(strength)
    right = torch.add(targets, prior, alpha=strength)
    # Positive definite by construction; checking that would mean waiting for the device.
    return torch.linalg.solve_ex(table, right)[0]
