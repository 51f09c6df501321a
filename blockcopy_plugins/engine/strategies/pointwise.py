"""Ops that work on each pixel by itself: they run on the packed blocks as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..decline import Decline
from ..frame.frame import Frame
from ..tensor.axes import MAP
from ..tensor.block_tensor import BlockTensor
from ..tensor.pending_map import INFINITY, JoinCall, PendingMap
from ..torch_internals import is_mutable, named_arguments, schema_of, written_argument
from .op_table import on_blocks

aten = torch.ops.aten

_ADD = (aten.add.Tensor, aten.add_.Tensor)
_MUL = (aten.mul.Tensor, aten.mul_.Tensor)
_DIV = (aten.div.Tensor, aten.div_.Tensor)
_RELU = (aten.relu.default, aten.relu_.default)
_CLAMP = (
    aten.clamp.default,
    aten.clamp_.default,
    aten.hardtanh.default,
    aten.hardtanh_.default,
    aten.clamp_min.default,
    aten.clamp_min_.default,
)
_SLOPES = (aten._prelu_kernel.default, aten.leaky_relu.default, aten.leaky_relu_.default)
# By their names in the kernels, see ops.finish_reference.
_ACTIVATIONS = {
    op: name
    for name in ("sigmoid", "silu", "hardsigmoid", "hardswish", "mish")
    for op in (getattr(aten, name).default, getattr(aten, f"{name}_").default)
}
_GELU = (aten.gelu.default, aten.gelu_.default)
# The package's own CPU kernels support these.
_NORM_DTYPES = (torch.float32, torch.bfloat16)


def fuse(func, args, kwargs) -> BlockTensor | None:
    """Fuse an addition or a clamping activation into a map that is not computed yet.

    Returns:
        The op's result, or ``None`` where it has to run by itself.
    """
    x = args[0]
    if func in (*_ADD, *_MUL, *_DIV) and isinstance(args[1], (int, float)):
        return _fuse_number(func, args, kwargs)
    if func in _ADD:
        return _fuse_add(func, args, kwargs)
    if func in _MUL:
        found = _fuse_gate(func, args, kwargs)
        return _fuse_channel_factors(func, args, kwargs) if found is None else found
    if func in _SLOPES:
        return _fuse_slope(func, args, kwargs)
    if func in _ACTIVATIONS and not kwargs:
        return fuse_activation(x, _ACTIVATIONS[func], is_mutable(func))
    if func in _GELU:
        kind = kwargs.get("approximate", args[1] if len(args) > 1 else "none")
        return fuse_activation(x, "gelu" if kind == "none" else "gelu_tanh", is_mutable(func))
    if not isinstance(x, BlockTensor) or x.pending is None or kwargs:
        return None
    in_place = is_mutable(func)
    if func in _RELU:
        return x.then(x.pending.with_bounds(0.0, INFINITY), in_place)
    if func in _CLAMP:
        low, high = (*args[1:3], None, None)[:2]
        if func in (aten.hardtanh.default, aten.hardtanh_.default):
            low, high = (-1 if low is None else low), (1 if high is None else high)
        low, high = -INFINITY if low is None else low, INFINITY if high is None else high
        # With the bounds the wrong way round torch returns the upper one, as the kernel does.
        return x.then(x.pending.with_bounds(float(low), float(high)), in_place)
    return None


def pending_join(x: BlockTensor) -> PendingMap | None:
    """A pending form of a map, possibly an existing one, so that an op can follow in one pass.

    Returns:
        What will compute it if it is pending; ``None`` where no kernel can make such a pass.
    """
    if x.pending is not None:
        return x.pending
    return PendingMap(JoinCall([x.packed])) if x.frame.kernels.joins(x) else None


def fuse_activation(x: BlockTensor, name: str, in_place: bool) -> BlockTensor | None:
    """Apply an activation in the pass that computes a map, or in one of the package's kernels.

    Args:
        x: The map.
        name: A key of :data:`.ops.finish_reference.ACTIVATIONS`.
        in_place: The op changes this tensor.

    Returns:
        The result, or ``None`` where it has to run by itself.
    """
    if type(x) is not BlockTensor or not x.frame.kernels.joins(x):
        return None
    if x.pending is None and in_place:
        return None
    found = pending_join(x)
    return None if found is None else x.then(found.with_activation(name), in_place)


def _fuse_slope(func, args, kwargs) -> BlockTensor | None:
    x, slope = (*args, 0.01)[:2]
    if kwargs or type(x) is not BlockTensor or not x.frame.kernels.joins(x):
        return None
    if is_mutable(func) and x.pending is None:
        return None
    if not isinstance(slope, Tensor):
        slope = torch.full((1,), float(slope), dtype=torch.float32, device=x.device)
    elif isinstance(slope, BlockTensor) or slope.numel() not in (1, x.shape[1]):
        return None
    elif slope.dtype not in _NORM_DTYPES:
        return None
    elif slope.dim() != 1:
        slope = slope.reshape(-1)
    found = pending_join(x)
    return x.then(found.with_slope(slope), is_mutable(func))


def _fuse_number(func, args, kwargs) -> BlockTensor | None:
    """The numbers of ``x * relu6(x + 3) / 6``."""
    x, number = args
    if kwargs or type(x) is not BlockTensor or x.pending is None or not x.frame.kernels.joins(x):
        return None
    if func in _ADD:
        found = None if is_mutable(func) else x.pending.with_shift(float(number))
    elif func in _DIV:
        found = x.pending.with_factor(1.0 / number) if number else None
    else:
        found = x.pending.with_factor(float(number))
    return x.then(found, is_mutable(func))


def _fuse_gate(func, args, kwargs) -> BlockTensor | None:
    """``x * sigmoid(x)`` and the like, as published networks spell out their activations."""
    one, other = args[:2]
    if kwargs or type(one) is not BlockTensor or type(other) is not BlockTensor:
        return None
    if one.shape != other.shape or one.block != other.block:
        return None
    in_place = is_mutable(func)
    for x, gate in ((one, other), (other, one)):
        if gate.pending is None or not gate.pending.activation:
            continue
        if in_place and (x is not one or x.pending is None):
            continue
        found = pending_join(x)
        found = None if found is None else found.gated_by(gate.pending)
        if found is not None:
            return x.then(found, in_place)
    return None


def _fuse_channel_factors(func, args, kwargs) -> BlockTensor | None:
    """A map times a number for each channel, as of squeeze and excitation: a norm that only scales.

    With one image alone, since a pass has one norm for all blocks.
    """
    if kwargs or is_mutable(func):
        return None
    x, factors = args if isinstance(args[0], BlockTensor) else reversed(args)
    if type(x) is not BlockTensor or not x.frame.kernels.joins(x) or x.shape[0] != 1:
        return None
    if isinstance(factors, BlockTensor) or factors.dtype != x.dtype or factors.device != x.device:
        return None
    if tuple(factors.shape) not in ((1, x.shape[1], 1, 1), (x.shape[1], 1, 1)):
        return None
    # A copy, since the model may write to them before the map is computed.
    factors = aten.view_copy.default(factors, [x.shape[1]])
    call = JoinCall([x.packed])
    return x.then(PendingMap(call, (factors, None, None, None)), in_place=False)


def _fuse_add(func, args, kwargs) -> BlockTensor | None:
    one, other = args[:2]
    if kwargs or not (isinstance(one, BlockTensor) and isinstance(other, BlockTensor)):
        return None
    same = (
        one is not other
        and one.axes == other.axes == MAP
        and one.shape == other.shape
        and one.block == other.block
        and one.size_of_map == other.size_of_map
        and one.dtype == other.dtype
    )
    if not same:
        return None
    in_place = is_mutable(func)
    if one.pending is not None and one.pending.takes_residual:
        return one.then(one.pending.with_residual(other.packed), in_place)
    if in_place:
        return None
    if other.pending is not None and not other.pending.takes_residual:
        other.compute()
    found = pending_join(other)
    return None if found is None else other.then(found.with_residual(one.packed), in_place)


def fuse_norm(x: BlockTensor, weight, bias, mean, variance, eps: float) -> BlockTensor | None:
    """Fuse a batch norm by running statistics into a map that is not computed yet.

    Returns:
        The result, or ``None`` where it has to run by itself.
    """
    norm = (weight, bias, mean, variance)
    if mean is None or variance is None:
        return None
    dtypes = _NORM_DTYPES if x.device.type == "cpu" else {torch.float32, x.dtype}
    given = [value for value in norm if value is not None]
    for value in given:
        if (
            value.dtype not in dtypes
            or not value.is_contiguous()
            or value.device != x.device
            or (x.device.type != "cpu" and value.dtype != mean.dtype)
        ):
            return None
    found = pending_join(x)
    if found is None:
        return None
    after = found.with_norm(norm, eps)
    if after is None and x.frame.kernels.joins(x):
        # A pass of its own, which the activation can still join: torch has one for each of them.
        after = PendingMap(JoinCall([x.packed])).with_norm(norm, eps)
    return x.then(after, in_place=False)


# torch does not tag these as pointwise.
@on_blocks(
    aten.hardswish.default,
    aten.hardswish_.default,
    aten._prelu_kernel.default,
    aten.rrelu_with_noise.default,
    aten.fill_.Scalar,
    aten.fill_.Tensor,
    aten.zero_.default,
    aten.masked_fill_.Scalar,
    aten.masked_fill_.Tensor,
    modules=(
        nn.Identity,
        nn.ReLU,
        nn.ReLU6,
        nn.LeakyReLU,
        nn.ELU,
        nn.GELU,
        nn.SiLU,
        nn.Mish,
        nn.Sigmoid,
        nn.Tanh,
        nn.Hardswish,
        nn.Hardsigmoid,
        nn.Dropout,
        nn.Dropout2d,
    ),
)
def pointwise(frame: Frame, func, args, kwargs):
    """Element-wise ops of BlockTensors with each other, with dense maps and with ``(N, C, 1, 1)``.

    A dense map of the same size gives its executed blocks; a tensor that is constant over the
    image gives each block its image's row.
    """
    if "out" in kwargs:
        return Decline("it has an out= argument")
    fused = fuse(func, args, kwargs)
    if fused is not None:
        return fused
    template = _widest([a for a in args if isinstance(a, BlockTensor)])
    if template is None:
        return Decline("its map operands differ in size or block")
    packed = []
    for value in args:
        if isinstance(value, Tensor):
            value = _operand(frame, value, template)
            if value is None:
                return Decline("an operand is neither a map of this size nor constant over it")
        packed.append(value)
    written = written_argument(func, args, kwargs) if is_mutable(func) else None
    if written is not None and not isinstance(written, BlockTensor):
        return Decline("it writes into a dense tensor")
    if written is None:
        out = func(*packed, **kwargs)
    else:
        with written.writing():
            out = func(*packed, **kwargs)
        if written is args[0]:
            return written
    strides = None if template.axes == MAP else template.stride()
    if isinstance(out, tuple):
        return tuple(template.like(part, strides=strides) for part in out)
    return template.like(out, strides=strides)


@on_blocks(aten.copy_.default)
def copy_into(frame: Frame, func, args, kwargs):
    """``copy_`` into a BlockTensor."""
    target, source = args[:2]
    if not isinstance(target, BlockTensor):
        return Decline("it writes into a dense tensor")
    source = _operand(frame, source, target)
    if source is None:
        return Decline("its source is neither a map of this size nor constant over it")
    with target.writing():
        target.packed.copy_(source)
    return target


@on_blocks(
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.cudnn_batch_norm.default,
    modules=(nn.BatchNorm2d,),
)
def batch_norm(frame: Frame, func, args, kwargs):
    """Batch norm by running statistics."""
    given = named_arguments(func, args, kwargs)
    if args[0].axes[1] != "C":
        return Decline("batch norm of a view whose second dimension is not channels")
    if given.get("training", given.get("train", False)):
        return Decline("batch norm in training mode needs the statistics of the whole map")
    x = args[0]
    eps = given["eps"] if "eps" in given else given["epsilon"]
    out = fuse_norm(x, *list(given.values())[1:5], eps)
    if out is None and x.packed.numel() == 0:
        # cuDNN refuses empty tensors.
        out = x.like(torch.empty_like(x.packed))
    if out is not None:
        nothing = torch.empty(0, device="cpu")
        return (out, nothing, nothing, nothing)[: len(schema_of(func).returns)]
    out, *statistics = func(x.packed, *args[1:], **kwargs)
    return (x.like(out), *statistics)


def _widest(tensors: list[BlockTensor]) -> BlockTensor | None:
    """The operand with the axes of the result, or ``None`` if the operands do not match."""
    first = widest = tensors[0]
    for other in tensors[1:]:
        if other.block != first.block or other.size_of_map != first.size_of_map:
            return None
        long, short = (other, widest) if other.dim() > widest.dim() else (widest, other)
        if not long.axes.endswith(short.axes):
            return None
        widest = long
    return widest


def _operand(frame: Frame, value: Tensor, template: BlockTensor) -> Tensor | None:
    """An operand in the form of the packed blocks, or ``None`` if it has none."""
    if isinstance(value, BlockTensor):
        same = value.block == template.block and value.size_of_map == template.size_of_map
        return value.packed if same and template.axes.endswith(value.axes) else None
    if value.dim() == 0:
        return value
    rank = template.dim()
    if value.dim() > rank:
        return None
    axes = template.axes[rank - value.dim() :]
    whole = template.shape[rank - value.dim() :]
    over_pixels = over_images = False
    for letter, size, full in zip(axes, value.shape, whole, strict=True):
        if letter == "C" or size == 1:
            continue
        if size != full:
            return None
        over_images = over_images or letter in "NRGQBPMS"
        over_pixels = over_pixels or letter not in "NB"
    if frame.whole or not (over_pixels or over_images):
        return value
    if not over_pixels:
        dim = next(i for i, letter in enumerate(axes) if letter in "NB")
        return rows_of_images(value, dim, template)
    value = value.view((1,) * (rank - value.dim()) + tuple(value.shape))
    if template.axes == MAP and 1 in value.shape[2:] and len(value) == len(template):
        return frame.packed_lines(value, template)
    channels = zip(template.axes, value.shape, template.shape, strict=True)
    value = value.expand([size if letter == "C" else full for letter, size, full in channels])
    return frame.packed_like(value, template)


def rows_of_images(value: Tensor, dim: int, template: BlockTensor) -> Tensor:
    """A dense tensor that is constant over each image, with one row for each packed block.

    Args:
        value: Its dimension ``dim`` has the images, or images and channels.
        dim: The dimension of the images.
        template: The packed blocks.
    """
    value = value.unflatten(dim, (template.frame.images, -1))
    return value.index_select(dim, template.block_layout.image_index).flatten(dim, dim + 1)
