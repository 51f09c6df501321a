"""The programs over the maps of one store, and what they share."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from ..conv.prepared_weights import WeightsInUse
from ..state.lent_map import LentMap
from ..state.store import StateStore
from .call_kind import ResultForm
from .program import Program
from .recorded_frame import CountedFrame, CountedOp
from .replayed_frame import Recorded
from .trace import Trace


@dataclass(eq=False)
class FrameProgram:
    """A program, and the conditions under which it is valid.

    Attributes:
        program: The ops.
        form: What the results are apart from the tensors that the ops return.
        recorded: What the host did.
        counted: Its MACs.
        weights: Weights that it reads in the kernels' layout, ``None`` without kernels.
        lent: Which leaves of its results are maps of the state, and who lends them.
        replayed: Frames that it has run.
    """

    program: Program
    form: ResultForm
    recorded: Recorded
    counted: CountedFrame
    weights: WeightsInUse | None
    lent: tuple[tuple[int, LentMap], ...] = ()
    replayed: int = 0
    _memory: object = None

    def is_valid(self, store: StateStore) -> bool:
        """Whether the state lies where it did, and weights and values are those of before."""
        if self._memory is not store.memory:
            if not self.recorded.holds(store):
                return False
            self._memory = store.memory
        current = self.weights is None or self.weights.are_current()
        return current and self.program.reads_the_same()


@dataclass(eq=False)
class Recording:
    """A recorded frame."""

    trace: Trace
    form: ResultForm
    recorded: Recorded
    counted: list[CountedOp]
    lent: tuple[tuple[int, LentMap], ...] = ()


@dataclass
class ProgramPool:
    """The programs over the maps of one store.

    Attributes:
        last: The last recorded frame of each key.
        programs: By key: one for all frames, or some for frames of certain numbers of blocks.
        waited: By key, the number of successive frames for which there was no program.
        strangers: By key, the number of successive frames that differed from the one before.
        generation: The generation of :class:`FramePrograms` for which this pool is valid.
    """

    last: dict[Hashable, Recording] = field(default_factory=dict)
    programs: dict[Hashable, list[FrameProgram]] = field(default_factory=dict)
    waited: dict[Hashable, int] = field(default_factory=dict)
    strangers: dict[Hashable, int] = field(default_factory=dict)
    generation: int = 0

    def __reduce__(self):
        # A copied model has its own maps.
        return ProgramPool, ()

    def clear(self) -> None:
        """Forget all."""
        for part in (self.last, self.programs, self.waited, self.strangers):
            part.clear()
