"""The programs of a converted model: of whole frames, or of its parts where those cannot be."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from ..adapter import Call
from .converted_model import ConvertedModel
from .frame_programs import FramePrograms, ProgramReport
from .frame_run import FrameRun
from .part_programs import PartPrograms

_PARTS = "parts"


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

    def kind_of(self, converted: ConvertedModel, call: Call) -> Hashable | None:
        """See :class:`~.executor.Executor`."""
        kind = super().kind_of(converted, call)
        if kind is not None or not self.enabled or not self.is_for(call) or self.obstacle():
            return kind
        return _PARTS

    def run(self, work: FrameRun, kind: Hashable) -> Any:
        """See :class:`~.executor.Executor`."""
        return self._parts.run(work, kind) if kind is _PARTS else super().run(work, kind)

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
