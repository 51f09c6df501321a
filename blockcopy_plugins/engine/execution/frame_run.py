"""One frame that is about to run: what it needs, and the ways to run it unrecorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..adapter import Call
from ..frame.counts import FrameCounts
from ..frame.dense_results import dense_results
from ..frame.frame import Frame
from ..frame.host_grid import HostGrid
from ..macs import MacsByPath
from ..state.store import StateStore
from ..state.stream import Stream
from ..strategies import OPS
from .call_kind import ResultForm, results_of_call
from .converted_model import ConvertedModel
from .frame_replay import FrameReplay
from .geometry_cache import GeometryCache


class FrameRun:
    """One frame to be run by any executor.

    Args:
        converted: The model.
        call: Its call.
        original: The model's own forward.
        grid: bool ``(N, GH, GW)``.
        blocks: The grid in host memory.
        store: State of the streams.
        streams: Stream of each image.
        cache: What has been worked out for frames of this geometry.

    Attributes:
        blocks: As given.
        executed: Number of executed blocks of the batch.
        counts: MACs of the frame, once it has run.
    """

    def __init__(
        self,
        converted: ConvertedModel,
        call: Call,
        original: Callable,
        grid: Tensor,
        blocks: HostGrid,
        store: StateStore,
        streams: list[Stream],
        cache: GeometryCache,
    ) -> None:
        self.converted = converted
        self.call = call
        self.grid = grid
        self.blocks = blocks
        self.store = store
        self.streams = streams
        self.cache = cache
        self.slots = tuple(stream.slot for stream in streams)
        self.executed = blocks.executed
        frame = call.frame
        # Results have the layout of the frame, as those of the plain model would.
        self.channels_last = not frame.is_contiguous() and frame.is_contiguous(
            memory_format=torch.channels_last
        )
        self._original = original
        self._frames: list[Frame | FrameReplay] = []
        self._plain: FrameCounts | None = None

    def again(self, grid: Tensor, blocks: HostGrid) -> FrameRun:
        """Another run of this frame on other blocks.

        Args:
            grid: See the class.
            blocks: See the class.
        """
        shared = (self.store, self.streams, self.cache)
        return FrameRun(self.converted, self.call, self._original, grid, blocks, *shared)

    @property
    def host(self) -> Tensor:
        """The grid in host memory."""
        return self.blocks.grid

    @property
    def device(self) -> torch.device:
        """The device of the frame."""
        return self.call.frame.device

    @property
    def counts(self) -> FrameCounts:
        """See the class."""
        return self._frames[-1].counts if self._plain is None else self._plain

    @property
    def touched_state(self) -> bool:
        """Whether state may have been written."""
        return any(frame.touched_state for frame in self._frames)

    @property
    def is_plain(self) -> bool:
        """Whether it has run as the plain model."""
        return self._plain is not None

    @property
    def may_be_plain(self) -> bool:
        """Whether all of it is executed, and its state is not needed."""
        return all(self.blocks.full) and not any(stream.keeps_state for stream in self.streams)

    @property
    def has_first(self) -> bool:
        """Whether it is the first frame of a stream, or the first after one that failed."""
        return any(stream.frames == 0 or stream.broken for stream in self.streams)

    def open(self, kind: Callable[..., Frame] = Frame, **options) -> Frame:
        """Open a context of the frame, to which the model's modules belong until the next one."""
        converted, config = self.converted, self.converted.config
        converted.convolutions.begin_frame()
        frame = kind(
            self.grid,
            self.blocks,
            tuple(self.call.frame.shape[2:]),
            config.block_size,
            self.store,
            self.streams,
            self.cache.plans,
            OPS,
            converted.convolutions,
            strict=config.strict,
            pack_whole=config.pack_whole_frames,
            repack=config.repack,
            **options,
        )
        frame.channels_last = self.channels_last
        self._frames.append(frame)
        converted.active.begin(frame, self.call.left)
        return frame

    def replay(self) -> FrameReplay:
        """Begin a frame that no module of the model sees, see :class:`FrameReplay`."""
        self.converted.convolutions.begin_frame()
        pack_whole, plans = self.converted.config.pack_whole_frames, self.cache.plans
        replay = FrameReplay(self.grid, self.blocks, self.streams, plans, pack_whole)
        self._frames.append(replay)
        return replay

    def run(self, frame: Frame, pixels: Tensor) -> Any:
        """Run the model on the executed blocks of a frame.

        Args:
            frame: The frame, opened.
            pixels: ``(N, C, H, W)``, the picture.

        Returns:
            What the model returns, with dense tensors.
        """
        block = (frame.block_size, frame.block_size)
        args, kwargs = self.call.replace(frame.from_dense(pixels, block))
        out = dense_results(self._original(*args, **kwargs), last=True)
        frame.finish()
        return out

    def leaves_of(self, result: Any) -> tuple[list[Tensor | None], ResultForm]:
        """The tensors that the call gave, and their form; see :func:`results_of_call`."""
        return results_of_call(result, self.call)

    def result_of(self, leaves: list[Tensor | None], form: ResultForm) -> Any:
        """The inverse of :meth:`leaves_of`; the call's left outputs are these from then on."""
        self.call.left.clear()
        result, left = form.build(leaves)
        self.call.left.update(left)
        return result

    def shown(self, leaves: list[Tensor | None], form: ResultForm) -> list[Tensor | None]:
        """Those values of the leaves that mean something: all of them."""
        return leaves

    def run_counted(self) -> Any:
        """Run the model on executed blocks; in first frames, count ops on ordinary tensors too."""
        frame = self.open()
        if not self.has_first:
            return self.run(frame, self.call.frame)
        # Counting takes time, so it is done once for each stream.
        with MacsByPath(frame) as counter:
            out = self.run(frame, self.call.frame)
        frame.counts.outside = counter.on_ordinary_tensors()
        return out

    def run_eagerly(self) -> Any:
        """Run the model on executed blocks without recording."""
        return self.run(self.open(), self.call.frame)

    def run_plain(self, counts: FrameCounts) -> Any:
        """Run the model as it is; no state is read or written.

        Args:
            counts: MACs of a whole frame.
        """
        self._plain = counts
        args, kwargs = self.call.replace(self.call.frame)
        self.converted.active.begin(None, self.call.left)
        with self.converted.plain.set_to(True):
            out = self._original(*args, **kwargs)
        for stream in self.streams:
            stream.stateless = True
        return out

    def note_copies(self, copies: Sequence[Tensor]) -> None:
        """Take notice of copies of the results that outlive the frame."""
        for _, lender in self._frames[-1].lent if copies and self._frames else ():
            lender.note_copies(copies)

    def close(self) -> None:
        """End the frame: its BlockTensors can no longer be used."""
        for frame in self._frames:
            frame.close()
