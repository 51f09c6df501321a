"""The interface of estimates of motion."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from copy import copy
from typing import Any

from torch import Tensor

from ..errors import ConfigError
from ..policy import PolicyContext
from .displacement import Displacement


class MotionLook:
    """An estimate's view of one batch, before anything of it is remembered.

    Args:
        compute: Estimates the displacement of an image; called when the displacement is asked for.
        seen: The data of each image to remember, by :meth:`Motion.commit` alone.
        seconds: CPU time of the thread that it took to collect it.

    Attributes:
        seconds: CPU time of the thread that the batch has taken so far.
    """

    def __init__(
        self,
        compute: Callable[[int], Displacement | None],
        seen: Sequence[Any],
        seconds: float = 0.0,
    ) -> None:
        self.seen = tuple(seen)
        self.seconds = seconds
        self._compute = compute
        self._found: dict[int, Displacement | None] = {}

    def displacement(self, image: int) -> Displacement | None:
        """How far an image has moved since the last frame of its stream that was committed.

        Returns:
            In pixels of the network's input; ``None`` if there is no such frame, or if the
            displacement cannot be determined.
        """
        if image not in self._found:
            start = time.thread_time()
            self._found[image] = self._compute(image)
            self.seconds += time.thread_time() - start
        return self._found[image]

    def known(self, image: int) -> Displacement | None:
        """As :meth:`displacement`, but ``None`` too if that was never asked for."""
        return self._found.get(image)

    @property
    def is_asked(self) -> bool:
        """Whether the displacement of every image was asked for."""
        return len(self._found) == len(self.seen)

    @property
    def displacements(self) -> tuple[Displacement | None, ...]:
        """The displacements of all images."""
        return tuple(map(self.displacement, range(len(self.seen))))


class Motion:
    """Base class of all estimates: how far a video has moved from one frame to the next.

    The engine calls :meth:`look` for each batch of frames, before the network runs, and
    :meth:`commit` once it has. If it fails in between nothing is committed, so the same frame again
    gets the same answer.

    Attributes:
        needs_vectors: Whether :meth:`look` wants ``context.motion``. Video readers export their
            motion vectors only when this is True.
    """

    needs_vectors: bool = False

    def __init__(self) -> None:
        self._memory: dict[Hashable, Any] = {}

    @property
    def name(self) -> str:
        """The estimate's name in reports."""
        return type(self).__name__

    def look(self, frame: Tensor, context: PolicyContext) -> MotionLook:
        """Look at the images of a batch.

        Args:
            frame: ``(N, C, H, W)``, any float dtype, at the network's input scale and normalised.
            context: What is known about the call.

        Returns:
            An object that says how far each has moved since its stream's last frame.
        """
        start = time.thread_time()
        seen = self.see(frame, context)
        seconds = time.thread_time() - start
        before = [
            None if first else self._memory.get(stream)
            for stream, first in zip(context.streams, context.host_first, strict=True)
        ]
        size = (int(frame.shape[2]), int(frame.shape[3]))

        def compute(image: int) -> Displacement | None:
            if before[image] is None or seen[image] is None:
                return None
            return self.compare(before[image], seen[image], size)

        return MotionLook(compute, seen, seconds)

    def see(self, frame: Tensor, context: PolicyContext) -> tuple[Any, ...]:
        """Take from each image the data that :meth:`compare` needs, ``None`` if it is missing.

        Args:
            frame: ``(N, C, H, W)``.
            context: What is known about the call.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement see()")

    def compare(self, before: Any, now: Any, size: tuple[int, int]) -> Displacement | None:
        """Estimate the displacement between two frames of a stream.

        Args:
            before: Data that :meth:`see` took from the earlier frame.
            now: Data that it took from the later frame.
            size: ``(H, W)`` of the network's input, px.

        Returns:
            The displacement, or ``None`` if it cannot be determined: for pictures of another size,
            after a cut, if no vectors came.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement compare()")

    def commit(self, look: MotionLook, context: PolicyContext) -> None:
        """Remember a frame that has run.

        Args:
            look: The result of :meth:`look` for it.
            context: The context given to :meth:`look`.
        """
        for stream, seen in zip(context.streams, look.seen, strict=True):
            self._memory[stream] = seen

    def coarsen(self, size: tuple[int, int]) -> bool:
        """Look at less from the next frame on, because the estimate takes too long.

        Args:
            size: ``(H, W)`` of the network's input, px.

        Returns:
            Whether that could be done; here it cannot.
        """
        return False

    def without_streams(self) -> Motion:
        """The same estimate without any stream's memory."""
        other = copy(self)
        other._memory = {}
        return other

    def reset(self, streams: Iterable[Hashable] | None = None) -> None:
        """Forget streams; ``None`` forgets all."""
        if streams is None:
            self._memory.clear()
            return
        for stream in streams:
            self._memory.pop(stream, None)


def check_cell(name: str, cell: int) -> int:
    """Return the side of a cell if it is valid.

    Raises:
        ConfigError: If it is not an integer of at least 4 px.
    """
    if isinstance(cell, bool) or not isinstance(cell, int) or cell < 4:
        raise ConfigError(f"cell of {name} must be an integer of at least 4 (px), found {cell!r}")
    return cell
