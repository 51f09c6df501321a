"""Passes blocks to a backbone in place of the batch that the model around it has made."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from ...engine.adapter import Removable


class HandedBlocks:
    """Holds the blocks of the current frame until the backbone takes them, once."""

    def __init__(self) -> None:
        self._blocks: Tensor | None = None

    def attach(self, backbone: nn.Module) -> Iterator[Removable]:
        """Let a backbone take what is given."""
        yield backbone.register_forward_pre_hook(self)

    def give(self, blocks: Tensor) -> None:
        """Let the next call of the backbone run on these, whatever it is called with."""
        self._blocks = blocks

    def __call__(self, module: nn.Module, args: tuple) -> tuple | None:
        """The pre-hook."""
        blocks, self._blocks = self._blocks, None
        return None if blocks is None else (blocks, *args[1:])
