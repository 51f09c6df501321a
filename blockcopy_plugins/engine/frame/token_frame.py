"""Tokens of maps, together with tokens of no pixel, as a separate frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import ops
from ..tensor.axes import channels_of, from_map
from ..tensor.block_tensor import BlockTensor
from .frame import Frame
from .inner_frame import InnerFrame
from .layout import OtherTokens, PixelTokens, Tokens

_TOKEN = (1, 1)


class TokenFrame(InnerFrame):
    """Tokens: those of executed pixels run, and those of no pixel if any block of their image does.

    A transformer joins a class token, registers or queries to the tokens of a map, or the tokens of
    several maps with each other. Together they are a map of one row in which each token is a block,
    so whatever runs on blocks runs on them.

    Args:
        home: The frame of the maps.
        tokens: All tokens, among them those of a map.
    """

    of_tokens = True

    def __init__(self, home: Frame, tokens: Tokens) -> None:
        first = next(part for part in tokens.parts if isinstance(part, PixelTokens))
        super().__init__(home, first.size, first.block, tokens, tokens.count, _TOKEN)

    @staticmethod
    def of(home: Frame, tokens: Tokens) -> TokenFrame:
        """See the class; the same for all tokens of the same kind."""
        found = home.inner_frames.get(tokens)
        if found is None:
            found = home.inner_frames[tokens] = TokenFrame(home, tokens)
        return found

    @staticmethod
    def joined(home: Frame, values: Sequence[Tensor]) -> BlockTensor:
        """Join the tokens of maps with each other and with tokens of no pixel.

        Args:
            home: The frame of the maps.
            values: ``(N, count, C)`` each: BlockTensors of ``home``, at least one, of axes NLC, and
                dense tensors of tokens of no pixel.

        Returns:
            ``(N, tokens, C)``.
        """
        tokens = Tokens(
            tuple(
                PixelTokens(value.size_of_map, value.block)
                if isinstance(value, BlockTensor)
                else OtherTokens(value.shape[1])
                for value in values
            )
        )
        frame = TokenFrame.of(home, tokens)
        if home.whole:
            packed = [value.packed if isinstance(value, BlockTensor) else value for value in values]
            packed = torch.cat(packed, 1)
        else:
            laid = [
                _laid_out(value) if isinstance(value, BlockTensor) else value for value in values
            ]
            packed = frame.packed_from(torch.cat(laid, 1).mT.unsqueeze(2), _TOKEN)
            packed = packed.flatten(2).mT
        return BlockTensor(packed, frame.size, _TOKEN, frame, axes="NLC")

    def taken(self, x: BlockTensor, ranges: Sequence[range]) -> list[BlockTensor | None]:
        """Some of all tokens: those of one map as its blocks, those of several parts joined.

        Args:
            x: A tensor of this frame that has a dimension of tokens.
            ranges: Which tokens.

        Returns:
            For each range a tensor, ``None`` where it is not all of some parts, a map among them.
        """
        found = [self.parts.within(range_) for range_ in ranges]
        laid = None if self.whole or not any(found) else _laid_out(x)
        return [
            self._taken(x, range_, parts, laid) if parts else None
            for range_, parts in zip(ranges, found, strict=True)
        ]

    def _taken(self, x: BlockTensor, range_: range, parts: Sequence, laid: Tensor | None):
        if len(parts) == 1:
            frame, size, block = self.home, parts[0].size, parts[0].block
        else:
            frame = TokenFrame.of(self.home, Tokens(tuple(parts)))
            size, block = frame.size, _TOKEN
        first, count = range_.start, len(range_)
        if laid is None:
            packed = x.packed.narrow(x.axes.index("L"), first, count).clone()
        else:
            map_ = laid[:, first : first + count].unflatten(1, size).permute(0, 3, 1, 2)
            packed = frame.packed_from(map_, block)
            packed = from_map(packed, x.axes, channels_of(x.axes, x.shape, x.joined))
        return BlockTensor(packed, size, block, frame, axes=x.axes, joined=x.joined)


def _laid_out(x: BlockTensor) -> Tensor:
    """The pixels of a map ``(N, H * W, C)``; those of blocks that do not run hold no meaning."""
    map_ = x.packed_map()
    pixels = map_.new_empty((x.frame.images, *x.size_of_map, map_.shape[1]))
    ops.scatter_(pixels.permute(0, 3, 1, 2), map_, x.block_layout.by_image)
    return pixels.flatten(1, 2)
