"""How an op runs that cannot run on blocks: on the whole map, which is always right."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..frame.frame import Frame
from ..tensor.axes import MAP
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_on_use import DenseOnUse
from ..torch_internals import (
    OpOverload,
    flops_of,
    is_mutable,
    named_arguments,
    schema_of,
    tree_map,
    versions_are_counted,
    written_argument,
)

aten = torch.ops.aten

# Which of several ops densifies a map first may depend on the batch: for some views torch copies
# two images but not one. The state is the same.
_KEY = "whole map"


def run_dense(frame: Frame, func, args, kwargs, reason: str, as_claimed: bool = True):
    """Run an op on the full maps; the result is an ordinary tensor.

    Args:
        frame: The frame being run.
        func: The aten op.
        args: Its arguments, BlockTensors among them.
        kwargs: Its keyword arguments.
        reason: Why it does not run on blocks, for the report.
        as_claimed: Pass contiguous maps, since the op was chosen for contiguous
            BlockTensors: a ``view`` of another layout could fail, a fused kernel could misread
            it.

    Returns:
        What the op returns; a BlockTensor that it changes in place stays one.

    Raises:
        DensifiedError: If the frame is strict.
    """
    frame.refuse_if_strict(str(func), reason)
    written = written_argument(func, args, kwargs)
    out = _call(frame, func, args, kwargs, reason, _may_alias(func), as_claimed)
    if not isinstance(written, BlockTensor):
        out = out if as_claimed else tree_map(Tensor.contiguous, out)
        return out if written is not None else frame.derived(out, func, args)
    if isinstance(written, DenseOnUse):
        # A padded map has no blocks: its dense form replaces it from now on.
        written.dense().copy_(out)
        written.version.note_write()
        return written
    # The op wrote into a copy of the map: take the executed blocks back from there.
    with written.writing():
        written.packed.copy_(frame.packed_like(out, written))
    return written


def run_dense_and_pack(frame: Frame, func, args, kwargs, reason: str, as_claimed: bool = False):
    """Run an op on the full map and return the executed blocks of its result.

    For ops whose result is again a map of the whole frame, so that only the op itself runs
    dense and not what follows it. The result is dense where no block width fits.
    ``as_claimed`` is as for :func:`run_dense`.
    """
    x = next(a for a in args if isinstance(a, BlockTensor))
    if x.axes != MAP or isinstance(x, DenseOnUse):
        return run_dense(frame, func, args, kwargs, reason)
    frame.refuse_if_strict(str(func), reason)
    out = _call(frame, func, args, kwargs, reason, copy=False, as_claimed=as_claimed)
    first, rest = (out[0], out[1:]) if isinstance(out, tuple) else (out, None)
    first = frame.pack_again(first, x)
    return first if rest is None else (first, *rest)


def _call(frame: Frame, func, args, kwargs, reason: str, copy: bool, as_claimed: bool = True):
    name = str(func)
    for_views = copy and not is_mutable(func)

    def densify(value):
        if not isinstance(value, BlockTensor):
            return value
        return (
            value.dense_for_views(_KEY) if for_views else frame.dense(value, _KEY, copy, as_claimed)
        )

    args, kwargs = tree_map(densify, (list(args), dict(kwargs)))
    # In inference mode a view made here would not share its base's version count, see ViewedMap.
    counts = for_views and torch.is_inference_mode_enabled()
    with versions_are_counted(counts):
        out = _convolved(frame, func, args, kwargs)
        out = func(*args, **kwargs) if out is None else out
    count = flops_of(func)
    macs = 0 if count is None else count(*args, **kwargs, out_val=out) // 2
    frame.count_densified(name, reason, macs)
    return out


class _Convolution(NamedTuple):
    """What a kernel reads of an ``nn.Conv2d``."""

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Rows and columns."""
        return tuple(self.weight.shape[2:])


def _convolved(frame: Frame, func, args, kwargs) -> Tensor | None:
    """The result of a convolution of few pixels by the package's kernels, ``None`` of all else."""
    if func not in (aten.convolution.default, aten.conv2d.default):
        return None
    given = named_arguments(func, args, kwargs)
    x, weight = given["input"], given["weight"]
    axes = [tuple(given[name]) for name in ("stride", "padding", "dilation")]
    if given.get("transposed") or weight.dim() != 4 or any(len(axis) != 2 for axis in axes):
        return None
    module = _Convolution(weight, given["bias"], *axes, given["groups"])
    return frame.kernels.convolve_regions(frame, x, module)


def _may_alias(func: OpOverload) -> bool:
    # Results that are views of an argument, and in-place ops, must not get hold of the state.
    schema = schema_of(func)
    return any(v.alias_info is not None for v in (*schema.arguments, *schema.returns)) or (
        schema.name in ("aten::_unsafe_view", "aten::lift_fresh")
    )
