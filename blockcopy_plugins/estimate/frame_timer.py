"""Times frames of a model, dense and on blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ..api import blockcopy_
from ..config import BlockCopyConfig
from ..engine.adapter import ModelAdapter
from ..engine.convert import restore_
from ..errors import BlockCopyError, ConfigError
from .frame_sizes import reduced


class FrameTimer:
    """Runs a model and times it.

    Args:
        model: The model.
        adapter: Adapter for the conversion.
        call: Runs a frame.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: ModelAdapter,
        call: Callable,
        clock: Callable[[], float],
    ) -> None:
        self.model = model
        self.clock = clock
        self.adapter = adapter
        self._call = call
        floats = (p for p in nn.Module.parameters(model) if p.is_floating_point())
        example = next(floats, torch.empty(0))
        self.dtype, self.device = example.dtype, example.device
        self.channels_last = any(
            p.dim() == 4
            and p.is_contiguous(memory_format=torch.channels_last)
            and not p.is_contiguous()
            for p in nn.Module.parameters(model)
        )
        self._dense: dict[tuple[int, int], list[float]] = {}

    @property
    def dense_times(self) -> dict[tuple[int, int], float]:
        """Median seconds of a dense frame by its size."""
        return {size: median(times) for size, times in self._dense.items()}

    @contextmanager
    def on_blocks(self, block_size: int, policy: Any) -> Iterator[None]:
        """A context in which the model is converted."""
        config = BlockCopyConfig(block_size=block_size, policy=policy)
        blockcopy_(self.model, config, self.adapter)
        try:
            yield
        finally:
            restore_(self.model)

    def frame(self, size: tuple[int, int]) -> Tensor:
        """A frame of noise, the same for the same size, so that a detector finds the same in it."""
        frame = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return frame.to(self.device, self.dtype).contiguous(memory_format=layout)

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

        Raises:
            ConfigError: If the model does not run on frames of this size.
        """
        frame = self.frame(size)
        if size not in self._dense:
            try:
                self.run(frame)
            except BlockCopyError:
                raise
            # Whatever the user's model raises.
            except Exception as error:
                raise ConfigError(
                    f"the model cannot run a frame {tuple(frame.shape)}, {frame.dtype}: "
                    f"{type(error).__name__}: {error}. An estimate runs it on frames smaller than "
                    "those asked for; give call=f(model, frame) if it is not called model(frame)."
                ) from error
            self._dense[size] = []
        self._dense[size] += [self.run(frame) for _ in range(times)]


def seconds_per_pixel(timing: FrameTimer, size: tuple[int, int], budget: float) -> float:
    """Seconds per pixel of a dense frame, from frames that grow until one takes long enough."""
    blocks = 2
    while True:
        probe = reduced(size, 64, 0.0, (blocks, blocks))
        timing.dense(probe, 1)
        spent = timing.dense_times[probe]
        # The next one would be four times as large.
        if probe == size or 4 * spent > 0.05 * budget:
            return spent / prod(probe)
        blocks *= 2
