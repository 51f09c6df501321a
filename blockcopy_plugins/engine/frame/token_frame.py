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
        of: The tokens of one of them, ``(N, L, C)``.
        tokens: All tokens.
    """

    of_tokens = True

    def __init__(self, home: Frame, of: BlockTensor, tokens: Tokens) -> None:
        super().__init__(home, of, tokens, tokens.count, _TOKEN)
        self._maps = {
            pixels: part
            for pixels, part in zip(tokens.ranges, tokens.parts, strict=True)
            if isinstance(part, PixelTokens)
        }

    @staticmethod
    def joined(home: Frame, values: Sequence[Tensor]) -> BlockTensor:
        """Join the tokens of maps with each other and with tokens of no pixel.

        Args:
            home: The frame of the maps.
            values: ``(N, count, C)`` each: BlockTensors of ``home``, at least one, of axes NLC, and
                dense tensors of tokens of no pixel.

        Returns:
            ``(N, tokens, C)``, of the frame that all joins of the same kind share.
        """
        of = next(value for value in values if isinstance(value, BlockTensor))
        tokens = Tokens(
            tuple(
                PixelTokens(value.size_of_map, value.block)
                if isinstance(value, BlockTensor)
                else OtherTokens(value.shape[1])
                for value in values
            )
        )
        frame = home.inner_frames.get(tokens)
        if frame is None:
            frame = home.inner_frames[tokens] = TokenFrame(home, of, tokens)
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

    def is_map(self, tokens: range) -> bool:
        """Whether these are the tokens of all pixels of a map."""
        return tokens in self._maps

    def at_home(self, x: BlockTensor, parts: Sequence[range]) -> list[BlockTensor]:
        """The tokens of pixels as blocks of their maps.

        Args:
            x: A tensor of this frame that has a dimension of tokens.
            parts: For each map its tokens, see :meth:`is_map`.
        """
        home = self.home
        laid = None if self.whole else _laid_out(x)
        found = []
        for pixels in parts:
            size, block = self._maps[pixels].size, self._maps[pixels].block
            first, count = pixels.start, len(pixels)
            if laid is None:
                packed = x.packed.narrow(x.axes.index("L"), first, count).clone()
            else:
                map_ = laid[:, first : first + count].unflatten(1, size).permute(0, 3, 1, 2)
                packed = home.packed_from(map_, block)
                packed = from_map(packed, x.axes, channels_of(x.axes, x.shape, x.joined))
            found.append(BlockTensor(packed, size, block, home, axes=x.axes, joined=x.joined))
        return found


def _laid_out(x: BlockTensor) -> Tensor:
    """The pixels of a map ``(N, H * W, C)``; those of blocks that do not run hold no meaning."""
    map_ = x.packed_map()
    pixels = map_.new_empty((x.frame.images, *x.size_of_map, map_.shape[1]))
    ops.scatter_(pixels.permute(0, 3, 1, 2), map_, x.block_layout.by_image)
    return pixels.flatten(1, 2)
