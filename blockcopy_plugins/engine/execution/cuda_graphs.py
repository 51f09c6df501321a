"""Frames as CUDA graphs: captured once for each number of executed blocks, then replayed.

A graph repeats what the GPU did in one frame, on the same memory, without the model's Python.
What differs between frames is data in that memory: the picture, the lists of executed blocks and
the streams' slots (:mod:`.static_frame`), so all streams share a graph. The host's own work,
claims of state and counts, is repeated at each replay. Outputs are returned as copies.

The first frame of a kind runs eagerly, and does what a capture must not do (cuDNN's choices,
index tables); the second is captured. First frames of streams run eagerly. So does what cannot be
captured, and :class:`GraphReport` says why.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..adapter import Call
from ..macs import MacCounter
from .call_kind import results_of_call
from .capture_backend import CaptureBackend, CudaBackend
from .capture_guard import CaptureError, CaptureGuard
from .frame_run import FrameRun
from .geometry_cache import GeometryCaches
from .graph_pool import FrameGraph, GraphPool
from .replay import ReplayExecutor, ReplayReport
from .replayed_frame import claimed
from .static_frame import BlockLists, StaticFrame, StaticInputs, StaticLists

MIB = 2**20
# A graph that was replayed within so many calls is not evicted for another: two that do not fit
# together would evict each other in turn, and a capture costs more than many frames.
_RECENT_CALLS = 256


@dataclass(frozen=True)
class GraphReport(ReplayReport):
    """What became of the frames of a converted model that graphs are for.

    Attributes:
        graphs: Number of graphs now.
        graph_bytes: Memory that they hold, in bytes.
        captured: Number captured so far.
        evicted: Number freed so far, to make room or because what they read had moved.
    """

    graphs: int = 0
    graph_bytes: int = 0
    captured: int = 0
    evicted: int = 0

    def headline(self) -> str:
        """See :class:`ReplayReport`."""
        return (
            f"  CUDA graphs       {self.graphs:8d} of {self.graph_bytes / MIB:.1f} MiB, "
            f"{self.replayed} calls replayed"
        )


class FrameGraphs(ReplayExecutor):
    """The graphs of a converted model.

    Args:
        caches: Caches of the graphs and of the maps that they read and write.
        enabled: Whether frames are captured at all.
        limit: Bytes that all graphs may hold together.
        backend: What captures; ``None`` for torch's CUDA graphs, which take frames on CUDA only.
    """

    recordings = "CUDA graphs"

    def __init__(
        self,
        caches: GeometryCaches,
        enabled: bool = True,
        limit: int = 4096 * MIB,
        backend: CaptureBackend | None = None,
    ) -> None:
        super().__init__(enabled)
        self.caches = caches
        self.limit = limit
        self.backend = backend
        self._cuda = CudaBackend()
        self._calls = self._captured = self._evicted = 0

    def is_for(self, call: Call) -> bool:
        """See :class:`ReplayExecutor`."""
        return self.backend is not None or call.frame.is_cuda

    def run(self, work: FrameRun, kind: Hashable) -> Any:
        """Run a frame: replay its graph, capture it, or warm up for the capture.

        See :class:`~.executor.Executor`.
        """
        if MacCounter.is_counting():
            return work.run_eagerly()
        self._calls += 1
        pool = work.cache.graphs
        if pool.generation != self._generation:
            pool.clear()
            pool.generation = self._generation
        key = (len(work.streams), work.executed, work.channels_last, kind)
        for graph in list(pool.graphs.get(key, ())):
            if not graph.recorded.holds(work.store):
                self._evict(pool, graph)
                continue
            lists = graph.lists.read(work.host, work.slots)
            if graph.lists.fit(lists):
                return self._replay(work, graph, lists)
        inputs = pool.inputs.get(len(work.streams))
        if inputs is None:
            inputs = StaticInputs(work.call.frame, work.grid)
            pool.inputs[len(work.streams)] = inputs
        inputs.fill(work.call.frame, work.grid)
        self._recorded += 1
        if key not in pool.warm:
            return self._warm_up(work, kind, key, inputs)
        return self._capture(work, kind, key, inputs)

    def forget(self) -> None:
        """Give all memory back."""
        super().forget()
        for cache in self.caches:
            cache.graphs.clear()
        self.caches.forget_idle()

    def report(self) -> GraphReport | None:
        """What has happened so far; ``None`` if no frame was one for graphs."""
        if not self._calls and not self._eager_calls:
            return None
        graphs = [graph for cache in self.caches for graph in cache.graphs]
        return GraphReport(
            graphs=len(graphs),
            graph_bytes=sum(graph.captured.bytes for graph in graphs),
            captured=self._captured,
            evicted=self._evicted,
            replayed=self._replayed,
            recorded=self._recorded,
            eager_calls=dict(self._eager_calls),
        )

    # -- one frame --------------------------------------------------------------------------------

    def _warm_up(self, work: FrameRun, kind: Hashable, key: Hashable, inputs: StaticInputs):
        lists = StaticLists(work.device, work.slots)
        frame = work.open(StaticFrame, inputs=inputs, lists=lists)
        backend = self.backend or self._cuda
        guard = CaptureGuard(work.device, lambda: frame.path, refuse=False)

        def call():
            with guard:
                return work.run(frame, inputs.frame), work.call.left

        with _no_autocast_cache():
            result, _ = backend.warm_up(call, work.device)
        try:
            if guard.found is not None:
                raise CaptureError(guard.found)
            results_of_call(result, work.call)
        except CaptureError as error:
            self._refuse(kind, str(error))
        else:
            work.cache.graphs.warm[key] = lists
        return result

    def _capture(self, work: FrameRun, kind: Hashable, key: Hashable, inputs: StaticInputs):
        pool = work.cache.graphs
        needed = pool.sizes.get(key)
        if needed is not None and not self._make_room(needed):
            return self._without(work, self._no_room(needed))
        if claimed(work.store, work.streams):
            # A frame of this number failed half-way: what this one claims cannot be known.
            return work.run_eagerly()
        # Streams may have come since the warm-up; a graph needs all memory in place.
        work.store.grow()
        lists = pool.warm[key]
        lists.freeze(lists.read(work.host, work.slots))
        frame = work.open(StaticFrame, inputs=inputs, lists=lists, hold_results=True)
        made = set(work.store.entries.values())
        work.call.left.clear()
        backend = self.backend or self._cuda

        def call():
            with CaptureGuard(work.device, lambda: frame.path, refuse=True):
                return work.run(frame, inputs.frame)

        try:
            with _no_autocast_cache():
                captured = backend.capture(call, work.device)
            leaves, form = results_of_call(captured.result, work.call)
            recorded = frame.recorded()
            if not made.issuperset(work.store.entries.values()):
                raise CaptureError("the model kept state that it did not keep in the warm-up")
        except torch.OutOfMemoryError:
            lists.thaw()
            pool.sizes[key] = self.limit + 1
            return self._without(work, "there was no memory left on the device for a graph")
        except Exception as error:
            # Whatever the model cannot do in a capture, it can do without one. If it fails there
            # too, the caller sees that error.
            lists.thaw()
            what = str(error).strip().partition("\n")[0]
            if not isinstance(error, CaptureError):
                what = f"{type(error).__name__} in module {frame.path or '(root)'!r}: {what}"
            self._refuse(kind, f"it could not be captured ({what})")
            return self._without(work, self._refused[kind])
        pool.sizes[key] = captured.bytes
        if not self._make_room(captured.bytes):
            lists.thaw()
            return self._without(work, self._no_room(captured.bytes))
        graph = FrameGraph(key, captured, leaves, form, inputs, lists, recorded, frame.held)
        # The next graph of this key, for another number of blocks beyond the grid, has its own
        # lists.
        del pool.warm[key]
        pool.add(graph)
        self._captured += 1
        return self._finish(work, graph, frame)

    def _replay(self, work: FrameRun, graph: FrameGraph, lists: BlockLists):
        graph.inputs.fill(work.call.frame, work.grid)
        graph.lists.fill(lists)
        frame = work.open(StaticFrame, inputs=graph.inputs, lists=graph.lists)
        graph.recorded.repeat(frame, graph.recorded.counts)
        self._replayed += 1
        return self._finish(work, graph, frame)

    def _finish(self, work: FrameRun, graph: FrameGraph, frame: StaticFrame):
        graph.last_call = self._calls
        graph.captured.replay()
        result, left = graph.copy_results(frame)
        work.call.left.clear()
        work.call.left.update(left)
        return result

    def _without(self, work: FrameRun, reason: str):
        self._note(reason)
        work.call.left.clear()
        return work.run_eagerly()

    # -- what cannot be a graph -------------------------------------------------------------------

    def _refuse(self, kind: Hashable, reason: str) -> None:
        self._refused[kind] = reason

    # -- memory -----------------------------------------------------------------------------------

    def _make_room(self, needed: int) -> bool:
        """Free graphs until ``needed`` more bytes are within the limit, if possible."""
        if needed > self.limit:
            return False
        idle = {id(g) for cache in self.caches if cache.idle is not None for g in cache.graphs}
        graphs = [(g, cache.graphs) for cache in self.caches for g in cache.graphs]
        graphs.sort(key=lambda pair: pair[0].last_call)
        held = sum(graph.captured.bytes for graph, _ in graphs)
        victims = []
        for graph, pool in graphs:
            if held + needed <= self.limit:
                break
            if id(graph) in idle or self._calls - graph.last_call > _RECENT_CALLS:
                victims.append((pool, graph))
                held -= graph.captured.bytes
        if held + needed > self.limit:
            return False
        for pool, graph in victims:
            self._evict(pool, graph)
        self.caches.forget_idle()
        return True

    def _evict(self, pool: GraphPool, graph: FrameGraph) -> None:
        pool.discard(graph)
        self._evicted += 1

    def _no_room(self, needed: int) -> str:
        # Without figures, so that it is one reason however often it occurs.
        option = "raise BlockCopyConfig.graph_memory_mib or have fewer buckets"
        if needed > self.limit:
            return f"a graph needs more memory than all may have; {option}"
        return f"the graphs that are in use leave no memory for another; {option}"


@contextmanager
def _no_autocast_cache() -> Iterator[None]:
    """Casts of parameters are part of the frame: cached ones would be gone in the next."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
