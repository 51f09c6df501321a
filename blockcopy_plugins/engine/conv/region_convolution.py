"""Convolutions of ordinary tensors within a frame, such as the features of a detector's regions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import ops
from ...ops.block_conv import SlidingWindow
from ..frame.frame import Frame
from ..frame.layout import image_places
from ..tensor.pending_map import INFINITY
from .cpu_convolutions import CpuConvolutions

# Below these MACs, laying the input out costs more than it saves.
_LEAST_MACS = 50_000_000
# Up to so many pixels, most of the time of torch's convolution is that of the call.
_FEW_PIXELS = 256


def convolve_regions(
    cpu: CpuConvolutions, frame: Frame, x: Tensor, module: nn.Conv2d
) -> Tensor | None:
    """Convolve an ordinary tensor, each image as one block: few pixels, or by Winograd's algorithm.

    In bfloat16 torch's convolution is as fast as Winograd's if the input lies channels last, and
    so are the layers that follow.

    Args:
        cpu: The kernels.
        frame: The frame being run.
        x: ``(K, C, H, W)``.
        module: The convolution, or something with its attributes.

    Returns:
        ``(K, C_out, H', W')``, laid out as torch would, since the model may view it; None where
        torch's convolution is as fast.
    """
    out = _convolved(cpu, frame, x, module)
    if out is None or _is_channels_last(x) or _is_channels_last(module.weight):
        return out
    return out.contiguous()


def _is_channels_last(x: Tensor) -> bool:
    channels = x.shape[1]
    return channels > 1 and x.stride(1) == 1 and x.stride(3) == channels


def _convolved(cpu: CpuConvolutions, frame: Frame, x: Tensor, module: nn.Conv2d) -> Tensor | None:
    weight = module.weight
    if x.dim() != 4 or x.dtype not in (torch.float32, torch.bfloat16):
        return None
    if cpu.not_supported_reasons(x, weight, module.groups):
        return None
    if _is_of_few_pixels(x, module):
        return _convolve(cpu, x, module, None, (None, None), tuple(x.shape[2:]), False)
    sides = zip(
        x.shape[2:], module.padding, module.dilation, module.kernel_size, module.stride, strict=True
    )
    size_out = tuple(
        (side + 2 * pad - dilation * (taps - 1) - 1) // stride + 1
        for side, pad, dilation, taps, stride in sides
    )
    window = SlidingWindow(
        module.kernel_size, module.stride, module.padding, module.dilation, size_out
    )
    macs = len(x) * size_out[0] * size_out[1] * weight.numel()
    if min(size_out) < 1:
        return None
    few = macs < _LEAST_MACS and 0 < len(x) * x.shape[2] * x.shape[3] <= _FEW_PIXELS
    if not few:
        if macs < _LEAST_MACS or not cpu.is_by_winograd(weight.shape[1], x.dtype, window, size_out):
            return None
        if x.dtype == torch.bfloat16:
            x = x.contiguous(memory_format=torch.channels_last)
            return F.conv2d(x, weight, module.bias, window.stride, window.padding, window.dilation)
    rows, cols = frame.tables(
        ("whole", window),
        x.shape[2:],
        size_out,
        lambda axis, size, _: window.contiguous_table(axis, 1, size),
    )
    places = frame.image_places if len(x) == frame.images else image_places(range(len(x)))
    return _convolve(cpu, x, module, places, (rows, cols), size_out, winograd=not few)


def _is_of_few_pixels(x: Tensor, module: nn.Conv2d) -> bool:
    """Whether a convolution is of each pixel, and of few, as in squeeze and excitation."""
    return (
        module.kernel_size == module.stride == (1, 1)
        and module.padding == (0, 0)
        and 0 < len(x) * x.shape[2] * x.shape[3] <= _FEW_PIXELS
    )


def _convolve(
    cpu: CpuConvolutions,
    x: Tensor,
    module: nn.Conv2d,
    places: Tensor | None,
    tables: tuple[Tensor | None, Tensor | None],
    size_out: tuple[int, int],
    winograd: bool,
) -> Tensor:
    return ops.conv_blocks(
        x,
        None,
        places,
        *tables,
        module.weight,
        cpu.prepared.of(module.weight, winograd),
        module.bias,
        (),
        0.0,
        module.stride,
        module.dilation,
        size_out,
        None,
        -INFINITY,
        INFINITY,
        cpu.workspace,
    )
