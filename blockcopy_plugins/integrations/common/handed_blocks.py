"""Blocks for a backbone in place of the batch that the model around it has made."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from ...engine.adapter import Removable


class HandedBlocks:
    """The blocks of the frame at work, until the backbone takes them; only once."""

    def __init__(self) -> None:
        self._blocks: Tensor | None = None

    def attach(self, backbone: nn.Module) -> Iterator[Removable]:
        """Have a backbone take what is given."""
        yield backbone.register_forward_pre_hook(self)

    def give(self, blocks: Tensor) -> None:
        """The next call of the backbone is to run on these, whatever it is called with."""
        self._blocks = blocks

    def __call__(self, module: nn.Module, args: tuple) -> tuple | None:
        """The pre-hook."""
        blocks, self._blocks = self._blocks, None
        return None if blocks is None else (blocks, *args[1:])
