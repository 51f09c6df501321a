"""The programs of a converted model: of whole frames, or of its parts where those cannot be."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from ..adapter import Call
from .capture_guard import CaptureError
from .converted_model import ConvertedModel
from .frame_programs import FramePrograms, ProgramReport
from .frame_run import FrameRun
from .part_programs import PartPrograms

_PARTS = "parts"
# Frames in turn between which the model has changed, until none is recorded as a whole.
_PATIENCE = 4


@dataclass(frozen=True)
class ModelProgramReport(ProgramReport):
    """What became of the frames of a converted model that programs are for.

    Attributes:
        parts: The same of its parts, in frames for which no program can stand as a whole.
    """

    parts: ProgramReport | None = None

    def lines(self) -> list[str]:
        """See :class:`~.replay.ReplayReport`."""
        if self.parts is None:
            return super().lines()
        made, replayed = self.parts.made, self.parts.replayed
        first, *others = self.parts.lines()
        line = f"  programs of parts {made:8d} made, {replayed} calls of parts run by them"
        return [*super().lines(), line, *others]


class ModelPrograms(FramePrograms):
    """Programs of whole frames and of parts of a converted model, in host memory.

    Args:
        enabled: Whether there are any at all.
    """

    def __init__(self, enabled: bool = True) -> None:
        super().__init__(enabled)
        self._parts = PartPrograms(enabled)
        self._changes = 0

    def kind_of(self, converted: ConvertedModel, call: Call) -> Hashable | None:
        """See :class:`~.executor.Executor`."""
        if not self.enabled or not self.is_for(call):
            return None
        kind, obstacle = None, converted.adapter.graph_obstacle
        if obstacle is None:
            kind = super().kind_of(converted, call)
        else:
            # Each part looks whether it has changed; nobody looks at the model.
            self._note(obstacle)
        return _PARTS if kind is None and self.obstacle() is None else kind

    def has_changed(self, converted: ConvertedModel, seen: object) -> bool:
        """See :class:`~.replay.ReplayExecutor`."""
        changed = super().has_changed(converted, seen)
        self._changes = self._changes + 1 if changed else 0
        return changed

    def kind(self, call: Call) -> Hashable:
        """See :class:`~.replay.ReplayExecutor`."""
        if self._changes > _PATIENCE:
            raise CaptureError("attributes of the model are others in each frame")
        return super().kind(call)

    def run(self, work: FrameRun, kind: Hashable) -> Any:
        """See :class:`~.executor.Executor`."""
        if kind is not _PARTS:
            return super().run(work, kind)
        if self._parts.rearrange(work.converted):
            # Not the model has changed.
            self._attributes.have_changed(work.converted, work.converted.take_look())
        return self._parts.run(work, kind)

    def report(self) -> ModelProgramReport | None:
        """What has happened so far; ``None`` if no frame was one for programs."""
        found, parts = super().report(), self._parts.report()
        if found is None and parts is None:
            return None
        found = ProgramReport() if found is None else found
        return ModelProgramReport(**vars(found), parts=parts)

    def release(self) -> None:
        """Give back programs, and give the parts of the model their own forwards back."""
        self.forget()
        self._parts.release()
