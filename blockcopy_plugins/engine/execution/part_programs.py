"""Programs of parts of a model, where none can stand for a whole frame.

A whole detector is called with data samples, reads the values of its maps and makes results of
other sizes in each frame; a program cannot do that. Its backbone, neck and heads are given blocks
and give blocks, or dense maps, and there a program does what one of a whole frame does
(:mod:`.frame_programs`), with the same checks. What lies between and around runs as it is, on
BlockTensors that are made anew of what the program gave.

Parts are found by themselves: first the model's children. What cannot be a program is left alone,
and its children are parts from then on; so are those of what is not called as a module (a tracker
asks its detector to ``predict``).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .block_numbers import Mismatch
from .capture_guard import CaptureError
from .converted_model import ConvertedModel
from .frame_programs import FramePrograms, is_watched, run_program
from .frame_run import FrameRun
from .model_part import ModelPart, parts_in
from .part_run import PartOfFrame, PartRun
from .part_values import PartInputs
from .program_pool import FrameProgram, Recording
from .recorded_frame import RecordedFrame

# A program of fewer ops takes more time than the ops.
_LEAST_OPS = 8
# Calls in turn between which attributes changed, and that were recorded, until a part is given up.
_PATIENCE = 4
_RECORDINGS = 32
# Frames in which a part was not called, until its children are to be parts.
_UNCALLED = 2
# Kinds of calls that a store has programs for; with more it begins anew.
_MOST = 256


class PartPrograms(FramePrograms):
    """The programs of the parts of a converted model.

    Args:
        enabled: Whether there are any at all.
    """

    recordings = "programs of parts"

    def __init__(self, enabled: bool = True) -> None:
        super().__init__(enabled)
        self._parts: list[ModelPart] | None = None

    def run(self, work: FrameRun, kind: Hashable) -> Any:
        """Run a frame with programs for its parts. See :class:`~.executor.Executor`."""
        if not work.executed or is_watched():
            return work.run_eagerly()
        frame = work.open(RecordedFrame)
        frame.run_part = partial(self._run_part, work, frame, {})
        try:
            result = work.run(frame, work.call.frame)
        finally:
            # It would keep the frame alive.
            frame.run_part = None
        for part in self._parts or ():
            if not part.is_called:
                part.frames_uncalled += 1
                part.is_over = part.descends = part.frames_uncalled >= _UNCALLED
        return result

    def rearrange(self, converted: ConvertedModel) -> bool:
        """Replace the forwards of parts, and give back those of parts that were given up.

        Args:
            converted: The model.

        Returns:
            Whether there were any.
        """
        if self._parts is None:
            self._parts = list(parts_in(converted, "", converted.model))
            return True
        over = [part for part in self._parts if part.is_over]
        for part in over:
            part.take_away()
            self._parts.remove(part)
            if part.descends:
                self._parts += parts_in(converted, part.path, part.converted.model)
        return bool(over)

    def release(self) -> None:
        """Give the parts their own forwards back."""
        for part in self._parts or ():
            part.take_away()
        self._parts = None
        self.forget()

    # -- one part ---------------------------------------------------------------------------------

    def _run_part(
        self,
        work: FrameRun,
        frame: RecordedFrame,
        calls: dict[ModelPart, int],
        part: ModelPart,
        args: tuple,
        kwargs: Mapping[str, Any],
    ) -> Any:
        run_part, frame.run_part = frame.run_part, None  # Parts within it are its own.
        part.is_called = True
        try:
            number = calls[part] = calls.get(part, -1) + 1
            inputs = self._inputs(part, frame, args, kwargs, is_first=number == 0)
            if inputs is None:
                return part.run(*args, **kwargs)
            return self._run_by_program(work, frame, part, number, inputs, args, kwargs)
        finally:
            frame.run_part = run_part

    def _inputs(
        self,
        part: ModelPart,
        frame: RecordedFrame,
        args: tuple,
        kwargs: Mapping[str, Any],
        is_first: bool,
    ) -> PartInputs | None:
        """What a part is given, ``None`` if no program may stand for it now.

        Args:
            part: The part.
            frame: The frame being run.
            args: Positional arguments of the part.
            kwargs: Keyword arguments.
            is_first: Whether it is the first call of the part in the frame.
        """
        if part.is_over:
            return None
        try:
            inputs = PartInputs(frame, args, kwargs)
        except CaptureError as error:
            self._give_up(part, str(error))
            return None
        return inputs if inputs.has_blocks and self._may_run(part, is_first) else None

    def _run_by_program(
        self,
        work: FrameRun,
        frame: RecordedFrame,
        part: ModelPart,
        number: int,
        inputs: PartInputs,
        args: tuple,
        kwargs: Mapping[str, Any],
    ) -> Any:
        pool = work.cache.parts
        if pool.generation != self._generation or len(pool.programs) + len(pool.last) > _MOST:
            pool.clear()
            pool.generation = self._generation
        here = PartOfFrame(frame, inputs)
        run = PartRun(work, part, here, inputs, args, kwargs)
        in_order = frame.image_order_is_slots or frame.whole and work.slots
        where = (part.path, number, frame.images, frame.whole, in_order, work.channels_last)
        key = (*where, torch.is_inference_mode_enabled(), inputs.form)
        result = self._run_one(pool, key, part.path, run, here)
        if part.path in self._refused:
            self._give_up(part, self._refused.pop(part.path))
        return result

    def _may_run(self, part: ModelPart, is_first: bool) -> bool:
        """Whether a part is still one, and as it was."""
        seen = part.converted.take_look()
        obstacle = part.watch.obstacle(part.converted, seen)
        if obstacle is not None:
            self._note(f"{part.path!r}: {obstacle}")
            return False
        if is_first and part.has_changed(seen):
            self.forget()
        if part.changes >= _PATIENCE:
            self._give_up(part, "its attributes are others in each frame")
        elif part.recordings >= _RECORDINGS:
            self._give_up(part, "it does something else in each frame")
        else:
            return True
        return False

    def _record(
        self, kind: Hashable, work: PartRun, frame: PartOfFrame
    ) -> tuple[Any, Recording | None]:
        work.part.recordings += 1
        result, recording = super()._record(kind, work, frame)
        if recording is not None and len(recording.trace.steps) < _LEAST_OPS:
            work.part.is_over = True
            return result, None
        return result, recording if frame.is_steady else None

    def _make(self, one: Recording, other: Recording, work: PartRun) -> FrameProgram:
        if one.trace.leaves_more or other.trace.leaves_more:
            # Another part may read it: each frame would have to leave one.
            raise Mismatch("a tensor that it makes is kept, and is not among its results")
        return super()._make(one, other, work)

    def _replay(self, made: FrameProgram, work: PartRun, frame: PartOfFrame, pixels: Tensor) -> Any:
        if not frame.goes_on(made.recorded):
            self._note(f"{work.part.path!r}: modules in it have run before it")
            return work.run_eagerly()
        sizes = {blocks: frame.layout_of(blocks).executed for blocks in made.program.blocks}
        frame.claim(made.recorded)
        leaves = run_program(made.program, frame, pixels, sizes)
        # Not before: if an op has failed, the part runs as it is.
        frame.repeat(made.recorded, made.counted.of(sizes))
        work.part.changes = work.part.recordings = 0
        made.replayed += 1
        self._replayed += 1
        return work.result_of(leaves, made.form)

    def _opened(self, work: PartRun, frame: PartOfFrame) -> PartOfFrame:
        return frame

    def _as_it_was(self, work: PartRun) -> Any:
        return work.run_eagerly()

    def _give_up(self, part: ModelPart, reason: str) -> None:
        """Let a module run as it is from now on, and from the next frame its children be parts."""
        self._note(f"{part.path!r}: {reason}")
        part.is_over = part.descends = True
