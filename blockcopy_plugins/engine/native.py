"""Convolutions by the package's own CPU kernels: no halo copies, no im2col, one pass for all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .. import ops
from ..ops.block_conv import SlidingWindow
from ..ops.window import through
from .block_tensor import BlockTensor
from .deferred import ConvCall, Deferred
from .dense_on_use import PaddedMap
from .state import EVERYTHING

if TYPE_CHECKING:
    from .frame import Frame

_WINOGRAD_TILE = 4
_WINOGRAD_CHANNELS = 16
# A tile that the block's edge cuts costs as much as a whole one.
_WINOGRAD_WASTE = 1.5


@dataclass
class _Prepared:
    weight: Tensor
    version: int
    memory: int
    packed: Tensor


@dataclass
class NativeConvolutions:
    """What native convolutions keep between frames: weights in their layout, scratch memory.

    Args:
        fuse: Let a convolution wait for the batch norm, addition and activation behind it.
        winograd: Run 3x3 convolutions of stride 1 by Winograd's algorithm.
        kernels: One of :func:`blockcopy_plugins.ops.conv_kernels`.
    """

    fuse: bool
    winograd: bool
    kernels: str
    _workspace: Tensor = field(default_factory=lambda: _bytes(0))
    _prepared: dict[tuple[int, bool], _Prepared] = field(default_factory=dict)
    # Places in the model whose sums are read as they are too: they do not wait.
    _eager: set[str] = field(default_factory=set)

    def __deepcopy__(self, memo) -> NativeConvolutions:
        # Weights are known by their identity, and those of a copied model are others.
        return NativeConvolutions(self.fuse, self.winograd, self.kernels)

    def __reduce__(self):
        return NativeConvolutions, (self.fuse, self.winograd, self.kernels)

    @staticmethod
    def make(fuse: bool, winograd: bool) -> NativeConvolutions | None:
        """For the best kernels of this processor, ``None`` where there are none."""
        found = ops.conv_kernels()
        return NativeConvolutions(fuse, winograd, found[0]) if found else None

    def clear(self) -> None:
        """Give back weights and scratch memory."""
        self._prepared.clear()
        self._workspace = _bytes(0)

    def bytes(self) -> int:
        """Memory of prepared weights and scratch, in bytes."""
        return self._workspace.numel() + sum(p.packed.numel() for p in self._prepared.values())

    def takes(self, x: Tensor, weight: Tensor, groups: int) -> bool:
        """Whether a convolution can run here; if not, torch's does.

        Weights must be parameters: what is computed anew in each frame is not worth preparing.
        """
        dtype = weight.dtype
        if (
            groups != 1
            or dtype != x.dtype
            or weight.device.type != "cpu"
            or x.device.type != "cpu"
            or not isinstance(weight, nn.Parameter)
            or weight.is_inference()
            or torch.is_autocast_enabled("cpu")
        ):
            return False
        if dtype == torch.bfloat16:
            # Tiles of AMX, which oneDNN uses, are faster than vectors.
            return weight.shape[1] % 2 == 0 and not _has_amx()
        return dtype == torch.float32

    def convolution(
        self,
        frame: Frame,
        x: BlockTensor,
        weight: Tensor,
        bias: Tensor | None,
        window: SlidingWindow,
        size_out: tuple[int, int],
        local: bool,
        op: str,
    ) -> BlockTensor:
        """Convolve, or have it wait.

        Args:
            frame: The frame at work.
            x: ``(N, C, H, W)``.
            weight: ``(C_out, C, kh, kw)``, taken by :meth:`takes`.
            bias: ``(C_out,)`` or None.
            window: Shape of the op.
            size_out: ``(H, W)`` of the result.
            local: Blocks read nothing but themselves.
            op: Name for the state's key.

        Returns:
            ``(N, C_out, *size_out)``.
        """
        block = size_out if frame.whole else window.block_out
        source, fresh, places, rows, cols = self._inputs(frame, x, window, size_out, local, op)
        winograd = not local and self._by_winograd(weight, window, block)
        prepared = self._prepare(weight, winograd)
        stride, dilation, workspace = window.stride, window.dilation, self._workspace

        path = frame.path

        def run(deferred: Deferred) -> Tensor:
            frame.enter(path)  # for who counts what runs where
            out = ops.conv_blocks(
                source,
                fresh,
                places,
                rows,
                cols,
                weight,
                prepared,
                bias,
                deferred.norm,
                deferred.eps,
                stride,
                dilation,
                block,
                deferred.residual,
                deferred.low,
                deferred.high,
                workspace,
            )
            frame.leave(path)
            return out

        deferred = Deferred(ConvCall(run, lambda: self._eager.add(path)))
        if not self.fuse or path in self._eager:
            return BlockTensor(deferred.compute(), size_out, window.block_out, frame)
        return BlockTensor.waiting(deferred, x, weight.shape[0], size_out, window.block_out)

    def _inputs(self, frame: Frame, x: BlockTensor, window, size_out, local: bool, op: str):
        """Where the inputs lie: map, fresh blocks, their places, and the windows' tables."""
        if local:
            return x.packed, None, None, None, None
        padded = isinstance(x, PaddedMap)
        layout = frame.layout(size_out, window.block_out)
        # Whole frames decide as later ones will.
        near = not padded and x.layout is layout and frame.covers(x)
        border = _border(x, window) if near else EVERYTHING
        if frame.whole:
            if not padded:  # whose map is kept already
                frame.keep(x, op, border)
            shape = SlidingWindow(
                window.kernel, window.stride, window.padding, window.dilation, size_out
            )
            rows, cols = frame.tables(
                ("whole", shape),
                x.size_of_map,
                size_out,
                lambda axis, size, _: shape.contiguous_table(axis, 1, size),
            )
            return x.packed, None, frame.image_places, rows, cols
        if padded:
            rows, cols = frame.tables(
                ("windows", window, x.padding.key),
                x.size_of_map,
                window.block_out,
                lambda axis, size, _: through(
                    window.contiguous_table(axis, layout.blocks[axis], size), x.padding.source(axis)
                ),
            )
            return x.entry.map, None, layout.by_slot, rows, cols
        rows, cols = frame.tables(
            ("windows", window),
            x.size_of_map,
            window.block_out,
            lambda axis, size, _: window.contiguous_table(axis, layout.blocks[axis], size),
        )
        entry = frame.keep(x, op, border)
        return entry.map, x.packed if near else None, layout.by_slot, rows, cols

    def _by_winograd(self, weight: Tensor, window: SlidingWindow, block) -> bool:
        if (
            not self.winograd
            or window.kernel != (3, 3)
            or window.stride != (1, 1)
            or window.dilation != (1, 1)
            or weight.shape[1] % _WINOGRAD_CHANNELS
        ):
            return False
        tiles = [-(-side // _WINOGRAD_TILE) * _WINOGRAD_TILE for side in block]
        return tiles[0] * tiles[1] <= _WINOGRAD_WASTE * block[0] * block[1]

    def _prepare(self, weight: Tensor, winograd: bool) -> Tensor:
        key = (id(weight), winograd)
        found = self._prepared.get(key)
        if (
            found is None
            or found.version != weight._version
            or found.memory != weight.data_ptr()
            or found.weight is not weight
        ):
            with torch.inference_mode(False), torch.no_grad():
                packed = ops.conv_prepare(weight, winograd, self.kernels)
            found = _Prepared(weight, weight._version, weight.data_ptr(), packed)
            self._prepared[key] = found
        return found.packed


def _border(x: BlockTensor, window: SlidingWindow) -> int:
    """How far into a block the windows of its neighbours reach."""
    reach = 1
    for axis in (0, 1):
        before = window.padding[axis]
        last = (window.block_out[axis] - 1) * window.stride[axis]
        after = last + (window.kernel[axis] - 1) * window.dilation[axis] - before
        reach = max(reach, before, after - (x.block[axis] - 1))
    return EVERYTHING if 2 * reach >= min(x.block) else reach


def _has_amx() -> bool:
    return torch.cpu._is_amx_tile_supported()


def _bytes(size: int) -> Tensor:
    with torch.inference_mode(False):
        return torch.empty((size,), dtype=torch.uint8)
