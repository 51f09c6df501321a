"""Convolution of executed blocks straight from the full map, with the ops that follow it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from blockcopy_plugins.ops.checks import check_no_grad
from blockcopy_plugins.ops.finish_reference import finish_reference
from blockcopy_plugins.ops.gather import gather_reference
from blockcopy_plugins.ops.library import operator
from blockcopy_plugins.ops.rings import map_with_blocks


def _prepare_fake(weight: Tensor) -> Tensor:
    # The amount of memory it takes depends on the processor.
    size = torch.library.get_ctx().new_dynamic_size(min=0)
    return weight.new_empty((size,), dtype=torch.uint8)


def _conv_blocks_fake(source, blocks, weight, block_out) -> Tensor:
    count = source.shape[0] if blocks is None else blocks.shape[0]
    out = source.new_empty((count, weight.shape[0], *block_out))
    return out.contiguous(memory_format=torch.channels_last)


def conv_kernels() -> tuple[str, ...]:
    """Instruction sets of this processor for which there are native convolutions, best first.

    Returns:
        Some of ``'avx512_bf16'``, ``'avx512'``, ``'avx2'``; empty without the extension.
    """
    found = getattr(torch.ops.blockcopy, "conv_kernels", None)
    return () if found is None else tuple(found())


@operator(
    "conv_prepare(Tensor weight, bool winograd, str kernels='') -> Tensor", fake=_prepare_fake
)
def conv_prepare(weight: Tensor, winograd: bool, kernels: str = "") -> Tensor:
    """Lay a weight out for :func:`conv_blocks`.

    Args:
        weight: ``(C_out, C_in, kh, kw)``, float32 or bfloat16.
        winograd: For Winograd's algorithm: a kernel of 3 or 5 taps along one axis or both (3x3,
            1x5), and a multiple of 16 input channels.
        kernels: One of :func:`conv_kernels`, by default the best.

    Returns:
        uint8 ``(bytes,)``; only the kernels know the layout.

    Raises:
        ValueError: If the weight does not fit, or the processor has no such kernels.
        TypeError: If the dtype is a different one.
    """
    return torch.empty((0,), dtype=torch.uint8, device=weight.device)


@operator(
    "conv_blocks(Tensor source, Tensor? packed, Tensor? blocks, Tensor? rows, Tensor? cols, "
    "Tensor weight, Tensor(a!) prepared, Tensor? bias, Tensor?[] norm, float eps, int[] stride, "
    "int[] dilation, int[] block_out, Tensor? residual, float low, float high, "
    "Tensor(b!) workspace, Tensor? slope=None, str activation='', int[]? size=None, "
    "int[]? rings=None) -> Tensor",
    fake=_conv_blocks_fake,
)
def conv_blocks(
    source: Tensor,
    packed: Tensor | None,
    blocks: Tensor | None,
    rows: Tensor | None,
    cols: Tensor | None,
    weight: Tensor,
    prepared: Tensor,
    bias: Tensor | None,
    norm: Sequence[Tensor | None],
    eps: float,
    stride: Sequence[int],
    dilation: Sequence[int],
    block_out: Sequence[int],
    residual: Tensor | None,
    low: float,
    high: float,
    workspace: Tensor,
    slope: Tensor | None = None,
    activation: str = "",
    size: Sequence[int] | None = None,
    rings: Sequence[int] | None = None,
) -> Tensor:
    """Convolve executed blocks, and apply the ops that follow to the sums before they are stored.

    ``clamp(activation(prelu(norm(conv(x) + bias) + residual)), low, high)``, the sums in float32.
    The inputs are read in place: executed blocks from ``packed``, the others from ``source``.

    Args:
        source: ``(S, C, H, W)``, the full map; channels last, or it is copied. Without ``rows``,
            the packed blocks themselves, each of which is convolved separately.
        packed: ``(n, C, bh, bw)``, the content of the blocks in this frame, or None if ``source``
            holds it already.
        blocks: int32 ``(n, 3)``: slot, block row, block column; see :func:`.gather.gather`.
        rows: int32 ``(GH, wh)``, the windows' rows in ``source``, -1 = outside, where it is zero.
        cols: int32 ``(GW, ww)``, the same for columns.
        weight: ``(C_out, C, kh, kw)``, dtype of ``source``; ``(k * C, 1, kh, kw)`` convolves each
            channel separately, ``k`` times.
        prepared: The result of :func:`conv_prepare` for it; made again here if the weight is seen
            to have changed.
        bias: ``(C_out,)`` or None.
        norm: Empty, or weight, bias, running mean and variance of a batch norm, each ``(C_out,)``
            or None.
        eps: The batch norm's epsilon.
        stride: Rows, columns.
        dilation: Rows, columns.
        block_out: Height and width of a block of the result.
        residual: Added to the result, with the result's shape, or None.
        low: Lower bound of the result, ``-inf`` for none.
        high: Upper bound.
        workspace: uint8 ``(bytes,)``, scratch memory; grows if it is too small.
        slope: ``(C_out,)`` or ``(1,)``, what values below 0 are multiplied by, or None.
        activation: A key of :data:`.finish_reference.ACTIVATIONS`; ``''`` for none.
        size: Height and width of the result as a full map, or None. With it, pixels of blocks
            that stick out of the map need not be computed.
        rings: ``(H, W, border)`` if ``source`` is the rings of the blocks of ``packed``'s size of
            such a map, see :func:`.rings.scatter_rings_`, or None.

    Returns:
        ``(n, C_out, *block_out)``, channels last; with ``size``, pixels outside the full map have
        any finite values.

    Raises:
        ValueError: If shapes do not fit each other, or there is no such activation.
        TypeError: If a dtype does not fit.
        IndexError: If an index is out of range.
    """
    check_no_grad("conv_blocks", source, weight)
    if rows is None:
        windows = source
    else:
        source = map_with_blocks(source, packed, blocks, rings)
        windows = gather_reference(source, blocks, rows, cols, 0.0)
    reach = [
        (block_out[i] - 1) * stride[i] + (weight.shape[2 + i] - 1) * dilation[i] + 1 for i in (0, 1)
    ]
    groups = source.shape[1] // weight.shape[1]
    windows = windows[:, :, : reach[0], : reach[1]]
    work = torch.promote_types(source.dtype, torch.float32)
    out = F.conv2d(windows.to(work), weight.to(work), None, list(stride), 0, list(dilation), groups)
    if bias is not None:
        out = out + bias.to(work).view(1, -1, 1, 1)
    return finish_reference(out, norm, eps, residual, slope, activation, low, high, source.dtype)


def _count_flops(*args, out_val: Tensor) -> int:
    weight = args[5]
    # Zeros with which a kernel was filled up are no part of the convolution.
    values = getattr(weight, "values_but_zeros", weight.numel())
    return 2 * out_val.numel() * values // len(weight)


FLOPS: Mapping[object, Callable[..., int]] = MappingProxyType({conv_blocks.overload: _count_flops})
"""Floating-point operations of this package's operators, in the form of
``torch.utils.flop_counter``: those of the convolution itself, whatever the algorithm."""
