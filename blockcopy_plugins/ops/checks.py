"""Argument checks that the pure-PyTorch twins and the fake kernels of the operators share.

The C++ kernels make the same checks and raise the same exception types: ``ValueError`` for shapes
and layouts, ``TypeError`` for dtypes, ``IndexError`` for indices. Operator names (``op``) and
argument names (``name``) are for the messages.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_NUMBER_DTYPES = frozenset(
    {
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.bool,
    }
)


def check_map(op: str, name: str, tensor: Tensor) -> None:
    """Check that a feature map or packed tensor is 4-D with a dtype that can be copied.

    Raises:
        ValueError: If it is not 4-D.
        TypeError: If its dtype is complex, quantised or otherwise not a plain number.
    """
    torch._check_value(
        tensor.dim() == 4,
        lambda: (
            f"blockcopy::{op}: {name} must be 4-D (n, C, h, w), but has shape "
            f"{tuple(tensor.shape)}; add or remove dimensions with unsqueeze/squeeze"
        ),
    )
    torch._check_type(
        tensor.dtype in _NUMBER_DTYPES,
        lambda: (
            f"blockcopy::{op}: {name} has dtype {tensor.dtype}, expected a floating point type of "
            "16 to 64 bits, an integer type or bool; convert it first"
        ),
    )


def check_tensor(
    name: str, tensor: Tensor | None, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    """Check the dtype and shape of an argument, unless it is None.

    Raises:
        TypeError: If the dtype is a different one.
        ValueError: If the shape is.
    """
    if tensor is None:
        return
    torch._check_type(
        tensor.dtype == dtype,
        lambda: f"blockcopy: {name} has dtype {tensor.dtype}, expected {dtype}",
    )
    torch._check_value(
        tuple(tensor.shape) == shape,
        lambda: f"blockcopy: {name} has shape {tuple(tensor.shape)}, expected {shape}",
    )


def check_table(op: str, name: str, table: Tensor, state: Tensor) -> None:
    """Check dtype, rank, layout and device of an index table (not its values).

    Raises:
        TypeError: If the dtype is not int32.
        ValueError: If it is not 2-D and contiguous, or lies on another device.
    """
    torch._check_type(
        table.dtype == torch.int32,
        lambda: (
            f"blockcopy::{op}: {name} has dtype {table.dtype}, expected torch.int32; "
            f"pass {name}.to(torch.int32)"
        ),
    )
    torch._check_value(
        table.dim() == 2,
        lambda: f"blockcopy::{op}: {name} must be 2-D, but has shape {tuple(table.shape)}",
    )
    torch._check_value(
        table.is_contiguous(),
        lambda: (
            f"blockcopy::{op}: {name} must be contiguous, but has strides {table.stride()}; "
            f"pass {name}.contiguous()"
        ),
    )
    torch._check_value(
        table.device == state.device,
        lambda: (
            f"blockcopy::{op}: {name} is on {table.device}, but state is on {state.device}; "
            "move it to the device of state"
        ),
    )


def check_blocks(op: str, blocks: Tensor, state: Tensor) -> None:
    """Check the ``blocks`` argument (not its values): int32 (n, 3) on the device of ``state``.

    Raises:
        TypeError: If the dtype is not int32.
        ValueError: If shape, layout or device do not fit.
    """
    check_table(op, "blocks", blocks, state)
    torch._check_value(
        blocks.size(1) == 3,
        lambda: (
            f"blockcopy::{op}: blocks must have shape (n, 3) with columns (slot, gy, gx), but has "
            f"shape {tuple(blocks.shape)}"
        ),
    )


def check_range(op: str, name: str, values: Tensor, low: int, high: int) -> None:
    """Check that every index lies in ``[low, high)``. Reads the values, so it waits for the device.

    Raises:
        IndexError: If a value is out of range; the message names it.
    """
    outside = values[(values < low) | (values >= high)]
    if outside.numel():
        raise IndexError(
            f"blockcopy::{op}: {name} {int(outside[0])} is out of range, expected "
            f"{low} <= {name} < {high}; make the index tensors from the geometry of this map"
        )


def check_fill(op: str, fill: float, dtype: torch.dtype) -> None:
    """Check that ``fill`` can be stored in ``dtype`` (infinities and NaN need a float type).

    Raises:
        ValueError: If the value has no representation: a fraction, infinity or NaN for an integer
            type, or a finite value beyond the largest one of a float type.
    """
    if dtype == torch.bool:
        fits = fill in (0.0, 1.0)
    elif dtype.is_floating_point:
        fits = not math.isfinite(fill) or abs(fill) <= torch.finfo(dtype).max
    else:
        limits = torch.iinfo(dtype)
        # 2**63 - 1 rounds up to 2**63 as a float, so the upper end is compared exclusively.
        fits = (
            math.isfinite(fill) and fill == int(fill) and limits.min <= fill < float(limits.max + 1)
        )
    if not fits:
        raise ValueError(
            f"blockcopy::{op}: fill {fill} cannot be stored in {dtype}; use a value of that type, "
            "or a floating point map"
        )


def check_no_grad(op: str, *tensors: Tensor) -> None:
    """Refuse to break a graph silently: the operators have no backward.

    Raises:
        RuntimeError: If gradients are recorded and a tensor requires one.
    """
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise RuntimeError(
            f"blockcopy::{op} has no backward, but gradients are recorded and an input requires "
            "grad; call it under torch.no_grad() or torch.inference_mode(), or detach the input"
        )


def check_channels_last(
    op: str, name: str, tensor: Tensor, layout: torch.memory_format = torch.channels_last
) -> None:
    """Check that a tensor which is written in place is dense in channels-last order.

    Args:
        op: Name of the operator, for messages.
        name: Name of the argument, for messages.
        tensor: The tensor.
        layout: Another order that it must have instead.

    Raises:
        ValueError: If it has another layout.
    """
    planes = layout == torch.contiguous_format
    torch._check_value(
        tensor.is_contiguous(memory_format=layout),
        lambda: (
            f"blockcopy::{op}: {name} must be {'' if planes else 'channels-last '}contiguous, but "
            f"has shape {tuple(tensor.shape)} and strides {tensor.stride()}; allocate it with "
            f"memory_format={layout}"
        ),
    )


def mutation_mode(target: Tensor) -> torch.inference_mode:
    """Context in which ``target`` may be written in place, whichever mode it was made in.

    An inference tensor has no version counter, so PyTorch lets only inference mode write to it.

    Returns:
        torch.inference_mode: Context manager that changes nothing for an ordinary tensor.
    """
    return torch.inference_mode(torch.is_inference_mode_enabled() or target.is_inference())
