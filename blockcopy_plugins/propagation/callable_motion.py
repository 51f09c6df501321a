"""Motion by a user's function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import FrameError
from ..policy import PolicyContext
from .base import Motion, MotionLook
from .displacement import Displacement


class CallableMotion(Motion):
    """How far the images of a batch have moved, by a function.

    Args:
        function: ``f(frame, context)``, called once for each batch with the frame ``(N, C, H, W)``
            and its :class:`~blockcopy_plugins.policy.PolicyContext`. It returns for each image how
            far its content has moved since the last frame of its stream: a :class:`Displacement`; a
            float tensor ``(rows, columns, 2)`` (to the right and down, in pixels of the network's
            input, for square cells that cover the frame); a pair ``(x, y)`` for the whole picture;
            or ``None`` if it is not known.
    """

    def __init__(self, function: Callable[[Tensor, PolicyContext], Sequence[Any]]) -> None:
        super().__init__()
        self.function = function

    def look(self, frame: Tensor, context: PolicyContext) -> MotionLook:
        """See :meth:`Motion.look`.

        Raises:
            FrameError: If the function returns anything but the values described above.
        """
        found = self.function(frame, context)
        if not isinstance(found, Sequence) or len(found) != len(frame):
            count = len(found) if isinstance(found, Sequence) else type(found).__name__
            raise FrameError(
                f"the motion function gave {count}, expected a list with one displacement for each "
                f"of {len(frame)} image(s), None where it is not known"
            )
        size = (int(frame.shape[2]), int(frame.shape[3]))
        moved = [
            None if first else _displacement(one, size)
            for one, first in zip(found, context.host_first, strict=True)
        ]
        return MotionLook(moved.__getitem__, (None,) * len(frame))


def _displacement(found: Any, size: tuple[int, int]) -> Displacement | None:
    if found is None:
        return None
    if isinstance(found, Displacement):
        if found.size != size:
            raise FrameError(
                f"the motion function gave the displacement of a frame of {found.size} px, but the "
                f"network's input has {size}; scale it"
            )
        return found
    if isinstance(found, (tuple, list)) and len(found) == 2:
        return Displacement.translation(float(found[0]), float(found[1]), size)
    if isinstance(found, Tensor) and found.dim() == 3 and found.shape[2] == 2 and found.numel():
        rows, columns = found.shape[:2]
        cell = max(-(-size[0] // rows), -(-size[1] // columns))
        vectors = found.detach().cpu().float()
        return Displacement(vectors, torch.ones(rows, columns), cell, size)
    described = tuple(found.shape) if isinstance(found, Tensor) else repr(found)
    raise FrameError(
        f"the motion function gave {described} for an image, expected a Displacement, a tensor "
        "(rows, columns, 2) of square cells, a pair (x, y) in px, or None"
    )
