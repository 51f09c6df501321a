"""Times frames of a model, dense and on blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..api import blockcopy_
from ..config import BlockCopyConfig
from ..engine.adapter import ModelAdapter
from ..engine.convert import restore_
from ..errors import BlockCopyError, ConfigError
from .cost_fit import seconds_at
from .frame_sizes import reduced

_OF_NOISE = 3


class FrameTimer:
    """Runs a model and times it.

    Args:
        model: The model.
        adapter: Adapter for the conversion.
        call: Runs a frame.
        clock: Returns the time in seconds.
        pictures: ``(N, 3, H, W)``, those that it is run on, scaled; ``None`` for noise.

    Attributes:
        dtype: dtype of the model.
        device: Device of the model.
        channels_last: Whether its weights lie channels last.
        takes_only_size: Whether the model takes no frames but of the size asked for, as those with
            a table of positions.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: ModelAdapter,
        call: Callable,
        clock: Callable[[], float],
        pictures: Tensor | None = None,
    ) -> None:
        self.model = model
        self.clock = clock
        self.adapter = adapter
        self._call, self._pictures = call, pictures
        floats = (p for p in nn.Module.parameters(model) if p.is_floating_point())
        example = next(floats, torch.empty(0))
        self.dtype, self.device = example.dtype, example.device
        self.channels_last = any(
            p.dim() == 4
            and p.is_contiguous(memory_format=torch.channels_last)
            and not p.is_contiguous()
            for p in nn.Module.parameters(model)
        )
        self.takes_only_size = False
        self._first: dict[tuple[int, int], float] = {}
        self._dense: dict[tuple[int, int], list[float]] = {}
        self._frames: dict[tuple[tuple[int, int], int], Tensor] = {}

    @property
    def dense_times(self) -> dict[tuple[int, int], float]:
        """Median seconds of a dense frame by its size."""
        return {size: median(times or [self._first[size]]) for size, times in self._dense.items()}

    def dense_seconds(self, size: tuple[int, int]) -> float:
        """Seconds of a dense frame: measured, or extrapolated from the sizes that were."""
        return seconds_at(self.dense_times, size)

    @contextmanager
    def on_blocks(self, block_size: int, policy: Any) -> Iterator[None]:
        """A context in which the model is converted."""
        config = BlockCopyConfig(block_size=block_size, policy=policy)
        blockcopy_(self.model, config, self.adapter)
        try:
            yield
        finally:
            restore_(self.model)

    def frame(self, size: tuple[int, int], number: int = 0) -> Tensor:
        """A frame: different ones in turn, the same for the same size."""
        known = self._pictures
        key = size, number % (_OF_NOISE if known is None else len(known))
        if self._frames and next(iter(self._frames))[0] != size:
            self._frames.clear()
        if key not in self._frames:
            if known is None:
                frame = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(key[1]))
            else:
                frame = interpolate(known[key[1]][None].float(), size, mode="bilinear")
            layout = torch.channels_last if self.channels_last else torch.contiguous_format
            frame = frame.to(self.device, self.dtype).contiguous(memory_format=layout)
            self._frames[key] = frame
        return self._frames[key]

    def now(self) -> float:
        """The time in seconds, once the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock()

    def run(self, frame: Tensor) -> float:
        """Seconds of one call."""
        start = self.now()
        # Not in inference mode: what a model keeps from a call must still work outside that mode.
        with torch.no_grad():
            self._call(self.model, frame)
        return self.now() - start

    def dense(self, size: tuple[int, int], times: int) -> None:
        """Time dense frames of a size; the model must not be converted.

        Args:
            size: ``(H, W)`` of the frames in pixels.
            times: How many, after a first one that counts only as long as it is the only one.

        Raises:
            ConfigError: If the model does not run on frames of this size.
        """
        try:
            if size not in self._first:
                self._first[size] = self.run(self.frame(size))
            found = self._dense.setdefault(size, [])
            for _ in range(times):
                found.append(self.run(self.frame(size, len(found))))
        except BlockCopyError:
            raise
        # Whatever the user's model raises.
        except Exception as error:
            frame = self.frame(size)
            raise ConfigError(
                f"the model cannot run a frame {tuple(frame.shape)}, {frame.dtype}: "
                f"{type(error).__name__}: {error}. Give call=f(model, frame) if it is not called "
                "model(frame)."
            ) from error


def probe(timing: FrameTimer, size: tuple[int, int], budget: float) -> None:
    """Time dense frames of growing sizes, to know what larger ones will take.

    Args:
        timing: Runs the model. If it takes no other size, this is noted.
        size: ``(H, W)`` of the largest frame in pixels.
        budget: Seconds that the last of them may take.
    """
    blocks, found = 2, []
    while True:
        current = reduced(size, 64, 0.0, (blocks, blocks))
        try:
            timing.dense(current, 1)
        except ConfigError:
            timing.dense(size, 1)
            timing.takes_only_size = True
            return
        if current not in found:
            found.append(current)
        blocks *= 2
        following = reduced(size, 64, 0.0, (blocks, blocks))
        # From one size alone nothing is known of a larger one.
        if current == size or len(found) > 1 and timing.dense_seconds(following) > budget:
            return
