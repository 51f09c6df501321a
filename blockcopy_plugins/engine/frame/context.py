"""Where in the model a frame is, and what has happened in it so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ...errors import DensifiedError, StateError
from ..state.entry import BY_CHANCE, StateKey
from ..state.stream import Stream
from .counts import Densified, FrameCounts


class FrameContext:
    """Paths, keys of state, and counts of one frame.

    Args:
        streams: Stream of each image.
        full: Whether each image is executed fully.
        strict: Raise where an op would be densified.

    Attributes:
        streams: As given.
        strict: As given.
        counts: MACs and densified ops.
        touched_state: Whether state may have been written.
    """

    def __init__(self, streams: Sequence[Stream], full: Sequence[bool], strict: bool) -> None:
        self.strict = strict
        self.counts = FrameCounts()
        self.touched_state = False
        self.streams = tuple(streams)
        self._is_full = full
        self._closed = False
        self._path = [""]
        self._calls: dict[str, int] = defaultdict(int)

    def check_open(self, what: object) -> None:
        """Refuse to use a BlockTensor after its frame has ended.

        Raises:
            StateError: If the frame is over.
        """
        if self._closed:
            raise StateError(
                f"{what} was called on a BlockTensor of a frame that is over. A converted module "
                "returns dense tensors; this one left it some other way. Return it, or densify it "
                "with blockcopy_plugins.to_dense before the module ends."
            )

    def close(self) -> None:
        """End the frame: its BlockTensors can no longer be used."""
        self._closed = True

    @property
    def is_over(self) -> bool:
        """Whether the frame has ended."""
        return self._closed

    # -- which module runs -------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """Path of the innermost module being run."""
        return self._path[-1]

    def enter(self, path: str) -> None:
        """Note that a module's forward begins."""
        self._path.append(path)

    def leave(self, path: str) -> None:
        """Note that a module's forward has ended, and with it any that ended inside by an error."""
        while self._path[-1] != path:
            self._path.pop()
        self._path.pop()

    def next_key(self, op: str) -> StateKey:
        """The key under which the running module uses state next."""
        path = self._path[-1]
        call = self._calls[path]
        self._calls[path] = call + 1
        return StateKey(path, call, op)

    def finish(self) -> None:
        """Check at the end that every module used its state as often as in the previous frame.

        Raises:
            StateError: If not; features of different ops may then have been confused.
        """
        note_calls(self._calls, self.streams, self._is_full)

    # -- what happened -----------------------------------------------------------------------------

    def count_blocks(self, executed: int, dense: int, block: tuple[int, int]) -> None:
        """Count the MACs of an op that ran on blocks and returned blocks of ``block`` pixels."""
        self.counts.tiles.add(block)
        self.counts.blocks += executed
        self.counts.blocks_dense += dense
        module = self.counts.modules.setdefault(self.path, [0, 0])
        module[0] += executed
        module[1] += dense

    def refuse_if_strict(self, op: str, reason: str) -> None:
        """Refuse to run an op on the whole map if the frame is strict.

        Raises:
            DensifiedError: If it is.
        """
        if self.strict:
            raise DensifiedError(
                f"{op} in module {self.path!r} cannot run on blocks: {reason}. With strict=False "
                "it runs on the whole map, which is correct but saves nothing there."
            )

    def count_densified(self, op: str, reason: str, macs: int) -> None:
        """Count an op that ran on the whole map."""
        key = (self.path, op)
        found = self.counts.by_op.get(key)
        if found is None:
            found = self.counts.by_op[key] = Densified(self.path, op, reason)
        found.count += 1
        found.macs += macs
        self.counts.densified += macs


def note_calls(calls: dict[str, int], streams: Sequence[Stream], full: Sequence[bool]) -> None:
    """Note how often each module used state in a frame, and compare with the frame before.

    Args:
        calls: By module path.
        streams: Stream of each image.
        full: Whether each image is executed fully.

    Raises:
        StateError: If they differ; features of different ops may then have been confused.
    """
    for stream, is_full in zip(streams, full, strict=True):
        # Frames that a program repeats have one dict.
        for path, count in () if is_full or stream.calls is calls else calls.items():
            before = stream.calls.get(path, count)
            if before != count:
                raise StateError(
                    f"module {path or '(root)'!r} used state {count} times in this frame and "
                    f"{before} times in the previous one: the model took another path through "
                    "its layers. Call reset_(model), or convert only the part of the model "
                    f"whose layers run in the same order on every frame. {BY_CHANCE}"
                )
    for stream in streams:
        stream.calls = calls
