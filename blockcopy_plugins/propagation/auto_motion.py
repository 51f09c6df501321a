"""Motion that is estimated only if the whole picture moves."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from torch import Tensor

from ..policy import PolicyContext
from ..policy.base import check_rate
from .base import MotionLook
from .dis_motion import DISMotion
from .displacement import Displacement, cells_of
from .grey_picture import GreyPicture, grey_step, mean_of_cells

_CELL = 8  # px of the reduced picture
# Grey levels of 255: a cell whose rows and columns differ by less shows nothing that could move.
_TEXTURE = 3.0
_CHANGED = 2.5
# After so many successive looks at a still picture, every other frame is looked at, after twice
# as many every third, up to the longest rest between two looks.
_LOOKS_PER_FRAME_OF_REST = 4
_LONGEST_REST = 7


@dataclass
class _Rest:
    """How long a stream has been still.

    Attributes:
        looks: Looks in turn that found it still.
        frames: Frames since the last of them.
    """

    looks: int = 0
    frames: int = 0

    @property
    def goes_on(self) -> bool:
        """Whether the next frame can be skipped."""
        return self.frames < min(self.looks // _LOOKS_PER_FRAME_OF_REST, _LONGEST_REST)


class AutoMotion(DISMotion):
    """Optical flow if most of the picture changes from one frame to the next, else nothing.

    A moving camera changes the picture wherever there is visible structure. This looks at the cells
    of the reduced grey picture that have some (neighbouring pixels differ by 3 of 255 grey levels
    on average), and estimates flow if more than ``share`` of them have changed by 2.5 grey levels
    on average. With a fixed camera nothing is moved, and the picture is looked at less and less
    often, down to every eighth frame. Each look shows the motion since the last one, so a camera
    that begins to move is noticed up to seven frames late, but none of its motion is lost.

    Args:
        share: Share of the cells that must have changed, 0 to 1.
        width: Approximate width to which wider frames are reduced, px.
        cell: Approximate side of a cell, px of the network's input.

    Raises:
        ConfigError: If a value is out of range, or OpenCV is not installed.
    """

    def __init__(self, share: float = 0.6, width: int = 320, cell: int = 8) -> None:
        super().__init__(width, cell)
        self.share = check_rate("share", share)
        self._rests: dict[Hashable, _Rest] = {}
        self._still: Displacement | None = None

    def look(self, frame: Tensor, context: PolicyContext) -> MotionLook:
        """See :meth:`Motion.look`; streams that rest are skipped."""
        known = zip(context.streams, context.host_first, strict=True)
        if not all(not first and self._rest(stream).goes_on for stream, first in known):
            return super().look(frame, context)
        still = self._nothing((int(frame.shape[2]), int(frame.shape[3])))
        return MotionLook(lambda image: still, (None,) * len(frame))

    def commit(self, look: MotionLook, context: PolicyContext) -> None:
        """See :meth:`Motion.commit`."""
        if None in look.seen:
            for stream in context.streams:
                self._rest(stream).frames += 1
            return
        super().commit(look, context)
        for image, stream in enumerate(context.streams):
            found = look.known(image)
            looks = self._rest(stream).looks + 1 if found is not None and found.is_still else 0
            self._rests[stream] = _Rest(looks)

    def reset(self, streams: Iterable[Hashable] | None = None) -> None:
        """See :meth:`Motion.reset`."""
        streams = None if streams is None else list(streams)
        super().reset(streams)
        for stream in list(self._rests) if streams is None else streams:
            self._rests.pop(stream, None)

    def without_streams(self) -> AutoMotion:
        """See :meth:`Motion.without_streams`."""
        other = super().without_streams()
        other._rests = {}
        return other

    def displacement(
        self, before: GreyPicture, now: GreyPicture, size: tuple[int, int]
    ) -> Displacement | None:
        """See :meth:`GreyMotion.displacement`."""
        if share_changed(before, now) <= self.share:
            return self._nothing(size)
        return super().displacement(before, now, size)

    def _rest(self, stream: Hashable) -> _Rest:
        return self._rests.get(stream) or _Rest()

    def _nothing(self, size: tuple[int, int]) -> Displacement:
        """No motion; the same object each time, which knows that it is still."""
        step = grey_step(size, self.width, self.coarser)
        cell = max(round(self.cell / step), 2) * step
        if self._still is None or (self._still.size, self._still.cell) != (size, cell):
            self._still = Displacement.still(size, cell)
        return self._still


def share_changed(before: GreyPicture, now: GreyPicture) -> float:
    """Return the share of the cells with visible structure that have changed, 0 to 1.

    Args:
        before: The earlier picture.
        now: The later one, of the same size and scale of grey.
    """
    level = 255.0 / now.span
    earlier = before.pixels
    cells = cells_of(now.pixels.shape, _CELL)
    difference = mean_of_cells((now.pixels - earlier).abs(), _CELL, cells) * level
    texture = earlier.new_zeros(earlier.shape)
    texture[:, 1:] = (earlier[:, 1:] - earlier[:, :-1]).abs()
    texture[1:] = texture[1:].maximum((earlier[1:] - earlier[:-1]).abs())
    shows = mean_of_cells(texture, _CELL, cells) * level >= _TEXTURE
    if not bool(shows.any()):
        return 0.0
    return float((difference >= _CHANGED)[shows].float().mean())
