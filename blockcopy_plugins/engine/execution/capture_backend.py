"""Captures what a call does on a device, to be repeated without the work of the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from ..torch_internals import tree_leaves


class Captured(Protocol):
    """The work of one call, ready to be repeated.

    Attributes:
        result: What the call returned; its tensors hold values after a :meth:`replay`.
        bytes: Memory that it holds.
    """

    result: Any
    bytes: int

    def replay(self) -> None:
        """Repeat the work on the present contents of the memory that it reads."""


class CaptureBackend(Protocol):
    """Runs calls and captures them."""

    def warm_up(self, call: Callable[[], Any], device: torch.device) -> Any:
        """Run a call that is to be captured later; returns its result."""

    def capture(self, call: Callable[[], Any], device: torch.device) -> Captured:
        """Capture what a call does, without doing it."""


class CudaCaptured:
    """A CUDA graph; see :class:`Captured`."""

    def __init__(self, graph: torch.cuda.CUDAGraph, result: Any, bytes_: int) -> None:
        self._graph = graph
        self.result = result
        self.bytes = bytes_

    def replay(self) -> None:
        """See :class:`Captured`; on the current stream."""
        self._graph.replay()


class CudaBackend:
    """torch's CUDA graphs, each with its own memory pool."""

    def __init__(self) -> None:
        # The allocator still uses a graph whose capture CUDA refused, so it must stay alive.
        self._failed: list[torch.cuda.CUDAGraph] = []

    def __reduce__(self):
        # torch's graphs can be neither copied nor pickled.
        return CudaBackend, ()

    def warm_up(self, call: Callable[[], Any], device: torch.device) -> Any:
        """Run a call on a side stream, as torch requires before a capture."""
        with torch.cuda.device(device):
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(current)
            with torch.cuda.stream(side):
                result = call()
            current.wait_stream(side)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.is_cuda:
                leaf.record_stream(current)
        return result

    def capture(self, call: Callable[[], Any], device: torch.device) -> CudaCaptured:
        """Capture a call.

        Raises:
            RuntimeError: If it does something that no graph can, such as wait for the device.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            current = torch.cuda.current_stream()
            try:
                # Other threads may read a camera or copy to the GPU meanwhile: watch only this
                # one.
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    # Inside, because entering frees what the allocator keeps in reserve.
                    before = torch.cuda.memory_reserved()
                    result = call()
                    bytes_ = torch.cuda.memory_reserved() - before
            except BaseException:
                self._failed.append(graph)
                raise
            finally:
                # torch leaves its capture stream in place if ending a capture fails.
                torch.cuda.set_stream(current)
        return CudaCaptured(graph, result, max(bytes_, 0))
