"""The oracle: block-sparse execution as one dense, slow and obvious sentence.

For each op with input x, kept input s and block mask M: ``s <- where(M, x, s)``, then the op runs
on s, and only the executed blocks of its result are used. Nothing here packs, gathers or scatters,
and what is not executed is NaN, so that an op which reads it by mistake shows at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import GridError
from .adapter import ModelAdapter
from .geometry import grid_size, resized_block

aten = torch.ops.aten

# The ops besides pooling and convolution whose results are maps of blocks again. Results of all
# others are dense tensors: nothing of them is masked.
_POINTWISE = (aten.clone.default, aten.detach.default, aten._to_copy.default)
_SLICES = (aten.slice.Tensor,)
_CUTS = (*_SLICES, aten.split.Tensor, aten.split_with_sizes.default)
_BATCH_NORMS = (
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.cudnn_batch_norm.default,
)
_RESIZES = (
    aten.upsample_nearest2d.default,
    aten.upsample_nearest2d.vec,
    aten._upsample_nearest_exact2d.default,
    aten._upsample_nearest_exact2d.vec,
    aten.upsample_bilinear2d.default,
    aten.upsample_bilinear2d.vec,
)


class MaskedReference:
    """Runs a model by the masked sentence, frame after frame.

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
        for modules in (self.adapter.read_only_inputs, self.adapter.dense_inputs):
            for module in modules(self.model):
                hooks.append(
                    module.register_forward_pre_hook(
                        lambda m, a, k: tree_map(run.leave, (a, k)), with_kwargs=True
                    )
                )
        for module in self.adapter.dense_outputs(self.model):
            hooks.append(module.register_forward_hook(lambda m, a, out: tree_map(run.leave, out)))
        try:
            with torch.no_grad():
                block = (self.block_size, self.block_size)
                args, kwargs = call.replace(_MaskedTensor(call.frame, block, run))
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

    def mask(self, size: Sequence[int], block: tuple[int, int]) -> Tensor:
        """Pixels of executed blocks, bool ``(N, 1, H, W)``."""
        rows = torch.arange(size[0]) // block[0]
        cols = torch.arange(size[1]) // block[1]
        return self.grid[:, rows][:, :, cols].unsqueeze(1)

    def merge(self, x: _MaskedTensor, argument: int) -> Tensor:
        """``s <- where(M, x, s)``; returns s."""
        mask = self.mask(x.shape[2:], x.block)
        merged = []
        for image, stream in enumerate(self.streams):
            key = (stream, self.ops, argument)
            new = x.value[image]
            kept = self.reference.kept.get(key, torch.full_like(new, float("nan")))
            self.reference.kept[key] = torch.where(mask[image], new, kept)
            merged.append(self.reference.kept[key])
        return torch.stack(merged)

    def leave(self, value):
        if not isinstance(value, _MaskedTensor):
            return value
        self.ops += 1
        return self.merge(value, 0)

    def execute(self, func, args, kwargs):
        maps = [v for v in tree_leaves((args, kwargs)) if isinstance(v, _MaskedTensor)]
        aligned = len({(*x.block, *x.shape[2:]) for x in maps}) == 1
        pointwise = torch.Tag.pointwise in func.tags or func in _POINTWISE
        writes_dense = func._schema.is_mutable and not isinstance(args[0], _MaskedTensor)
        if pointwise and aligned and not writes_dense:
            return self._pointwise(func, args, kwargs)
        return self._on_kept(func, args, kwargs, maps[0] if aligned else None)

    def _pointwise(self, func, args, kwargs):
        template = next(a for a in args if isinstance(a, _MaskedTensor))
        out = func(*tree_map(_value, list(args)), **kwargs)
        if func._schema.is_mutable:
            args[0].value = out
            return args[0]
        return _MaskedTensor(out, template.block, self)

    def _on_kept(self, func, args, kwargs, template: _MaskedTensor | None):
        """The op on the kept maps; ``template`` is their block, ``None`` if it is not one."""
        self.ops += 1
        inputs = []

        def merge(value):
            if isinstance(value, _MaskedTensor):
                inputs.append(value)
                return self.merge(value, len(inputs))
            return value

        args, kwargs = tree_map(merge, (list(args), dict(kwargs)))
        out = func(*args, **kwargs)
        parts = list(out) if isinstance(out, (tuple, list)) else [out]
        block = None
        if template is not None and parts[0].dim() == 4:
            block = self._block_after(func, args, template, parts[0])
        if block is None or len(parts[0]) != len(self.grid):
            return out
        # Of a split all parts are maps, of batch norm and pooling only the first.
        maps = len(parts) if func in _CUTS else 1
        for i, part in enumerate(parts[:maps]):
            masked = torch.where(self.mask(part.shape[2:], block), part, float("nan"))
            parts[i] = _MaskedTensor(masked, block, self)
        return type(out)(parts) if isinstance(out, (tuple, list)) else parts[0]

    def _block_after(self, func, args, x: _MaskedTensor, out: Tensor) -> tuple[int, int] | None:
        """Block of a result, or ``None`` if the result is a dense tensor from here on."""
        if func in _BATCH_NORMS:
            return x.block
        if func is aten.cat.default or func in _CUTS:
            place = 2 if func in _CUTS and func not in _SLICES else 1
            along = args[place] if len(args) > place else 0
            return x.block if along in (1, -3) else None
        transposed = func is aten.convolution.default and args[6]
        if transposed or func in _RESIZES or func is aten.native_group_norm.default:
            width = [
                resized_block(
                    self.grid.shape[1 + axis],
                    x.block[axis],
                    x.shape[2 + axis],
                    out.shape[2 + axis],
                    self.reference.block_size,
                )
                for axis in (0, 1)
            ]
            return None if None in width else tuple(width)
        if func is aten.convolution.default:
            stride = args[3]
        elif func in (aten.max_pool2d_with_indices.default, aten.avg_pool2d.default):
            stride = args[2] if len(args) > 2 and args[2] else args[1]
        else:
            return None
        block = []
        for axis in (0, 1):
            step = stride[axis] if len(stride) > 1 else stride[0]
            width, rest = divmod(x.block[axis], step)
            if rest or out.shape[2 + axis] > self.grid.shape[1 + axis] * width:
                return None
            block.append(width)
        return tuple(block)


class _MaskedTensor(torch.Tensor):
    """A dense map of which only the executed blocks mean anything."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, value: Tensor, block: tuple[int, int], run: _Run):
        self = torch.Tensor._make_wrapper_subclass(
            cls, value.shape, dtype=value.dtype, device=value.device
        )
        self.value, self.block, self.run = value, block, run
        return self

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __repr__(self, *, tensor_contents=None) -> str:
        return f"_MaskedTensor(shape={tuple(self.shape)}, block={self.block})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        flat = torch.utils._pytree.tree_leaves((args, kwargs or {}))
        run = next(v for v in flat if isinstance(v, _MaskedTensor)).run
        out = func.decompose(*args, **(kwargs or {})) if _is_composite(func) else NotImplemented
        return run.execute(func, args, kwargs or {}) if out is NotImplemented else out


def _is_composite(func: torch._ops.OpOverload) -> bool:
    if "upsample" in func._schema.name:
        # Has a decomposition into index arithmetic, which would hide that it is one op.
        return False
    return func._can_decompose() and torch.Tag.pointwise not in func.tags


def _value(value):
    return value.value if isinstance(value, _MaskedTensor) else value
