"""What a converted model does in a call: check, select, execute, feed back.

docs/engine.md describes this walk of a frame, with the rooms that it passes through.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from ..config import AUTO, BlockCopyConfig
from ..errors import ConfigError, FrameError
from ..host_transfer import HostReads, upload
from ..policy import MotionField, Policy, TaskOutput
from ..policy.guards import GuardCounts, GuardSet, build_guards
from .adapter import Call, ModelAdapter
from .block_size import resolve_block_size
from .buckets import Buckets
from .call_check import check_eval_mode, check_finite, check_frame, stream_ids, streams_of_batch
from .call_lock import CallLock, ThreadValue
from .execution.converted_model import ConvertedModel
from .execution.cuda_graphs import MIB, FrameGraphs
from .execution.executor import EagerExecution, Executor
from .execution.frame_run import FrameRun
from .execution.geometry_cache import GeometryCaches
from .execution.model_programs import ModelPrograms
from .frame.counts import FrameCounts
from .frame.host_grid import HostGrid
from .frame_record import FrameRecord, Scalars
from .grid_choice import GridChoice, policy_context, select_grid
from .plain_frames import PlainFrames
from .propagation import Propagation
from .report import Report, Totals
from .state.stream import Stream
from .state.stream_states import StreamStates
from .torch_internals import without_grad
from .whole_run import WholeRun

# After this many frames it is known how much of the model runs on blocks.
_CALLS_UNTIL_JUDGED = 2


class Session:
    """A converted model's policy, state and counts; :func:`~.convert.handle` returns it.

    Args:
        converted: The model.
        policy: Picks the blocks.

    Attributes:
        converted: The model, and what all of its frames share.
        policy: As given.
        guards: The guards around the policy.
        states: State of all streams.
        caches: Tables and plans for the frames of each geometry.
        graphs: CUDA graphs of frames of all streams.
        programs: Programs of frames of all streams, or of parts of the model.
        reads: Brings results from the device to the host.
        propagation: Copies or moves the outputs of blocks that do not run.
        plain_frames: Decides which whole frames run as in the plain model.
        last: Record of the last call, ``None`` before the first.
        totals: Sums over all calls.
    """

    def __init__(self, converted: ConvertedModel, policy: Policy) -> None:
        config = converted.config
        self.converted = converted
        self.policy = policy
        self.guards: GuardSet = build_guards(config.guards)
        self.states = StreamStates(config.max_streams)
        self.caches = GeometryCaches()
        self.graphs = FrameGraphs(self.caches, config.cuda_graphs, config.graph_memory_mib * MIB)
        self.programs = ModelPrograms(config.programs)
        self.reads = HostReads()
        self.propagation = Propagation.of(config)
        self._eager = EagerExecution()
        self.plain_frames = PlainFrames((self.programs, self._eager))
        self.last: FrameRecord | None = None
        self.totals = Totals()
        self._buckets = Buckets(config.buckets)
        self._lock = CallLock()
        self._named: ThreadValue[tuple[Hashable, ...] | None] = ThreadValue(None)
        self._motion: ThreadValue[tuple[MotionField | None, ...] | None] = ThreadValue(None)
        # The error of a policy or a guard after the previous frame's output had been returned.
        self._unlearned: Exception | None = None
        self._said_nothing_compared = False

    @property
    def model(self) -> nn.Module:
        """The converted model."""
        return self.converted.model

    @property
    def config(self) -> BlockCopyConfig:
        """Its options, see :class:`ConvertedModel`."""
        return self.converted.config

    @property
    def adapter(self) -> ModelAdapter:
        """The adapter, which knows how the model is called."""
        return self.converted.adapter

    # -- one call ---------------------------------------------------------------------------------

    def run(self, original: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Execute one call of the model block-sparsely.

        Returns:
            What the model's own forward, ``original``, returns, with dense tensors.

        Raises:
            FrameError: If the frame is not a finite floating-point ``(N, C, H, W)`` tensor of its
                stream's size, or the model is in training mode. On a GPU, also if the outputs of
                the previous frame turn out not to be finite; this frame has not run then.
            GridError: If the policy or a guard does not return a bool grid of the right shape.
            ConfigError: If a guard does not fit the frame, or guards need more blocks than the
                policy may execute.
            StateError: If the streams do not fit the batch or the state.
            Exception: The error of the policy's feedback in the previous frame, whose output had
                been returned. Nothing of this frame has run then: call again to go on.
        """
        if self.is_paused or self.converted.active.frame is not None:
            return original(*args, **kwargs)
        with self._lock:
            began = time.perf_counter()
            calls = self.adapter.turns(args, kwargs, self.named_streams is not None)
            if calls[0] is None:
                return original(*args, **kwargs)
            outputs = []
            for call in calls:
                with without_grad(), self.reads:
                    outputs.append(self._run(original, call, began - call.seconds_before))
                began = time.perf_counter()
            return outputs[0] if len(calls) == 1 else self.adapter.join_turns(outputs)

    def _run(self, original: Callable, call: Call, began: float) -> Any:
        start = time.perf_counter()
        ids, geometry = self._check(original, call)
        graph = self._offered(self.graphs, call)
        choice = self._select(call, ids, began, is_graph=bool(graph))
        chosen = time.perf_counter()

        store, streams = self.states.open(ids, geometry, self.caches.take_idle(geometry))
        cache = self.caches.of(geometry)
        blocks = (choice.grid, choice.blocks)
        run = FrameRun(self.converted, call, original, *blocks, store, streams, cache)
        out, counts, outputs, twice = self._execute(run, choice, graph)
        propagated = choice.propagated
        if not choice.repeats:
            outputs = propagated.task_outputs(out, self.policy.needs_outputs)
            if outputs is None and self.policy.needs_outputs:
                self._say_nothing_compared(out)
            out = propagated.deliver(out, outputs, choice.blocks, counts)
            run.note_copies(propagated.kept_maps())
        propagated.commit()
        ran = time.perf_counter()

        guarded, figures = self._feed_back(call.frame, choice, outputs, streams)
        done = time.perf_counter()
        seconds = {"policy": (chosen - start) + (done - ran), "model": ran - chosen}
        size = (int(call.frame.shape[2]), int(call.frame.shape[3]))
        self.last = FrameRecord(
            ids, choice.grid, choice.blocks.grid, counts, figures, size, seconds, guarded, twice
        )
        self.totals.add(choice.blocks, counts, seconds, guarded, twice)
        if self.totals.calls == _CALLS_UNTIL_JUDGED and self.totals.hardly_any_on_blocks():
            name = type(self.model).__name__
            warnings.warn(f"{name}: {self.report().why_dense}", stacklevel=2)
        return out

    def _check(self, original: Callable, call: Call) -> tuple[tuple[Hashable, ...], tuple]:
        """Refuse what cannot run; return the images' streams and the geometry of their frames."""
        if self._unlearned is not None:
            failure, self._unlearned = self._unlearned, None
            raise failure
        # First: if this frame is refused, the next one still starts the video.
        live = [i for i in call.restarts if self.states.find(i) is not None]
        if live:
            self._drop(live)
        frame = call.frame
        check_frame(frame)
        check_eval_mode(self.converted)
        if self.config.check_finite:
            on_host = frame.device.type == "cpu" and self.graphs.backend is None
            check_finite(frame, self.reads, at_once=on_host)
        named = self.named_streams
        ids = streams_of_batch(call.streams if named is None else named, len(frame))
        geometry = (*frame.shape[1:], frame.dtype, frame.device)
        self.states.check(ids, geometry)
        if self.config.block_size == AUTO:
            self.converted.config = resolve_block_size(self.converted, call, original)
        return ids, geometry

    def _offered(self, executor: Executor, call: Call) -> list[tuple[Executor, Hashable]]:
        """One way to run a call with the kind of the call, if it is one for it."""
        kind = executor.kind_of(self.converted, call)
        return [] if kind is None else [(executor, kind)]

    def _executors(
        self, call: Call, graph: list[tuple[Executor, Hashable]]
    ) -> Iterator[tuple[Executor, Hashable]]:
        """Ways to run a call, the preferred ones first; only asked for as far as needed."""
        yield from graph
        if not graph:
            if self.policy.whole_frames_only:
                yield from self._offered(self.plain_frames, call)
            yield from self._offered(self.programs, call)
        yield from self._offered(self._eager, call)

    def _select(
        self, call: Call, ids: Sequence[Hashable], began: float, is_graph: bool
    ) -> GridChoice:
        """Choose the blocks that run."""
        frame, policy, guards = call.frame, self.policy, self.guards
        guards.check_budget(policy, tuple(frame.shape[2:]), self.config.block_size)
        streams = self._known(ids)
        # If the policy decides on the host, its grid is there already.
        on_host = policy.on_host and not guards.guards
        motion = self._motion.get()
        context = policy_context(
            frame,
            ids,
            streams,
            block_size=self.config.block_size,
            device=torch.device("cpu") if on_host else frame.device,
            motion=call.motion if motion is None else motion,
            reads=self.reads,
            began=began,
            can_compare=self.adapter.runs_once is None,
        )
        context = guards.demand(frame, context)
        whole_only = policy.whole_frames_only
        propagated = self.propagation.look(self.adapter, call, context, whole_only)
        context.take_propagated(propagated)
        grid = select_grid(policy, guards, frame, context)
        if is_graph or self.config.buckets is not None:
            scores = policy.scores(frame, context)
            grid = self._buckets.round_up(grid, scores, context.forbidden)
        blocks = HostGrid(self.reads.bring(grid))
        repeats = not is_graph and propagated.can_repeat(blocks)
        if not repeats and (whole_only or self.plain_frames.frames):
            stale = PlainFrames.stale(streams, blocks)
            if any(stale):
                host = blocks.grid | torch.tensor(stale, device="cpu")[:, None, None]
                grid, blocks = upload(host, grid.device), HostGrid(host)
        remembered, grid = grid, upload(grid, frame.device)
        context.take_executed(grid, blocks.grid)
        compared = None if whole_only else policy.compares(blocks.grid, context)
        compared = compared if compared is not None and any(compared) else None
        if compared is not None and self.adapter.runs_once is not None:
            raise ConfigError(
                f"a budget of agreement runs some frames twice, but {type(self.model).__name__} "
                f"cannot: {self.adapter.runs_once}. Give the policy a target or target_ms."
            )
        repeats = repeats and compared is None
        return GridChoice(context, propagated, grid, blocks, remembered, repeats, compared)

    def _execute(
        self, run: FrameRun, choice: GridChoice, graph: list[tuple[Executor, Hashable]]
    ) -> tuple[Any, FrameCounts, list[TaskOutput] | None, Tensor | None]:
        """Run the chosen blocks, or return the outputs of the previous frame again.

        Returns:
            The model's outputs, MACs, what the policy sees of repeated outputs, and the blocks that
            ran twice.
        """
        propagated, context = choice.propagated, choice.context
        outputs = whole = None
        is_whole = all(choice.blocks.full) and not any(context.host_first)
        cpu_start = time.thread_time() if is_whole else 0.0
        try:
            if choice.repeats:
                out, counts, outputs = propagated.repeat()
            else:
                executors = self._executors(run.call, graph)
                executor, kind = next(pair for pair in executors if pair[0].takes(run))
                out = executor.run(run, kind)
            if choice.compared is not None:
                whole = WholeRun(run, choice.compared, context)
                before = self.adapter.task_outputs(out, run.call)
                whole.before = propagated.chosen_outputs(before, choice.blocks.grid)
                out = whole.run()
        except BaseException:
            # Layers before the failure have this frame's features, later ones have older ones.
            for stream_id, stream in zip(context.streams, run.streams, strict=True):
                if stream.frames == 0:
                    self._drop_state([stream_id])
                elif run.touched_state or (whole is not None and whole.touched_state):
                    stream.broken = True
            raise
        else:
            if whole is None and is_whole:
                propagated.note_whole(time.thread_time() - cpu_start)
        finally:
            run.close()
            if whole is not None:
                whole.close()
            self.converted.active.end()
        if not choice.repeats:
            counts = run.counts if whole is None else whole.counts
        if whole is not None:
            on_host = choice.remembered.device != choice.grid.device
            choice.grid, choice.blocks = whole.grid, whole.blocks
            choice.remembered = whole.blocks.grid if on_host else whole.grid
            context.take_executed(whole.grid, whole.blocks.grid)
            context.take_comparison(whole.comparison)
        for image, stream in enumerate(run.streams):
            stream.frames += not choice.repeats
            stream.repeated += choice.repeats
            stream.stateless &= choice.repeats or run.is_plain
            stream.broken = False
            stream.last_grid = choice.remembered[image]
        return out, counts, outputs, None if whole is None else whole.comparison.blocks

    def _feed_back(
        self,
        frame: Tensor,
        choice: GridChoice,
        outputs: Sequence[TaskOutput] | None,
        streams: Sequence[Stream],
    ) -> tuple[GuardCounts | None, Scalars]:
        """Let guards and policy learn what has run; if they fail, the output is still returned.

        Their error is warned about at once and raised by the next call, like those that a device
        reports late. Exceptions are FrameError, which says that the output is not worth returning,
        and ConfigError, which would recur in each frame.
        """
        guarded: GuardCounts | None = None
        scalars: dict[str, float | Tensor] = {}
        outputs = outputs if self.policy.needs_outputs else None
        context = choice.context
        try:
            guarded = self.guards.commit(choice.grid, context)
            scalars = self.policy.feedback(frame, choice.grid, outputs, context) or {}
        except (FrameError, ConfigError):
            raise
        except BaseException as failure:
            # They know only half of this frame, and start again with a whole one.
            for stream in streams:
                stream.broken = True
            if not isinstance(failure, Exception):
                raise
            self._unlearned = failure
            warnings.warn(
                f"{type(self.policy).__name__} failed to learn from a frame whose output is right "
                f"and was returned: {type(failure).__name__}: {failure}. The next call raises this "
                "error before it runs anything; the one after it runs fully.",
                stacklevel=5,
            )
        figures = Scalars({**scalars, **choice.propagated.figures()}, self.reads)
        context.take_propagated(None)
        return guarded, figures

    def _say_nothing_compared(self, out: Any) -> None:
        """Warn once if a policy that learns from outputs gets none."""
        if self._said_nothing_compared:
            return
        self._said_nothing_compared = True
        warnings.warn(
            f"{type(self.model).__name__} returns {type(out).__name__}, in which nothing is known "
            f"that tells one block from another: {type(self.policy).__name__} goes by the picture "
            "alone. An adapter whose task_outputs() returns detections or maps solves this "
            "(blockcopy_plugins.engine.adapter).",
            stacklevel=2,
        )

    # -- streams, and settings for the next calls --------------------------------------------------

    def _known(self, ids: Sequence[Hashable]) -> list[Stream | None]:
        """What is known about streams, ``None`` for new ones."""
        found = [self.states.find(i) for i in ids]
        return [None if f is None else f[1] for f in found]

    def _drop_state(self, ids: Sequence[Hashable] | None) -> None:
        for geometry, store in self.states.drop(ids).items():
            self.caches.retire(geometry, store)

    def _drop(self, ids: Sequence[Hashable] | None) -> None:
        self._drop_state(ids)
        self.policy.reset(ids)
        self.guards.reset(ids)
        self.propagation.reset(ids)

    @property
    def named_streams(self) -> tuple[Hashable, ...] | None:
        """The streams of the images of this thread's next call, if the caller has named them."""
        return self._named.get()

    @property
    def is_paused(self) -> bool:
        """Whether calls of this thread run dense now."""
        return self.converted.dense.get() or self.converted.plain.get()

    def paused(self) -> AbstractContextManager[None]:
        """Let calls of this thread be those of the user's own model; state and policy rest."""
        return self.converted.dense.set_to(True)

    def named(self, ids: Sequence[Hashable]) -> AbstractContextManager[None]:
        """Name the streams of the images of this thread's calls, in their order."""
        return self._named.set_to(stream_ids(ids))

    def moved(self, fields: Sequence[MotionField | None]) -> AbstractContextManager[None]:
        """Say how far the videos of this thread's calls have moved; see :func:`motion`."""
        return self._motion.set_to(tuple(fields))

    def give_motion(self, fields: Sequence[MotionField | None] | None) -> None:
        """As :meth:`moved`, for all later calls; ``None``: as the call says."""
        self._motion.default = None if fields is None else tuple(fields)

    def name_streams(self, ids: Sequence[Hashable] | None) -> None:
        """Name the streams of the images of all later calls; ``None``: as the call says."""
        self._named.default = None if ids is None else stream_ids(ids)

    def reset(self, streams: Iterable[Hashable] | None = None) -> None:
        """Forget streams, ``None`` for all; see :func:`blockcopy_plugins.reset_`."""
        streams = None if streams is None else list(stream_ids(streams))
        with self._lock:
            self._drop(streams)

    def release(self) -> None:
        """Free recorded frames and prepared weights."""
        self.graphs.forget()
        self.programs.release()
        self.converted.convolutions.clear()

    def report(self) -> Report:
        """Figures of what has run so far; see :func:`blockcopy_plugins.report`."""
        return self.totals.report(
            block_size=self.config.block_size,
            policy=type(self.policy).__name__,
            target=getattr(self.policy, "target", None),
            agreement=self.policy.agreement,
            state_bytes=self.states.bytes() + self.caches.idle_bytes(),
            output_bytes=self.states.output_bytes(),
            kernel_bytes=self.converted.convolutions.bytes(),
            graphs=self.graphs.report(),
            programs=self.programs.report(),
            propagation=self.propagation.report(),
            plain_frames=self.plain_frames.frames,
        )
