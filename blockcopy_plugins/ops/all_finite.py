"""Whether all values of a tensor are finite, in one pass over them."""

from __future__ import annotations

import torch
from torch import Tensor

from blockcopy_plugins.ops.library import operator


def _all_finite_fake(values: Tensor) -> Tensor:
    torch._check_type(
        values.is_floating_point(),
        lambda: (
            f"blockcopy::all_finite: values have dtype {values.dtype}, expected a floating point "
            "type of 16 to 64 bits"
        ),
    )
    return values.new_empty((), dtype=torch.bool)


@operator("all_finite(Tensor values) -> Tensor", fake=_all_finite_fake)
def all_finite(values: Tensor) -> Tensor:
    """Say whether a tensor holds neither NaN nor infinity, without waiting for its device.

    Args:
        values: Of any shape and floating point dtype (16 to 64 bits).

    Returns:
        Tensor: A bool scalar on the device of ``values``; True for an empty tensor.

    Raises:
        TypeError: If the dtype is not a floating point type.
    """
    _all_finite_fake(values)
    return torch.isfinite(values).all()
