"""One frame of the masked reference: the sentence, op by op."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import prod

import torch
from torch import Tensor, nn

from ..tensor.axes_rules import AXES_RULES, View, axes_after
from ..tensor.dense_map import DenseMap, FrameMaps, derived, moves_pixels, plain
from ..torch_internals import (
    is_mutable,
    named_arguments,
    schema_of,
    tree_leaves,
    tree_map,
)
from .masked_attention import ATTENTIONS, axes_by_itself, queries_of
from .masked_blocks import POOLS, RESIZES_AND_NORMS, MaskedBlocks
from .masked_tensor import MaskedTensor, unreadable, value_of
from .pixels import MAP, check_pixels_stay, pixels_of

aten = torch.ops.aten

# Apart from views, sums and joins of channels, these ops return maps of blocks. The results of all
# others are dense tensors: nothing in them is masked.
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
# Torch does not tag them as pointwise.
_POINTWISE = (
    aten.hardswish.default,
    aten.hardswish_.default,
    aten._prelu_kernel.default,
    aten.rrelu_with_noise.default,
    aten.fill_.Scalar,
    aten.fill_.Tensor,
    aten.zero_.default,
    aten.masked_fill_.Scalar,
    aten.masked_fill_.Tensor,
)
# A dense map is cut into blocks for them.
_CUT = (
    aten.convolution.default,
    *POOLS,
    aten.upsample_nearest2d.default,
    aten.upsample_nearest2d.vec,
    aten._upsample_nearest_exact2d.default,
    aten._upsample_nearest_exact2d.vec,
    aten.upsample_bilinear2d.default,
    aten.upsample_bilinear2d.vec,
    aten.im2col.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.conv2d.default,
    aten.max_pool2d.default,
)
_OF_GROUPS = (aten.convolution.default, *POOLS, *RESIZES_AND_NORMS)


class MaskedFrame:
    """One frame: numbers its ops and merges maps with the kept ones.

    Args:
        kept: Values by stream, number of the op in the frame, and of its argument.
        grid: bool ``(N, GH, GW)``, True = executed.
        streams: Stream of each image.
        block_size: Side of a block in pixels of the input.
        repack: Cut a dense map into blocks again before an op that can run on blocks.

    Attributes:
        of_tokens: Its maps are one row of tokens.
    """

    of_tokens = False

    def __init__(
        self,
        kept: dict[tuple[Hashable, int, int], Tensor],
        grid: Tensor,
        streams: Sequence[Hashable],
        block_size: int,
        repack: bool,
    ) -> None:
        self.kept = kept
        self.repack = repack
        self.grid = grid
        self.streams = streams
        self.blocks = MaskedBlocks(tuple(grid.shape[1:]), block_size)
        self.maps = FrameMaps(len(grid), self.cut, _is_cut)
        self.ops = 0
        self.whole_map_inputs = []
        self.tokens = {}

    def mask(self, size: Sequence[int], block: tuple[int, int]) -> Tensor:
        """Pixels of executed blocks, bool ``(N, 1, H, W)``."""
        # Pixels beyond the last block belong to it.
        rows = (torch.arange(size[0]) // block[0]).clamp(max=self.grid.shape[1] - 1)
        cols = (torch.arange(size[1]) // block[1]).clamp(max=self.grid.shape[2] - 1)
        return self.grid[:, rows][:, :, cols].unsqueeze(1)

    def pixel_numbers(self, axes: str, shape: Sequence[int], size, joined: int = 1) -> Tensor:
        """The pixel of each element, see :func:`~.pixels.pixels_of`."""
        return pixels_of(axes, shape, len(self.grid), size, joined)

    def executed(self, axes: str, shape: Sequence[int], size, block, joined: int) -> Tensor:
        """Elements of executed blocks, bool; of a map ``(N, 1, H, W)``."""
        mask = self.mask(size, block)
        return (
            mask if axes == MAP else mask.flatten()[self.pixel_numbers(axes, shape, size, joined)]
        )

    def merge(self, x: MaskedTensor, argument: int) -> Tensor:
        """``s <- where(M, x, s)``; returns s."""
        if x.padded:  # made of a kept map already
            return x.value
        executed = self.executed(x.axes, x.shape, x.size_of_map, x.block, x.joined)
        owners = range(len(self.grid))
        if x.axes != MAP:
            pixels = self.pixel_numbers(x.axes, x.shape, x.size_of_map, x.joined)
            owners = [pixels // prod(x.size_of_map) == image for image in owners]
        merged = torch.empty_like(x.value)  # as it lay in memory: views depend on that
        for own, stream in zip(owners, self.streams, strict=True):
            key, new = (stream, self.ops, argument), x.value[own]
            kept = self.kept.get(key)
            if kept is None:
                kept = unreadable(new)
            self.kept[key] = merged[own] = torch.where(executed[own], new, kept)
        return merged

    def cut(self, map_: Tensor, block: tuple[int, int]) -> MaskedTensor:
        """A dense map as a map of blocks again."""
        masked = self._masked(map_, block)
        masked.source = map_
        return masked

    def as_windows(self, func, kept, kwargs, x: MaskedTensor, out):
        """A map whose pixels have moved, or its windows; ``None`` if it is neither."""
        return None

    def needs_all(self, func, brought) -> bool:
        """Whether an op needs all windows, because of the dense maps among its arguments."""
        return False

    def derived(self, out, func, args):
        """Results of an op on whole maps, which may become maps of blocks again."""
        maps = [v for v in tree_leaves(args) if isinstance(v, MaskedTensor)]
        on_their_side = any("H" in x.axes.partition("W")[2] for x in maps)
        if not self.repack or on_their_side or moves_pixels(func, args, self.maps):
            return out
        return derived(out, self.maps)

    def leave(self, value):
        """The kept map, dense, for what does not run on blocks."""
        if not isinstance(value, MaskedTensor):
            return plain(value)
        value.run.ops += 1
        return value.run.merge(value, 0).clone()

    def go_dense(self, module, args, kwargs):
        """Give whole maps to a module that needs them."""
        values = tree_leaves((args, kwargs))
        maps = [v for v in values if isinstance(v, MaskedTensor)]
        if not maps and isinstance(module, nn.InstanceNorm2d):
            # It is made of ops that know dense maps.
            self.whole_map_inputs.append([])
            return None
        if not maps:
            found = [self.maps.geometry(v.shape) for v in values if type(v) is DenseMap]
            maps = [geometry for geometry in found if geometry is not None]
        self.whole_map_inputs.append(maps)
        return tree_map(self.leave, (args, kwargs))

    def come_back(self, module, args, output):
        """Make the map that such a module returns a map of blocks again."""
        return self.masked_again(output, self.whole_map_inputs.pop())

    def masked_again(self, output, maps):
        """A dense map that was computed from maps of blocks, as a map of blocks."""
        first = plain(output[0] if isinstance(output, (tuple, list)) else output)
        if (
            not maps
            or type(first) is not Tensor
            or first.dim() != 4
            or len(first) != len(self.grid)
        ):
            return output
        block = self.blocks.resized(maps[0], first.shape[2:])
        if block is None:
            return output
        masked = self._masked(first, block)
        return type(output)([masked, *output[1:]]) if isinstance(output, (tuple, list)) else masked

    def execute(self, func, args, kwargs):
        """Run an op with masked tensors among its arguments."""
        if func is aten.grid_sampler_2d.default:
            found = self.sampled(func, args)
            if found is not None:
                return found
        maps = [v for v in tree_leaves((args, kwargs)) if isinstance(v, MaskedTensor)]
        aligned = len({(*x.block, *x.size_of_map) for x in maps}) == 1
        if aligned and not any(x.padded for x in maps):
            out = self._on_pixels(func, args, kwargs, maps)
            if out is not None:
                return out
        if func is aten.baddbmm.default and not kwargs:
            return args[0] + aten.bmm.default(*args[1:])
        queries = queries_of(func, args, kwargs)
        if queries is not None:
            return self._of_queries(func, args, kwargs, queries)
        return self._on_kept(func, args, kwargs, maps[0] if aligned else None)

    def _on_pixels(self, func, args, kwargs, maps):
        """Run an op that leaves pixels where they are: it needs no kept map."""
        template = max(maps, key=lambda x: x.dim())
        axes, reading, joined = None, None, template.joined
        block, size_of_map = template.block, template.size_of_map
        if (torch.Tag.pointwise in func.tags or func in _POINTWISE) or func in _COPIES:
            writes_dense = is_mutable(func) and not isinstance(args[0], MaskedTensor)
            if not writes_dense and all(template.axes.endswith(x.axes) for x in maps):
                axes = template.axes
        elif func is aten.constant_pad_nd.default:
            size = self.blocks.of_pad(args[1], template, tuple(template.shape))
            axes, size_of_map = (None, size_of_map) if size is None else (template.axes, size)
        elif func in _PADS and not any(args[1]):
            axes = template.axes
        elif func is aten.roll.default and set(template.axes[d] for d in (*args, ())[2]) == {"C"}:
            axes = template.axes
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
        elif func is aten.convolution.default and template.axes not in (MAP, "BCHW"):
            of_each = template.axes[:2] in ("NC", "BC") and args[0] is template and not args[6]
            if of_each and set(args[1].shape[2:]) == set(args[3]) == {1} and not any(args[4]):
                axes = template.axes
        elif func in _BATCH_NORMS:
            given = named_arguments(func, args, kwargs)
            training = given.get("training", given.get("train", False))
            axes = template.axes if template.axes[1] == "C" and not training else None
        elif func is aten.mm.default or func is aten.addmm.default:
            place = len(args) - 2
            pixels = template.axes in ("RC", "QC", "PC", "SC")
            if args[place] is template and pixels and len(maps) == 1:
                axes = template.axes
        elif func is aten.bmm.default or func in ATTENTIONS:
            axes = axes_by_itself(func, args, kwargs, maps)
        elif func in AXES_RULES and args[0] is template and len(maps) == 1:
            shape = tuple(template.shape)
            size = template.size_of_map
            given = (template.axes, shape, len(self.grid), size, template.joined)
            view = View(*given, of_tokens=self.of_tokens)
            reading = axes_after(func, view, args, kwargs)
            if reading is not None:
                axes, joined, size_of_map = reading
                if size_of_map != template.size_of_map:
                    block = self.blocks.scaled(template, size_of_map)
                    axes = None if block is None else axes
        if axes is None:
            return None
        plain_args, plain_kwargs = tree_map(value_of, (list(args), dict(kwargs)))
        out = func(*plain_args, **plain_kwargs)
        if reading is not None:
            parts = [out] if isinstance(out, Tensor) else out
            self._check_pixels(func, plain_args, plain_kwargs, template, parts, reading)
        written = schema_of(func).arguments[0].alias_info
        if written is not None and written.is_write:
            args[0].value = out
            return args[0]

        def wrap(part):
            shown = axes[:-1] if func in ATTENTIONS and part.dim() < len(axes) else axes
            return MaskedTensor(part, block, self, shown, size_of_map, joined)

        if func in _BATCH_NORMS:  # and its statistics, which are not read
            return wrap(out[0]), *out[1:]
        return wrap(out) if isinstance(out, Tensor) else [wrap(part) for part in out]

    def _check_pixels(self, func, args, kwargs, template: MaskedTensor, parts, reading) -> None:
        """Compare the engine's rule for an op with what the op does."""
        axes, joined, size = reading
        old, images = template.size_of_map, len(self.grid)
        changed = torch.rand(images, *old, generator=torch.Generator().manual_seed(0)) < 0.5
        cells = changed  # in pixels of the results: several become one, or one becomes several
        for dim, (n, m) in enumerate(zip(old, size, strict=True), 1):
            cells = cells.repeat_interleave(max(m // n, 1), dim)
            cells = cells.unflatten(dim, (m, max(n // m, 1))).any(dim + 1)
        cells = cells.flatten()
        before = self.pixel_numbers(template.axes, template.shape, old, template.joined)
        may = [cells[self.pixel_numbers(axes, part.shape, size, joined)] for part in parts]
        check_pixels_stay(func, args, kwargs, changed.flatten()[before], parts, may)

    def _on_kept(self, func, args, kwargs, template: MaskedTensor | None):
        """Run the op on the kept maps; ``template`` has their block, ``None`` if they differ."""
        self.ops += 1
        inputs = []

        def merge(value):
            if isinstance(value, MaskedTensor):
                inputs.append(value)
                return self.merge(value, len(inputs))
            return value

        kept, kept_kwargs = tree_map(merge, (list(args), dict(kwargs)))
        out = func(*kept, **kept_kwargs)
        if template is not None and args[0] is template:
            found = self._as_blocks(func, kept, template, out)
            if found is None:
                found = self.as_windows(func, kept, kept_kwargs, template, out)
            if found is not None:
                return found
        if any(x.source is not None for x in inputs):
            # It was cut into blocks for nothing: the op runs on the dense map.
            out = func(*tree_map(self._before, args), **tree_map(self._before, kwargs))
        alias, x = schema_of(func).arguments[0].alias_info, args[0]
        if alias is not None and alias.is_write and isinstance(x, MaskedTensor):
            x.value = self._masked(kept[0], x.block, x.axes, x.size_of_map, x.joined).value
            return x
        return out if is_mutable(func) else self.derived(out, func, args)

    def _of_queries(self, func, args, kwargs, queries: MaskedTensor):
        """Run an op in which each query reads all pixels; only executed queries are used."""
        self.ops += 1

        def merge(value):
            return self.merge(value, 1 + maps.index(id(value))) if id(value) in maps else value

        maps = [id(v) for v in tree_leaves((args, kwargs)) if isinstance(v, MaskedTensor)]
        out = func(*tree_map(merge, list(args)), **tree_map(merge, dict(kwargs)))
        value = out if isinstance(out, Tensor) else out[0]
        masked = self._masked(
            value, queries.block, queries.axes, queries.size_of_map, queries.joined
        )
        return masked if value is out else (masked, *out[1:])

    def sampled(self, func, args):
        """Values of a kept map at places of pixels; ``None`` if the places are not pixels'."""
        values, places, *how = args
        axes = getattr(places, "axes", None)
        if axes not in ("NLCC", "BLCC", "NHWC") or places.padded or places.places is not None:
            return None
        if getattr(values, "padded", False):
            return None
        self.ops += 1
        merged = [
            x.run.merge(x, i) if isinstance(x, MaskedTensor) else x
            for i, x in enumerate((values, places), 1)
        ]
        out = func(*merged, *how)
        shown = axes[0] + "C" + axes[1:3]
        size = places.size_of_map
        return places.run._masked(out, places.block, shown, size, places.joined)

    def _before(self, value):
        if not isinstance(value, MaskedTensor):
            return value
        return self.leave(value) if value.source is None else value.source

    def _as_blocks(self, func, args, template: MaskedTensor, out):
        """An op's result as maps of blocks, ``None`` if it is dense."""
        if func is aten.slice.Tensor:
            found = self.blocks.of_slice(args, template, out.shape[args[1]])
            if found is None:
                return None
            block, size = found
            return self._masked(out, block, template.axes, size, template.joined)
        if func is aten.roll.default:
            fits = self.blocks.holds_roll(args, template)
            size, joined = template.size_of_map, template.joined
            return self._masked(out, template.block, template.axes, size, joined) if fits else None
        if func is aten.native_group_norm.default and template.axes.startswith("NC"):
            size = template.size_of_map
            return self._masked(out[0], template.block, template.axes, size), *out[1:]
        groups = template.joined
        # Images may be groups of channels, too: the op is then a grouped one.
        if template.axes not in (MAP, "BCHW") or (groups > 1 and func not in _OF_GROUPS):
            return None
        if func is aten.im2col.default:
            found = self.blocks.of_patches(args, template)
            return None if found is None else self._masked(out, found[0], "NCL", found[1])
        parts = list(out) if isinstance(out, (tuple, list)) else [out]
        if parts[0].dim() != 4 or len(parts[0]) != groups * len(self.grid):
            return None
        if func in _PADS and not template.padded and parts[0].shape[1] == template.shape[1]:
            return MaskedTensor(
                parts[0], template.block, self, MAP, parts[0].shape[2:], padded=True
            )
        block = self.blocks.after(func, args, template, parts[0].shape[2:])
        if block is None:
            return None
        parts[0] = self._masked(parts[0], block, template.axes, joined=groups)
        return type(out)(parts) if isinstance(out, (tuple, list)) else parts[0]

    def _masked(
        self, value: Tensor, block: tuple[int, int], axes: str = MAP, size=None, joined: int = 1
    ) -> MaskedTensor:
        """A map of blocks of ``value``: everything but the executed blocks becomes unreadable."""
        size = tuple(value.shape[2:]) if size is None else size
        executed = self.executed(axes, value.shape, size, block, joined)
        value = torch.where(executed, value, unreadable(value))
        return MaskedTensor(value, block, self, axes, size, joined)


def _is_cut(func, args) -> bool:
    return func in _CUT or (func in _PADS and any(args[1][:4]))


def _shape_of(func, args, kwargs) -> torch.Size:
    return func(args[0].value, *args[1:], **kwargs).shape
