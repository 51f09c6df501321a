"""Tokens of a map together with tokens of no pixel, as a separate frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import ops
from ..tensor.axes import channels_of, from_map
from ..tensor.block_tensor import BlockTensor
from .frame import Frame
from .inner_frame import InnerFrame
from .layout import Tokens

_TOKEN = (1, 1)


class TokenFrame(InnerFrame):
    """Tokens: those of executed pixels run, and those of no pixel if any block of their image does.

    A transformer joins a class token, registers or queries to the tokens of a map. Together they
    are a map of one row in which each token is a block, so whatever runs on blocks runs on them.

    Args:
        home: The frame of the map.
        of: The tokens of its pixels, ``(N, L, C)``.
        before: Tokens of no pixel before them.
        behind: Tokens after them.

    Attributes:
        pixels: Which of all tokens are those of pixels.
    """

    def __init__(self, home: Frame, of: BlockTensor, before: int, behind: int) -> None:
        tokens = Tokens(before, behind, of.size_of_map, of.block)
        super().__init__(home, of, tokens, tokens.count, _TOKEN)
        self.pixels = range(before, tokens.count[1] - behind)

    @staticmethod
    def of(home: Frame, tokens: BlockTensor, before: int, behind: int) -> TokenFrame:
        """See the class; the same for all maps of the same geometry."""
        key = (tokens.size_of_map, tokens.block, before, behind)
        found = home.inner_frames.get(key)
        if found is None:
            found = home.inner_frames[key] = TokenFrame(home, tokens, before, behind)
        return found

    def joined(self, x: BlockTensor, before: Sequence[Tensor], behind: Sequence[Tensor]):
        """The tokens of a map joined with others.

        Args:
            x: Tokens of pixels, ``(N, L, C)``.
            before: ``(N, count, C)`` each.
            behind: The same, after the pixels.

        Returns:
            ``(N, tokens, C)``.
        """
        if self.whole:
            packed = torch.cat([*before, x.packed, *behind], 1)
            return BlockTensor(packed, self.size, _TOKEN, self, axes="NLC")
        map_ = x.packed_map()
        pixels = map_.new_empty((self.images, *self.size_at_home, map_.shape[1]))
        ops.scatter_(pixels.permute(0, 3, 1, 2), map_, x.block_layout.by_image)
        together = torch.cat([*before, pixels.flatten(1, 2), *behind], 1)
        packed = self.packed_from(together.mT.unsqueeze(2), _TOKEN)
        return BlockTensor(packed.flatten(2).mT, self.size, _TOKEN, self, axes="NLC")

    def at_home(self, x: BlockTensor) -> BlockTensor:
        """The tokens of pixels as blocks of their map.

        Args:
            x: A tensor of this frame that has a dimension of tokens.
        """
        home, first, count = self.home, self.pixels.start, len(self.pixels)
        if self.whole:
            packed = x.packed.narrow(x.axes.index("L"), first, count).clone()
        else:
            map_ = x.packed_map()
            tokens = map_.new_empty((self.images, *self.size, map_.shape[1]))
            ops.scatter_(tokens.permute(0, 3, 1, 2), map_, x.block_layout.by_image)
            pixels = tokens[:, 0, first : first + count].unflatten(1, self.size_at_home)
            packed = home.packed_from(pixels.permute(0, 3, 1, 2), self.block_at_home)
            packed = from_map(packed, x.axes, channels_of(x.axes, x.shape, x.joined))
        return BlockTensor(
            packed, self.size_at_home, self.block_at_home, home, axes=x.axes, joined=x.joined
        )
