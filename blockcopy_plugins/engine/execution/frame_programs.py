"""Frames as programs: what a frame does is recorded once and replayed without the model.

A converted model spends some ten microseconds of Python on each op, whether it runs on many
blocks or on few. Underneath, a frame is a list of ops on ordinary tensors (:mod:`.trace`), the
same in each frame except for the numbers of executed blocks in their arguments. Two frames show
which those are, and make a :class:`~.program.Program` for all frames.

A program replaces the model's Python, so it is trusted only as far as it has been checked:

* It is made from two frames that ran the same ops. Frames that read values (``.item()``,
  ``bool(x)``, ``x[mask]``) or write to tensors that outlive them are refused.
* It is run once after the second of them, and must reproduce its results.
* It is dropped when a module, or a parameter, a buffer or an attribute of one is replaced, a hook
  is added, or the state has moved.
* From time to time (after 8, 64 and 512 frames, and every further 512) a frame runs eagerly and
  is compared with it. That finds models that depend on something invisible from outside, such as
  a global counter.

Whatever does not fit runs eagerly, and :class:`ProgramReport` says why.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...errors import StateError
from ..adapter import Call
from ..torch_internals import any_mode, dispatch_modes, function_modes
from .block_numbers import Mismatch, Numbers, Sizes, can_join
from .call_kind import kind_of_call
from .capture_guard import CaptureError
from .converted_model import ConvertedModel
from .frame_replay import FrameReplay
from .frame_run import FrameRun
from .model_watch import AttributeWatch
from .program import Program
from .program_pool import FrameProgram, ProgramPool, Recording
from .recorded_frame import CountedFrame, RecordedFrame
from .replay import ReplayExecutor, ReplayReport
from .trace import TraceRecorder, nearly_the_same

_LOOK_AGAIN = (8, 64)
_EACH = 512
# Kinds of frames for which a store has programs; with more than this it starts over.
_MOST = 64
# After so many successive frames that differ from the previous one, none is recorded any more.
_PATIENCE = 4
# Successive frames that are recorded without a program, and then how many for one that is: to write
# a frame down costs more than to run it.
_WAIT, _SELDOM = 16, 8


@dataclass(frozen=True)
class ProgramReport(ReplayReport):
    """Figures of the frames of a converted model that programs are for.

    Attributes:
        made: Programs made so far.
        compared: Frames that ran eagerly, to be compared with their program.
    """

    made: int = 0
    compared: int = 0

    def headline(self) -> str:
        """See :class:`ReplayReport`."""
        return f"  programs          {self.made:8d} made, {self.replayed} calls run by them"


class FramePrograms(ReplayExecutor):
    """The programs of a converted model, for frames in host memory.

    Args:
        enabled: Whether there are any at all.
    """

    recordings = "programs"
    log_level = logging.INFO

    def __init__(self, enabled: bool = True) -> None:
        super().__init__(enabled)
        self._attributes = AttributeWatch()
        self._made = self._compared = 0

    def is_for(self, call: Call) -> bool:
        """See :class:`ReplayExecutor`."""
        return call.frame.device.type == "cpu"

    def has_changed(self, converted: ConvertedModel, seen: object) -> bool:
        """See :class:`ReplayExecutor`."""
        return self._attributes.have_changed(converted, seen)

    def kind(self, call: Call) -> Hashable:
        """See :class:`ReplayExecutor`."""
        return kind_of_call(call), call.frame.stride()

    def obstacle(self) -> str | None:
        """See :class:`ReplayExecutor`."""
        return "autocast is on" if torch.is_autocast_enabled("cpu") else None

    def run(self, work: FrameRun, kind: Hashable) -> Any:
        """Run a frame by its program, or record it to make one.

        See :class:`~.executor.Executor`.
        """
        if not work.executed or is_watched():
            return work.run_eagerly()
        pool = work.cache.programs
        if pool.generation != self._generation or len(pool.programs) > _MOST:
            pool.clear()
            pool.generation = self._generation
        frame = work.replay()
        in_order = frame.image_order_is_slots
        key = (frame.images, frame.whole, in_order or frame.whole and work.slots, kind)
        key = (*key, work.channels_last)
        return self._run_one(pool, key, kind, work, frame)

    def _run_one(
        self,
        pool: ProgramPool,
        key: Hashable,
        kind: Hashable,
        work: FrameRun,
        frame: FrameReplay,
    ) -> Any:
        found = self._find(pool, key, frame, work)
        if found is None:
            return self._write_down(pool, key, kind, work, self._opened(work, frame))
        if found.replayed in _LOOK_AGAIN or found.replayed % _EACH == _EACH - 1:
            return self._look(pool, key, kind, found, work, self._opened(work, frame))
        try:
            return self._replay(found, work, frame, work.call.frame)
        except StateError:
            # Raised by the claims: the frame would fail without a program too.
            raise
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            # Whatever the op refused: the eager frame writes the same state again.
            what = str(error).strip().partition("\n")[0]
            self._refuse(pool, key, kind, f"a program failed ({type(error).__name__}: {what})")
            return self._as_it_was(work)

    def _opened(self, work: FrameRun, frame: FrameReplay) -> RecordedFrame:
        """The frame in which the model's modules run, to be recorded."""
        return work.open(RecordedFrame)

    def report(self) -> ProgramReport | None:
        """What has happened so far; ``None`` if no frame was one for programs."""
        if not self._replayed and not self._eager_calls and not self._recorded:
            return None
        calls = self._replayed, dict(self._eager_calls), self._recorded
        return ProgramReport(*calls, self._made, self._compared)

    # -- one frame --------------------------------------------------------------------------------

    def _find(
        self, pool: ProgramPool, key: Hashable, frame: FrameReplay, work: FrameRun
    ) -> FrameProgram | None:
        found = None
        for made in reversed(pool.programs.get(key, ())):
            if not made.is_valid(work.store):
                pool.programs[key].remove(made)
                pool.last.pop(key, None)
                continue
            fixed = made.program.fixed.items()
            if found is None and all(frame.layout_of(b).executed == n for b, n in fixed):
                found = made
        return found

    def _replay(
        self, made: FrameProgram, work: FrameRun, frame: FrameReplay, pixels: Tensor
    ) -> Any:
        program = made.program
        sizes = {blocks: frame.layout_of(blocks).executed for blocks in program.blocks}
        made.recorded.repeat(frame, made.counted.of(sizes))
        leaves = run_program(program, frame, pixels, sizes)
        for i, lender in made.lent:
            lender.note(leaves[i])
            frame.lent.append((leaves[i], lender))
        result = work.result_of(leaves, made.form)
        made.replayed += 1
        self._replayed += 1
        return result

    def _write_down(
        self,
        pool: ProgramPool,
        key: Hashable,
        kind: Hashable,
        work: FrameRun,
        frame: RecordedFrame,
    ) -> Any:
        waited = pool.waited[key] = pool.waited.get(key, 0) + 1
        if waited > _WAIT and waited % _SELDOM:
            return work.run(frame, work.call.frame)
        result, recording = self._record(kind, work, frame)
        if recording is None:
            return result
        last, pool.last[key] = pool.last.get(key), recording
        if last is None or not can_join(last.trace.sizes, recording.trace.sizes):
            return result
        try:
            made = self._make(last, recording, work)
            self._check(made, result, work, frame)
        except Mismatch as error:
            pool.strangers[key] = pool.strangers.get(key, 0) + 1
            if pool.strangers[key] >= _PATIENCE:
                self._refuse(pool, key, kind, f"frames did not do the same: {error}")
            return result
        pool.strangers.pop(key, None)
        pool.waited.pop(key, None)
        programs = pool.programs.setdefault(key, [])
        if not made.program.fixed:
            programs.clear()
            pool.last.pop(key, None)
        programs.append(made)
        self._made += 1
        return result

    def _look(self, pool, key, kind, made: FrameProgram, work: FrameRun, frame: RecordedFrame):
        """Run a frame eagerly, and check that it does what its program would have done."""
        self._compared += 1
        made.replayed += 1
        result, recording = self._record(kind, work, frame)
        if recording is None:
            pool.programs.pop(key, None)
            return result
        try:
            self._check(made, result, work, frame)
        except Mismatch as error:
            self._refuse(
                pool, key, kind, f"the model did not do what it did in earlier frames: {error}"
            )
        return result

    def _record(
        self, kind: Hashable, work: FrameRun, frame: RecordedFrame
    ) -> tuple[Any, Recording | None]:
        """Run a frame eagerly and record it; ``None`` if it cannot become a program."""
        self._recorded += 1
        recorder = TraceRecorder(lambda: frame.path)
        with recorder:
            result = work.run(frame, work.call.frame)
        try:
            leaves, form = work.leaves_of(result)
        except CaptureError as error:
            self._refused[kind] = str(error)
            return result, None
        recorded = frame.recorded()
        own = [entry.map for entry, _ in recorded.entries]
        own += [lender.tensor for _, lender in frame.lent]
        own += work.converted.convolutions.memory()
        given = [(name, frame.given(name, work.call.frame)) for name in frame.names()]
        trace = recorder.finish(leaves, given, own, frame.sizes)
        if trace.obstacle is not None:
            self._refused[kind] = f"what it does cannot be repeated ({trace.obstacle})"
            return result, None
        lent = tuple(
            (i, lender)
            for i, leaf in enumerate(leaves)
            for out, lender in frame.lent
            if out is leaf
        )
        return result, Recording(trace, form, recorded, frame.counted, lent)

    def _make(self, one: Recording, other: Recording, work: FrameRun) -> FrameProgram:
        program = Program(one.trace, other.trace)
        if one.form != other.form or one.recorded.entries != other.recorded.entries:
            raise Mismatch("results or state are others")
        numbers = Numbers(one.trace.sizes, other.trace.sizes)
        counted = CountedFrame(other.recorded.counts, one.counted, other.counted, numbers)
        weights = work.converted.convolutions.weights_among(program.kept)
        return FrameProgram(program, other.form, other.recorded, counted, weights, other.lent)

    def _check(self, made: FrameProgram, result: Any, work: FrameRun, frame: RecordedFrame) -> None:
        """Repeat a frame that has just run; the state already holds what it writes.

        Raises:
            Mismatch: If the results differ.
        """
        sizes = {blocks: frame.layout_of(blocks).executed for blocks in made.program.blocks}
        leaves, form = work.leaves_of(result)
        if form != made.form:
            raise Mismatch("the results are of another form")
        try:
            again = run_program(made.program, frame, work.call.frame, sizes)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise Mismatch(str(error).strip().partition("\n")[0]) from None
        pair = work.shown(leaves, form), work.shown(again, form)
        for a, b in zip(*pair, strict=True):
            if a is not None and not nearly_the_same(a, b):
                raise Mismatch("its ops gave other results when they were repeated")

    def _as_it_was(self, work: FrameRun) -> Any:
        work.call.left.clear()
        return work.run_eagerly()

    # -- what cannot be a program -----------------------------------------------------------------

    def _refuse(self, pool: ProgramPool, key: Hashable, kind: Hashable, reason: str) -> None:
        self._refused[kind] = reason
        pool.programs.pop(key, None)
        pool.last.pop(key, None)


def is_watched() -> bool:
    """Whether modes watch the ops of this call, which a program would not call."""
    return any_mode() and bool(function_modes() or dispatch_modes())


def run_program(
    program: Program, frame: FrameReplay | RecordedFrame, pixels: Tensor, sizes: Sizes
) -> list[Tensor | None]:
    """Do again what a program does.

    Args:
        program: The program.
        frame: Gives what differs from frame to frame.
        pixels: The picture.
        sizes: Executed blocks, in the order of :attr:`Program.blocks`.
    """
    given = {name: frame.given(name, pixels) for name in program.names}
    return program.run(given, tuple(sizes.values()))
