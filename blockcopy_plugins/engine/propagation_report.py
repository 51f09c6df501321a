"""Figures on the outputs of blocks that did not run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PropagationReport:
    """How outputs were carried from frame to frame.

    Attributes:
        propagate: ``'copy'``, ``'move'`` or ``'auto'``.
        motion: The estimate of motion, ``None`` if nothing is moved.
        frames: Number of images, without the first ones of streams.
        repeated: Images of frames in which no block ran and that did not go through the network.
        moved: Images whose outputs were moved, which is approximate; see :attr:`agreement_moved`.
        unknown: Images whose motion was unknown (vectors that are missing or of another size, a
            cut, a flow that diverges), so that outputs were copied until blocks ran again.
        checks: Whole frames by which moved and copied outputs were judged.
        agreement_moved: Mean agreement of moved outputs with the whole frame, 0 to 1;
            ``None`` before the first check.
        agreement_copied: The same for copied outputs.
        streams_moving: Live streams whose outputs are being moved.
        streams_copying: Live streams in which moving was tried and was no better.
        ms_motion: Mean milliseconds of a call for the motion, for moving and for checking.
        ms_estimate: Milliseconds of the estimate of an image's motion, the least of the last
            nine; ``None`` if it is not known, as on a GPU.
        ms_budget: Milliseconds that it may take: 5 % of a whole frame, at least 3 ms.
        coarsened: How often it was made coarser because it took more.
        obstacle: Why nothing could be moved, ``None`` if it could.
    """

    propagate: str
    motion: str | None
    frames: int
    repeated: int
    moved: int
    unknown: int
    checks: int
    agreement_moved: float | None
    agreement_copied: float | None
    streams_moving: int
    streams_copying: int
    ms_motion: float
    ms_estimate: float | None = None
    ms_budget: float = 0.0
    coarsened: int = 0
    obstacle: str | None = None

    def lines(self) -> list[str]:
        """Lines of text."""
        if self.propagate == "copy":
            if not self.repeated:
                return []
            return [f"  outputs           copied; {self.repeated} frames needed no network"]
        text = (
            f"  outputs           {self.propagate} by {self.motion}: {self.moved} of {self.frames} "
            f"frames moved (approximate), {self.repeated} needed no network, motion unknown in "
            f"{self.unknown}; {self.ms_motion:.1f} ms per call"
        )
        lines = [text]
        if self.checks:
            lines.append(
                f"    agreement with {self.checks} whole frames: {self.agreement_moved:.1%} moved, "
                f"{self.agreement_copied:.1%} copied; {self.streams_moving} stream(s) move, "
                f"{self.streams_copying} copy"
            )
        over = self.ms_estimate is not None and self.ms_estimate > self.ms_budget
        if self.coarsened or over:
            how = f"made coarser {self.coarsened} time(s)" if self.coarsened else "as it is"
            lines.append(
                f"    the estimate of motion takes {self.ms_estimate or 0:.1f} ms, {how}, of the "
                f"{self.ms_budget:.1f} ms that it may take"
            )
        if self.obstacle is not None:
            lines.append(f"    nothing is moved: {self.obstacle}")
        return lines
