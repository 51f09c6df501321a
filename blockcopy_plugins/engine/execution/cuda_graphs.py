"""Frames as CUDA graphs: captured once for each number of executed blocks, then replayed.

A graph does again what the GPU did in one frame, on the same memory, without the Python of the
model. What differs between frames is data in that memory: the picture, the lists of executed blocks
and the streams' slots (:mod:`.static_frame`), so that all streams share a graph. What the host did
beside, claims of state and counts, is done again at each replay. Outputs are handed out as copies.

The first frame of a kind runs as ever, which warms up what the capture must not do (cuDNN's
choices, index tables); the second is captured. First frames of streams run as ever. What cannot be
captured runs as ever too, and :class:`GraphReport` says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from ..adapter import Call
from ..converted_model import ConvertedModel
from ..macs import MacCounter
from ..state.store import StateEntry, StreamStates
from .capture_guard import CaptureError, CaptureGuard
from .frame_run import FrameRun
from .graph_pool import GraphPool
from .model_watch import ModelWatch
from .static_frame import (
    BlockLists,
    Recorded,
    StaticFrame,
    StaticInputs,
    StaticLists,
    claimed,
)

logger = logging.getLogger(__name__)

MIB = 2**20
# A graph that was replayed in so many of the last calls does not make room for another: two that
# do not fit together would take turns, and each capture costs more than many frames.
_RECENT_CALLS = 256
_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)


class Captured(Protocol):
    """The work of one call, ready to be done again.

    Attributes:
        result: What the call returned; its tensors hold values after a :meth:`replay`.
        bytes: Memory that it holds.
    """

    result: Any
    bytes: int

    def replay(self) -> None:
        """Do the work again on what now stands in the memory that it reads."""


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
    """CUDA graphs as torch has them, each with a memory pool of its own."""

    def __init__(self) -> None:
        # The allocator goes on asking a graph whose capture CUDA refused; it must not be gone.
        self._failed: list[torch.cuda.CUDAGraph] = []

    def __reduce__(self):
        # torch's graphs can be neither copied nor pickled.
        return CudaBackend, ()

    def warm_up(self, call: Callable[[], Any], device: torch.device) -> Any:
        """Run a call on a side stream, as torch asks for before a capture."""
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
            RuntimeError: If it does what no graph can, such as to wait for the device.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            current = torch.cuda.current_stream()
            try:
                # Other threads may read a camera or copy to the GPU meanwhile: only this one is
                # watched.
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    # Inside: entering gave back what the allocator kept for later.
                    before = torch.cuda.memory_reserved()
                    result = call()
                    bytes_ = torch.cuda.memory_reserved() - before
            except BaseException:
                self._failed.append(graph)
                raise
            finally:
                # torch leaves its capture stream in place where ending a capture fails.
                torch.cuda.set_stream(current)
        return CudaCaptured(graph, result, max(bytes_, 0))


@dataclass(eq=False)
class FrameGraph:
    """One captured frame.

    Attributes:
        key: What a frame must have in common with it.
        captured: The work.
        leaves: Tensors (or ``None``) of its results.
        spec: Of which :attr:`leaves` are the leaves: the model's results, and what its dense exits
            gave.
        inputs: What it reads.
        lists: What it reads.
        recorded: What the host did.
        held: The state that stands for a leaf which the graph does not copy, by the leaf's id.
        last_call: Number of the call that last replayed it.
    """

    key: Hashable
    captured: Captured
    leaves: list[Tensor | None]
    spec: TreeSpec
    inputs: StaticInputs
    lists: StaticLists
    recorded: Recorded
    held: dict[int, StateEntry]
    last_call: int = 0

    def copy_results(self, frame: StaticFrame) -> Any:
        """The results in memory of their own; a tensor that is there twice still is one."""
        copies: dict[int, Tensor] = {}
        # Not in inference mode, as results of eager frames are not.
        with torch.inference_mode(False), torch.no_grad():
            for leaf in self.leaves:
                if leaf is None or id(leaf) in copies:
                    continue
                entry = self.held.get(id(leaf))
                copies[id(leaf)] = leaf.clone() if entry is None else frame.copy_result(entry)
        leaves = [None if leaf is None else copies[id(leaf)] for leaf in self.leaves]
        return tree_unflatten(leaves, self.spec)


@dataclass(frozen=True)
class GraphReport:
    """What became of the frames of a converted model that graphs are for.

    Attributes:
        graphs: That there are now.
        graph_bytes: Memory that they hold.
        captured: Captured so far.
        evicted: Given back so far, to make room or because what they read had moved.
        replayed: Calls that were replays.
        eager_calls: Calls that ran without a graph although they should not, by reason.
    """

    graphs: int = 0
    graph_bytes: int = 0
    captured: int = 0
    evicted: int = 0
    replayed: int = 0
    eager_calls: dict[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Lines of text."""
        lines = [
            f"  CUDA graphs       {self.graphs:8d} of {self.graph_bytes / MIB:.1f} MiB, "
            f"{self.replayed} calls replayed"
        ]
        for reason, calls in self.eager_calls.items():
            lines.append(f"    {calls} calls without: {reason}")
        return lines


class FrameGraphs:
    """The graphs of a converted model.

    Args:
        states: State of its streams; the graphs are kept with the maps that they read and write.
        enabled: Whether frames are captured at all.
        limit: Bytes of all graphs at most.
        backend: Captures; ``None`` for torch's CUDA graphs, which are for frames on CUDA alone.
    """

    def __init__(
        self,
        states: StreamStates,
        enabled: bool = True,
        limit: int = 4096 * MIB,
        backend: CaptureBackend | None = None,
    ) -> None:
        self.states = states
        self.enabled = enabled
        self.limit = limit
        self.backend = backend
        self._cuda = CudaBackend()
        self._refused: dict[Hashable, str] = {}
        self._watch = ModelWatch()
        self._generation = 0
        self._calls = self._captured = self._evicted = self._replayed = 0
        self._eager_calls: dict[str, int] = {}

    def kind_of(self, converted: ConvertedModel, call: Call) -> Hashable | None:
        """What of a call is not data, so that calls which share it may share graphs.

        Args:
            converted: The model.
            call: Its call.

        Returns:
            The kind, ``None`` if such calls run as ever.
        """
        if not self.enabled or (self.backend is None and not call.frame.is_cuda):
            return None
        reason = converted.adapter.graph_obstacle or self._watch.obstacle(converted)
        if self._watch.has_moved(converted):
            self.forget()
            self._refused.clear()
        kind = None
        if reason is None:
            try:
                kind = kind_of_call(call)
            except CaptureError as error:
                reason = str(error)
        reason = reason or self._refused.get(kind)
        if reason is not None:
            self._note(reason)
            return None
        return kind

    def run(self, work: FrameRun, kind: Hashable) -> Any:
        """Run a frame: replay its graph, or capture it, or warm up for that.

        Args:
            work: The frame, one that is :attr:`FrameRun.for_graphs`.
            kind: Of its call.

        Returns:
            The model's results, dense.
        """
        if MacCounter.is_counting():
            return work.run_eagerly()
        self._calls += 1
        pool = work.store.graphs
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
        if key not in pool.warm:
            return self._warm_up(work, kind, key, inputs)
        return self._capture(work, kind, key, inputs)

    def forget(self) -> None:
        """Give all memory back."""
        self._generation += 1
        for store in self.states.stores():
            store.graphs.clear()
        self.states.forget_idle()

    def report(self) -> GraphReport | None:
        """What has happened so far; ``None`` if no frame was one for graphs."""
        if not self._calls and not self._eager_calls:
            return None
        graphs = [graph for store in self.states.stores() for graph in store.graphs]
        return GraphReport(
            graphs=len(graphs),
            graph_bytes=sum(graph.captured.bytes for graph in graphs),
            captured=self._captured,
            evicted=self._evicted,
            replayed=self._replayed,
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
            work.store.graphs.warm[key] = lists
        return result

    def _capture(self, work: FrameRun, kind: Hashable, key: Hashable, inputs: StaticInputs):
        pool = work.store.graphs
        needed = pool.sizes.get(key)
        if needed is not None and not self._make_room(needed):
            return self._without(work, self._no_room(needed))
        if claimed(work.store, work.streams):
            # A frame of this number failed half-way: what this one claims could not be told.
            return work.run_eagerly()
        for entry in work.store.entries.values():
            # Streams may have come since the warm-up; a graph must find all memory in place.
            entry.grow(work.store.capacity)
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
            leaves, spec = results_of_call(captured.result, work.call)
            recorded = frame.recorded()
            if not made.issuperset(work.store.entries.values()):
                raise CaptureError("the model kept state that it did not keep in the warm-up")
        except torch.OutOfMemoryError:
            lists.thaw()
            pool.sizes[key] = self.limit + 1
            return self._without(work, "there was no memory left on the device for a graph")
        except Exception as error:
            # Whatever the model cannot do in a capture, it can do without. If it fails there too,
            # the caller sees that error.
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
        graph = FrameGraph(key, captured, leaves, spec, inputs, lists, recorded, frame.held)
        # The next graph of this key, for another number of blocks beyond the grid, has lists of
        # its own.
        del pool.warm[key]
        pool.add(graph)
        self._captured += 1
        return self._finish(work, graph, frame)

    def _replay(self, work: FrameRun, graph: FrameGraph, lists: BlockLists):
        graph.inputs.fill(work.call.frame, work.grid)
        graph.lists.fill(lists)
        frame = work.open(StaticFrame, inputs=graph.inputs, lists=graph.lists)
        frame.repeat(graph.recorded)
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

    def _note(self, reason: str) -> None:
        if reason not in self._eager_calls:
            logger.warning("frames run without CUDA graphs: %s.", reason)
        self._eager_calls[reason] = self._eager_calls.get(reason, 0) + 1

    # -- memory -----------------------------------------------------------------------------------

    def _make_room(self, needed: int) -> bool:
        """Give graphs back until ``needed`` more bytes are within the limit, if they can be."""
        if needed > self.limit:
            return False
        idle = {id(graph) for store in self.states.idle() for graph in store.graphs}
        graphs = [(g, store.graphs) for store in self.states.stores() for g in store.graphs]
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
        self.states.forget_idle()
        return True

    def _evict(self, pool: GraphPool, graph: FrameGraph) -> None:
        pool.discard(graph)
        self._evicted += 1

    def _no_room(self, needed: int) -> str:
        # No figures: one reason, however often.
        option = "raise BlockCopyConfig.graph_memory_mib or have fewer buckets"
        if needed > self.limit:
            return f"a graph needs more memory than all may have; {option}"
        return f"the graphs that are in use leave no memory for another; {option}"


def kind_of_call(call: Call) -> Hashable:
    """See :meth:`FrameGraphs.kind_of`."""
    frame = object()
    leaves, spec = tree_flatten(call.replace(frame))
    rest = []
    for leaf in leaves:
        if leaf is frame:
            rest.append("the frame")
        elif isinstance(leaf, _PLAIN):
            rest.append((type(leaf), leaf))
        else:
            raise CaptureError(
                f"the model is called with a {type(leaf).__name__} beside the frame, which a "
                "replay would not read"
            )
    device = call.frame.device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    return tuple(rest), str(spec), torch.is_inference_mode_enabled(), autocast


def results_of_call(result: Any, call: Call) -> tuple[list[Tensor | None], TreeSpec]:
    """The tensors of what a call gave.

    Raises:
        CaptureError: If there is anything else that could differ from frame to frame.
    """
    leaves, spec = tree_flatten((result, dict(call.left)))
    for leaf in leaves:
        if leaf is not None and not isinstance(leaf, Tensor):
            raise CaptureError(
                f"its results hold a {type(leaf).__name__}, which a replay could not make anew"
            )
    return leaves, spec


@contextmanager
def _no_autocast_cache() -> Iterator[None]:
    """Casts of parameters are part of the frame: cached ones would be gone at the next."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
