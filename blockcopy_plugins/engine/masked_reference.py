"""The oracle: block-sparse execution as one dense, slow and obvious sentence.

For each op with input x, kept input s and block mask M: ``s <- where(M, x, s)``, then the op runs
on s, and only the executed blocks of its result are used. Nothing here packs, gathers or scatters,
and what is not executed is NaN, so that an op which reads it by mistake shows at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import GridError
from .adapter import ModelAdapter, whole_map_modules
from .axes import CHANNEL_OPS, MAP, View, axes_after, channels_of, from_map, is_pointwise, to_map
from .composite import take_apart
from .geometry import fits_blocks, grid_size, resized_block

aten = torch.ops.aten

# Of all ops that are no views, sums or joins of channels, the results of these are maps of blocks
# again. Results of all others are dense tensors: nothing of them is masked.
_COPIES = (
    aten.clone.default,
    aten.detach.default,
    aten.alias.default,
    aten._to_copy.default,
    aten.copy_.default,
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.empty_like.default,
)
_JOINS = (aten.cat.default, aten.stack.default)
_BATCH_NORMS = (
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.cudnn_batch_norm.default,
)
_PADS = (
    aten.constant_pad_nd.default,
    aten.reflection_pad2d.default,
    aten.replication_pad2d.default,
)
_POOLS = (aten.max_pool2d_with_indices.default, aten.avg_pool2d.default)
_WHOLE_MAPS = (
    aten.upsample_nearest2d.default,
    aten.upsample_nearest2d.vec,
    aten._upsample_nearest_exact2d.default,
    aten._upsample_nearest_exact2d.vec,
    aten.upsample_bilinear2d.default,
    aten.upsample_bilinear2d.vec,
    aten.upsample_bicubic2d.default,
    aten.upsample_bicubic2d.vec,
    aten._upsample_bilinear2d_aa.default,
    aten._upsample_bilinear2d_aa.vec,
    aten._upsample_bicubic2d_aa.default,
    aten._upsample_bicubic2d_aa.vec,
    aten.native_group_norm.default,
)


class MaskedReference:
    """Runs a model by the masked sentence, frame after frame.

    For models that do not write in place through views of pixels (``x[:, :, 3] = 0``): here such a
    view is a copy.

    Args:
        model: A module in eval mode, not converted.
        block_size: Side of a block in pixels of the input.
        adapter: How the model is called; see :class:`~.adapter.ModelAdapter`.

    Examples:
        >>> reference = MaskedReference(model, block_size=32)
        >>> first = reference(torch.ones(1, 4, 4, dtype=torch.bool), frame_0)
        >>> second = reference(grid, frame_1)
    """

    def __init__(
        self, model: nn.Module, block_size: int, adapter: ModelAdapter | None = None
    ) -> None:
        self.model = model
        self.block_size = block_size
        self.adapter = adapter or ModelAdapter()
        # (stream, number of the op in the frame, number of the argument) -> (C, H, W)
        self.kept: dict[tuple[Hashable, int, int], Tensor] = {}

    def __call__(self, grid: Tensor, *args, streams: Sequence[Hashable] | None = None, **kwargs):
        """Run one frame.

        Args:
            grid: bool ``(N, GH, GW)``, True = executed. All True on a stream's first frame.
            *args: Arguments of the model.
            streams: Stream of each image, by default its place in the batch.
            **kwargs: Keyword arguments of the model.

        Returns:
            What the model returns, with dense tensors.

        Raises:
            GridError: If the grid does not fit the frame.
        """
        call = self.adapter.read_call(args, kwargs)
        size = tuple(call.frame.shape[2:])
        expected = (len(call.frame), *grid_size(*size, self.block_size))
        if tuple(grid.shape) != expected or grid.dtype != torch.bool:
            raise GridError(f"grid is {grid.dtype} {tuple(grid.shape)}, expected bool {expected}.")
        streams = tuple(range(len(call.frame))) if streams is None else tuple(streams)
        run = _Run(self, grid, streams)
        hooks = []
        for module in self.adapter.read_only_inputs(self.model):
            hook = module.register_forward_pre_hook(
                lambda m, a, k: tree_map(run.leave, (a, k)), with_kwargs=True
            )
            hooks.append(hook)
        for module, _ in whole_map_modules(self.model, self.adapter):
            hooks.append(module.register_forward_pre_hook(run.go_dense, with_kwargs=True))
            hooks.append(module.register_forward_hook(run.come_back))
        for module in self.adapter.dense_outputs(self.model):
            hooks.append(module.register_forward_hook(lambda m, a, out: tree_map(run.leave, out)))
        try:
            with torch.no_grad():
                block = (self.block_size, self.block_size)
                args, kwargs = call.replace(_MaskedTensor(call.frame, block, run, MAP, size))
                return tree_map(run.leave, self.model(*args, **kwargs))
        finally:
            for hook in hooks:
                hook.remove()


class _Run:
    """One frame: numbers its ops and merges maps with what was kept."""

    def __init__(self, reference: MaskedReference, grid: Tensor, streams) -> None:
        self.reference = reference
        self.grid = grid
        self.streams = streams
        self.ops = 0
        self.at_work = []

    def mask(self, size: Sequence[int], block: tuple[int, int]) -> Tensor:
        """Pixels of executed blocks, bool ``(N, 1, H, W)``."""
        # What lies beyond the last block belongs to it.
        rows = (torch.arange(size[0]) // block[0]).clamp(max=self.grid.shape[1] - 1)
        cols = (torch.arange(size[1]) // block[1]).clamp(max=self.grid.shape[2] - 1)
        return self.grid[:, rows][:, :, cols].unsqueeze(1)

    def merge(self, x: _MaskedTensor, argument: int) -> Tensor:
        """``s <- where(M, x, s)``; returns s."""
        if x.padded:  # made of a kept map already
            return x.value
        new = to_map(x.value, x.axes, len(self.grid), x.size_of_map)
        mask = self.mask(x.size_of_map, x.block)
        merged = []
        for image, stream in enumerate(self.streams):
            key = (stream, self.ops, argument)
            kept = self.reference.kept.get(key)
            if kept is None:
                kept = _nothing(new[image])
            self.reference.kept[key] = torch.where(mask[image], new[image], kept)
            merged.append(self.reference.kept[key])
        kept = from_map(torch.stack(merged), x.axes, channels_of(x.axes, x.shape))
        return torch.empty_like(x.value).copy_(kept)  # as it lay in memory: views depend on that

    def leave(self, value):
        if not isinstance(value, _MaskedTensor):
            return value
        self.ops += 1
        return self.merge(value, 0).clone()

    def go_dense(self, module, args, kwargs):
        """A module that needs whole maps gets them."""
        maps = [v for v in tree_leaves((args, kwargs)) if isinstance(v, _MaskedTensor)]
        self.at_work.append(maps)
        return tree_map(self.leave, (args, kwargs))

    def come_back(self, module, args, output):
        """The map that such a module gives is a map of blocks again."""
        return self.masked_again(output, self.at_work.pop())

    def masked_again(self, output, maps):
        """A dense map made of some maps of blocks, as a map of blocks."""
        first = output[0] if isinstance(output, (tuple, list)) else output
        if (
            not maps
            or type(first) is not Tensor
            or first.dim() != 4
            or len(first) != len(self.grid)
        ):
            return output
        block = self._resized(maps[0], first)
        if block is None:
            return output
        masked = self._masked(first, block)
        return type(output)([masked, *output[1:]]) if output is not first else masked

    def execute(self, func, args, kwargs):
        maps = [v for v in tree_leaves((args, kwargs)) if isinstance(v, _MaskedTensor)]
        aligned = len({(*x.block, *x.size_of_map) for x in maps}) == 1
        if aligned and not any(x.padded for x in maps):
            out = self._on_pixels(func, args, kwargs, maps)
            if out is not None:
                return out
        return self._on_kept(func, args, kwargs, maps[0] if aligned else None)

    def _on_pixels(self, func, args, kwargs, maps):
        """An op that leaves pixels where they are needs no kept map."""
        template = max(maps, key=lambda x: x.dim())
        axes = None
        if is_pointwise(func) or func in _COPIES:
            writes_dense = func._schema.is_mutable and not isinstance(args[0], _MaskedTensor)
            if not writes_dense and all(template.axes.endswith(x.axes) for x in maps):
                axes = template.axes
        elif func is aten.constant_pad_nd.default and not any(args[1][:4]):
            axes = MAP if template.axes == MAP and not any(args[1][6:]) else None
        elif func is aten.slice.Tensor and args[0].shape == _shape_of(func, args, kwargs):
            axes = template.axes
        elif func in _JOINS:
            if len(args[0]) == 1:
                axes = template.axes
            dim = (args[1] if len(args) > 1 else 0) % (template.dim() + (func is _JOINS[1]))
            alike = all(x.axes == template.axes for x in maps)
            if alike and func is aten.stack.default:
                axes = template.axes[:dim] + "C" + template.axes[dim:]
            elif alike and template.axes[dim] == "C":
                axes = template.axes
        elif func is aten.mm.default or func is aten.addmm.default:
            place = len(args) - 2
            if args[place] is template and template.axes == "RC" and len(maps) == 1:
                axes = "RC"
        elif func is aten.bmm.default:
            # Pixels times a matrix: one for each image, or one for all.
            one = args[1].dim() == 3 and (args[1].stride(0) == 0 or len(args[1]) == 1)
            if args[0] is template and len(maps) == 1:
                axes = template.axes if template.axes == "NLC" or one else None
                axes = axes if axes in ("NLC", "GWC") else None
            elif len(maps) == 1 and template.axes == "NCL":
                axes = "NCL"
        elif func in CHANNEL_OPS and args[0] is template and len(maps) == 1:
            view = View(template.axes, tuple(template.shape), len(self.grid), template.size_of_map)
            axes = axes_after(func, view, args, kwargs)
        if axes is None:
            return None
        out = func(*tree_map(_value, list(args)), **tree_map(_value, dict(kwargs)))
        written = func._schema.arguments[0].alias_info
        if written is not None and written.is_write:
            args[0].value = out
            return args[0]

        def wrap(part):
            return _MaskedTensor(part, template.block, self, axes, template.size_of_map)

        return wrap(out) if isinstance(out, Tensor) else [wrap(part) for part in out]

    def _on_kept(self, func, args, kwargs, template: _MaskedTensor | None):
        """The op on the kept maps; ``template`` is their block, ``None`` if it is not one."""
        self.ops += 1
        inputs = []

        def merge(value):
            if isinstance(value, _MaskedTensor):
                inputs.append(value)
                return self.merge(value, len(inputs))
            return value

        given = args
        args, kwargs = tree_map(merge, (list(args), dict(kwargs)))
        out = func(*args, **kwargs)
        if template is None or template.axes != MAP or given[0] is not template:
            return out
        if func is aten.im2col.default:
            return self._patches(template, args, out)
        parts = list(out) if isinstance(out, (tuple, list)) else [out]
        if parts[0].dim() != 4 or len(parts[0]) != len(self.grid):
            return out
        if func in _PADS and not template.padded and parts[0].shape[1] == template.shape[1]:
            padded = _MaskedTensor(parts[0], template.block, self, MAP, parts[0].shape[2:])
            padded.padded = True
            return padded
        block = self._block_after(func, args, template, parts[0])
        if block is None:
            return out
        parts[0] = self._masked(parts[0], block)
        return type(out)(parts) if isinstance(out, (tuple, list)) else parts[0]

    def _masked(self, map_: Tensor, block: tuple[int, int]) -> _MaskedTensor:
        """Only executed blocks are used: whatever stands elsewhere is made useless."""
        mask = self.mask(map_.shape[2:], block)
        map_ = torch.where(mask, map_, _nothing(map_))
        return _MaskedTensor(map_, block, self, MAP, tuple(map_.shape[2:]))

    def _patches(self, x: _MaskedTensor, args, out: Tensor):
        kernel, dilation, padding, stride = (tuple(a) for a in args[1:])
        size = tuple(s // k for s, k in zip(x.size_of_map, kernel, strict=True))
        block = tuple(b // k for b, k in zip(x.block, kernel, strict=True))
        apart = kernel == stride and not any(padding) and set(dilation) == {1}
        divides = all(b % k == 0 for b, k in zip(x.block, kernel, strict=True))
        if x.padded:
            fits = fits_blocks(tuple(self.grid.shape[1:]), size, block)
        else:
            fits = self._same_blocks(x, size, block)
        if not apart or not divides or not fits:
            return out
        return _MaskedTensor(out, block, self, "NCL", size)

    def _block_after(self, func, args, x: _MaskedTensor, out: Tensor) -> tuple[int, int] | None:
        """Block of a result, or ``None`` if the result is a dense tensor from here on."""
        size = out.shape[2:]
        if func in _BATCH_NORMS:
            return x.block
        if func in (aten.pixel_shuffle.default, aten.pixel_unshuffle.default):
            times = Fraction(size[0], x.size_of_map[0])
            block = tuple(b * times for b in x.block)
            whole = all(b.denominator == 1 for b in block)
            return tuple(map(int, block)) if whole and self._same_blocks(x, size, block) else None
        if func is aten.slice.Tensor:
            return self._block_of_slice(args, x, size)
        if func is aten.convolution.default and args[6]:
            stride = args[3]
            block = tuple(
                x.block[i] * (stride[i] if len(stride) > 1 else stride[0]) for i in (0, 1)
            )
            if not x.padded and fits_blocks(tuple(self.grid.shape[1:]), size, block):
                return block
        if func in _WHOLE_MAPS or (func is aten.convolution.default and args[6]):
            return None if x.padded else self._resized(x, out)
        if func is aten.convolution.default:
            stride = args[3]
        elif func in _POOLS:
            stride = args[2] if len(args) > 2 and args[2] else args[1]
        else:
            return None
        block = []
        for axis in (0, 1):
            step = stride[axis] if len(stride) > 1 else stride[0]
            width, rest = divmod(x.block[axis], step)
            if rest:
                return None
            block.append(width)
        return tuple(block) if fits_blocks(tuple(self.grid.shape[1:]), size, block) else None

    def _block_of_slice(self, args, x: _MaskedTensor, size) -> tuple[int, int] | None:
        _, dim, start, _, step = (*args, *(0, 0, None, 1)[len(args) - 1 :])
        axis = dim % 4 - 2
        if axis < 0:
            return None
        step = step or 1
        first = (start or 0) % x.size_of_map[axis]
        block = list(x.block)
        block[axis] //= step
        fits = x.block[axis] % step == 0 and first < step and self._same_blocks(x, size, block)
        return tuple(block) if fits else None

    def _same_blocks(self, x: _MaskedTensor, size: Sequence[int], block: Sequence[int]) -> bool:
        """Whether a map of this size has as many blocks as ``x``."""

        def count(size, block):
            return [
                max(n, -(-s // b)) for n, s, b in zip(self.grid.shape[1:], size, block, strict=True)
            ]

        return min(size) > 0 and count(size, block) == count(x.size_of_map, x.block)

    def _resized(self, x: _MaskedTensor, out: Tensor) -> tuple[int, int] | None:
        width = [
            resized_block(
                self.grid.shape[1 + axis],
                x.block[axis],
                x.size_of_map[axis],
                out.shape[2 + axis],
                self.reference.block_size,
            )
            for axis in (0, 1)
        ]
        return None if None in width else tuple(width)


class _MaskedTensor(torch.Tensor):
    """A dense map of which only the executed blocks mean anything."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, value: Tensor, block, run: _Run, axes: str, size: Sequence[int]):
        self = torch.Tensor._make_wrapper_subclass(
            cls, value.shape, strides=value.stride(), dtype=value.dtype, device=value.device
        )
        self.value, self.block, self.run = value, tuple(block), run
        self.axes, self.size_of_map, self.padded = axes, tuple(size), False
        return self

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __repr__(self, *, tensor_contents=None) -> str:
        return f"_MaskedTensor(shape={tuple(self.shape)}, axes={self.axes}, block={self.block})"

    def call_whole(self, function, args, name, reason, gives_map):
        """A function that knows no blocks, on the kept maps."""
        maps = [v for v in tree_leaves(args) if isinstance(v, _MaskedTensor)]
        out = function(*tree_map(self.run.leave, args))
        return self.run.masked_again(out, maps) if gives_map else out

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        flat = torch.utils._pytree.tree_leaves((args, kwargs or {}))
        run = next(v for v in flat if isinstance(v, _MaskedTensor)).run
        # Some are element-wise by their tag: they are one op.
        composite = torch.Tag.pointwise not in func.tags
        out = take_apart(func, args, kwargs or {}) if composite else NotImplemented
        return run.execute(func, args, kwargs or {}) if out is NotImplemented else out


def _nothing(like: Tensor) -> Tensor:
    """What must not be read: NaN where the dtype has it."""
    return torch.full_like(like, float("nan") if like.is_floating_point() else 0)


def _shape_of(func, args, kwargs) -> torch.Size:
    return func(args[0].value, *args[1:], **kwargs).shape


def _value(value):
    return value.value if isinstance(value, _MaskedTensor) else value
