"""A frame whose ops can be recorded, and the frame in which they are replayed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..frame.counts import BlocksOfRuns, FrameCounts, MacsOfProgram
from ..frame.layout import Layout, Tokens
from ..torch_internals import no_modes
from .block_numbers import Multiple, Numbers, Sizes
from .replayed_frame import ReplayedFrame


@dataclass(frozen=True)
class CountedOp:
    """One call of :meth:`Frame.count_blocks`."""

    path: str
    executed: int
    dense: int
    block: tuple[int, int]


class RecordedFrame(ReplayedFrame):
    """A frame that keeps what a program needs to know about it.

    Attributes:
        counted: The ops on blocks, in order.
        run_part: Runs a part of the model that a program may stand for; ``None`` where all of it
            runs as it is.
    """

    run_part: Callable[[Any, tuple, dict[str, Any]], Any] | None = None

    def __init__(self, *args, **kwargs) -> None:
        self.counted: list[CountedOp] = []
        self._insides: dict[tuple, Tensor] = {}
        super().__init__(*args, **kwargs)

    def _new_layout(self, blocks: tuple[int, int]) -> Layout:
        # Work of the host, which is repeated for each frame.
        with no_modes():
            return super()._new_layout(blocks)

    def tables(self, *args) -> tuple[Tensor, Tensor]:
        """See :class:`Frame`."""
        with no_modes():
            return super().tables(*args)

    @property
    def image_places(self) -> Tensor:
        """See :class:`Frame`."""
        with no_modes():
            return super().image_places

    def count_blocks(self, executed: int, dense: int, block: tuple[int, int]) -> None:
        """See :class:`Frame`."""
        self.counted.append(CountedOp(self.path, executed, dense, block))
        super().count_blocks(executed, dense, block)

    @property
    def sizes(self) -> Sizes:
        """Executed blocks of the maps of this frame, and tokens, unless they follow from blocks."""
        return {
            blocks: layout.executed
            for blocks, layout in self._layouts.items()
            if not (isinstance(blocks, Tokens) and blocks.as_many_in_each(self.grid_size))
        }

    def names(self) -> list[Hashable]:
        """All names that :meth:`ExecutedBlocks.given` knows so far."""
        found: list[Hashable] = ["pixels"] + ["places"] * (self._places is not None)
        for blocks, layout in self._layouts.items():
            found.append(("by_image", blocks))
            # Where the slots are 0, 1, ... both are the same tensor: then it has one name.
            if layout.by_slot is not layout.by_image:
                found.append(("by_slot", blocks))
        return found + [("inside", *key) for key in self._insides]

    def _inside(self, layout: Layout, blocks: Sequence[int]) -> Tensor:
        key = (layout.blocks, tuple(blocks))
        found = self._insides.get(key)
        if found is None:
            with no_modes():
                found = self._insides[key] = super()._inside(layout, blocks)
        return found


class CountedFrame:
    """MACs of a frame as a function of its numbers of executed blocks.

    Args:
        counts: MACs of a frame.
        one: Its ops on blocks.
        other: The ops on blocks of another frame.
        numbers: The meaning of the integers of the two.

    Raises:
        Mismatch: If the two differ.
    """

    def __init__(
        self,
        counts: FrameCounts,
        one: list[CountedOp],
        other: list[CountedOp],
        numbers: Numbers,
    ) -> None:
        self._counts = counts
        modules: dict[str, list] = {}
        total: dict[tuple[int, int] | None, int] = {}
        for a, b in zip(one, other, strict=True):
            value = numbers.join(a.executed, b.executed)
            blocks, factor = None, value
            if isinstance(value, Multiple):
                blocks, factor = value.blocks, value.factor
            its = modules.setdefault(a.path, [{}, 0])
            its[1] += a.dense
            for factors in (its[0], total):
                factors[blocks] = factors.get(blocks, 0) + factor
        self._total = total
        self._macs = MacsOfProgram({path: (*its,) for path, its in modules.items()})

    def of(self, sizes: Sizes) -> FrameCounts:
        """MACs of a frame with these numbers of executed blocks."""
        found = self._counts
        total = sum(n if b is None else n * sizes[b] for b, n in self._total.items())
        return FrameCounts(
            total,
            found.blocks_dense,
            found.densified,
            found.tiles,
            found.by_op,
            programs={self._macs: BlocksOfRuns(1, dict(sizes))},
        )
