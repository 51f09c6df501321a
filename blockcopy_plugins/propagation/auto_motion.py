"""Motion that is estimated only if the whole picture moves."""

from __future__ import annotations

from ..policy.base import check_rate
from .dis_motion import DISMotion
from .displacement import Displacement, cells_of
from .grey_picture import GreyPicture, mean_of_cells

_CELL = 8  # px of the reduced picture
# Grey levels of 255: a cell whose rows and columns differ by less shows nothing that could move.
_TEXTURE = 3.0
_CHANGED = 2.5


class AutoMotion(DISMotion):
    """Optical flow if most of the picture changes from one frame to the next, else nothing.

    A moving camera changes the picture wherever there is visible structure. This looks at the cells
    of the reduced grey picture that have some (neighbouring pixels differ by 3 of 255 grey levels
    on average), and estimates flow if more than ``share`` of them have changed by 2.5 grey levels
    on average. With a fixed camera this costs next to nothing, and nothing is moved.

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

    def displacement(
        self, before: GreyPicture, now: GreyPicture, size: tuple[int, int]
    ) -> Displacement | None:
        """See :meth:`GreyMotion.displacement`."""
        if share_changed(before, now) <= self.share:
            return Displacement.still(size, max(round(self.cell / now.step), 2) * now.step)
        return super().displacement(before, now, size)


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
