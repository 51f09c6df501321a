"""The interface of estimates of motion."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import ConfigError
from ..policy import PolicyContext
from .displacement import Displacement


@dataclass(frozen=True, eq=False)
class MotionLook:
    """What an estimate has seen of one frame, before anything is remembered of it.

    Attributes:
        displacements: Of each image how far it has moved since the last frame of its stream that
            was committed; ``None`` where there is none, or where it cannot be told.
        seen: What is to be remembered of each image, by :meth:`Motion.commit` alone.
    """

    displacements: tuple[Displacement | None, ...]
    seen: tuple[Any, ...] = field(repr=False, default=())


class Motion:
    """Base class of all estimates: how far a video has moved from one frame to the next.

    The engine calls :meth:`look` for each batch of frames, before the network runs, and
    :meth:`commit` once it has. If it fails in between nothing is committed, so the same frame again
    gets the same answer.

    Attributes:
        needs_vectors: Whether :meth:`look` wants ``context.motion``. What reads videos exports
            their motion vectors only when this is True.
    """

    needs_vectors: bool = False

    def __init__(self) -> None:
        self._memory: dict[Hashable, Any] = {}

    def look(
        self, frame: Tensor, context: PolicyContext, wanted: Sequence[bool] | None = None
    ) -> MotionLook:
        """Estimate how far the images of a batch have moved since their streams' last frames.

        Args:
            frame: ``(N, C, H, W)``, any float dtype, at the network's input scale and normalised.
            context: What is known about the call.
            wanted: Of each image whether its displacement is wanted; all by default. What is not
                wanted may be None, and costs less.

        Returns:
            A displacement for each image, in pixels of the network's input.
        """
        wanted = (True,) * len(frame) if wanted is None else wanted
        seen = self.see(frame, context)
        size = (int(frame.shape[2]), int(frame.shape[3]))
        found: list[Displacement | None] = []
        for image, stream in enumerate(context.streams):
            before = None if context.host_first[image] else self._memory.get(stream)
            if before is None or seen[image] is None or not wanted[image]:
                found.append(None)
            else:
                found.append(self.compare(before, seen[image], size))
        return MotionLook(tuple(found), seen)

    def see(self, frame: Tensor, context: PolicyContext) -> tuple[Any, ...]:
        """Take of each image of a batch what :meth:`compare` needs, ``None`` where that is missing.

        Args:
            frame: ``(N, C, H, W)``.
            context: What is known about the call.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement see()")

    def compare(self, before: Any, now: Any, size: tuple[int, int]) -> Displacement | None:
        """Estimate the displacement between two frames of a stream.

        Args:
            before: What :meth:`see` took of the earlier one.
            now: What it took of the later one.
            size: ``(H, W)`` of the network's input, px.

        Returns:
            The displacement, or ``None`` if it cannot be told: of pictures of another size, after a
            cut, where no vectors came.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement compare()")

    def commit(self, look: MotionLook, context: PolicyContext) -> None:
        """Remember a frame that has run.

        Args:
            look: What :meth:`look` gave of it.
            context: The context given to :meth:`look`.
        """
        for stream, seen in zip(context.streams, look.seen, strict=True):
            self._memory[stream] = seen

    def reset(self, streams: Iterable[Hashable] | None = None) -> None:
        """Forget streams; ``None`` forgets all."""
        if streams is None:
            self._memory.clear()
            return
        for stream in streams:
            self._memory.pop(stream, None)


def check_cell(name: str, cell: int) -> int:
    """Return the side of a cell if it is one.

    Raises:
        ConfigError: If it is no integer of at least 4 px.
    """
    if isinstance(cell, bool) or not isinstance(cell, int) or cell < 4:
        raise ConfigError(f"cell of {name} must be an integer of at least 4 (px), found {cell!r}")
    return cell
