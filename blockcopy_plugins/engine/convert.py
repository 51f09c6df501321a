"""Conversion of a model in place, and what a converted model does on each call."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Hashable, Iterable, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from operator import attrgetter
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..config import AUTO, BlockCopyConfig
from ..errors import ConfigError, FrameError, GridError, StateError
from ..host_transfer import HostReads, upload
from ..policy import MotionField, Policy, PolicyContext, TaskOutput, build_policy
from ..policy.guards import GuardCounts, GuardSet, build_guards
from .adapter import Call, ModelAdapter, whole_map_modules
from .block_size import resolve_block_size
from .buckets import Buckets
from .call_lock import CallLock, ThreadValue
from .conv.cpu_convolutions import NativeConvolutions
from .conv.torch_epilogue import Epilogues
from .entry import enter
from .execution.cuda_graphs import MIB, FrameGraphs
from .execution.frame_programs import FramePrograms
from .execution.frame_run import FrameRun
from .frame.frame import Frame
from .frame_record import FrameRecord, Scalars
from .geometry import grid_size
from .module_shortcuts import ModuleShortcut, shortcut_for
from .plain_frames import PlainFrames
from .propagation import Propagation
from .report import Report, Totals
from .state.store import Stream, StreamStates
from .tensor.block_tensor import BlockTensor
from .tensor.dense_map import DenseMap, plain
from .whole_run import WholeRun

_ATTRIBUTE = "_blockcopy"
# Then it is known how much of the model runs on blocks.
_CALLS_UNTIL_JUDGED = 2
_IS_TRAINING = attrgetter("training")

# They keep no state and are never densified, so nobody asks when they are at work; and there are
# more of them than of all others.
_POINTWISE_MODULES = frozenset(
    {
        nn.Identity,
        nn.ReLU,
        nn.ReLU6,
        nn.LeakyReLU,
        nn.ELU,
        nn.GELU,
        nn.SiLU,
        nn.Mish,
        nn.Sigmoid,
        nn.Tanh,
        nn.Hardswish,
        nn.Hardsigmoid,
        nn.BatchNorm2d,
        nn.Dropout,
        nn.Dropout2d,
    }
)


class Handle:
    """A converted model's policy, state and counts. Got by :func:`handle`.

    Attributes:
        model: The converted model.
        config: Its options; after the first frame with the block size that ``'auto'`` has chosen.
        policy: What picks the blocks.
        guards: What holds whatever the policy picks.
        adapter: What knows how the model is called.
        states: State of all streams.
        graphs: What is captured of the frames of all streams.
        programs: What is written down of the frames of all streams.
        reads: What the host waits for the device for.
        propagation: What becomes of the outputs of blocks that do not run.
        plain_frames: Which whole frames run as the plain model does.
        last: Record of the last call, ``None`` before the first.
    """

    def __init__(
        self, model: nn.Module, config: BlockCopyConfig, policy: Policy, adapter: ModelAdapter
    ) -> None:
        self.model = model
        self.config = config
        self.policy = policy
        self.guards: GuardSet = build_guards(config.guards)
        self.adapter = adapter
        self.states = StreamStates(config.max_streams)
        self.native = NativeConvolutions.make(config.fuse, config.winograd)
        self.epilogues = Epilogues(config.fuse)
        self.graphs = FrameGraphs(self.states, config.cuda_graphs, config.graph_memory_mib * MIB)
        self.programs = FramePrograms(config.programs)
        self.reads = HostReads()
        self.propagation = Propagation.of(config)
        self.plain_frames = PlainFrames()
        self._buckets = Buckets(config.buckets)
        self.last: FrameRecord | None = None
        self.totals = Totals()
        self._active: Frame | None = None
        self._thread: int | None = None
        self._call: Call | None = None
        self._lock = CallLock()
        self._paused: ThreadValue[bool] = ThreadValue(False)
        self._named: ThreadValue[tuple[Hashable, ...] | None] = ThreadValue(None)
        self._motion: ThreadValue[tuple[MotionField | None, ...] | None] = ThreadValue(None)
        # What the policy or a guard raised once the output of the frame before was there.
        self._unlearned: Exception | None = None
        self._said_nothing_compared = False
        self._removers: list = []
        self._modules: tuple[tuple[str, nn.Module], ...] = ()
        self._bare_modules: tuple[nn.Module, ...] = ()

    # -- one call ---------------------------------------------------------------------------------

    def run(self, original, args: tuple, kwargs: dict[str, Any]):
        """Execute one call of the model block-sparsely.

        Args:
            original: The model's own forward.
            args: Positional arguments of the call.
            kwargs: Keyword arguments of the call.

        Returns:
            What the model returns, with dense tensors.

        Raises:
            FrameError: If the frame is not a finite floating-point ``(N, C, H, W)`` tensor of its
                stream's size, or the model is in training mode. On a GPU also if the policy learns
                that the outputs of the frame before were not finite; this one has not run then.
            GridError: If the policy or a guard gives anything but a bool grid of the right shape.
            ConfigError: If a guard does not fit the frame, or guards need more blocks than the
                policy may execute.
            StateError: If the streams do not fit the batch or the state.
            Exception: What the policy's feedback of the frame before raised, whose output had been
                delivered. Nothing of this frame has run then: call again to go on.
        """
        if self._paused.get() or self.active is not None:
            return original(*args, **kwargs)
        with self._lock.held():
            began = time.perf_counter()
            calls = self.adapter.turns(args, kwargs, self.named_streams is not None)
            if calls[0] is None:
                return original(*args, **kwargs)
            outputs = []
            for call in calls:
                with torch.no_grad(), self.reads.frame():
                    outputs.append(self._run(original, call, began - call.seconds_before))
                began = time.perf_counter()
            return outputs[0] if len(calls) == 1 else self.adapter.join_turns(outputs)

    def _run(self, original, call: Call, began: float):
        start = time.perf_counter()
        frame = call.frame
        if self._unlearned is not None:
            failure, self._unlearned = self._unlearned, None
            raise failure
        # First: that a video starts anew holds for the next frame too if this one is refused.
        self._forget(call.restarts)
        self._check_frame(frame)
        ids = self._streams_of(call)
        geometry = (*frame.shape[1:], frame.dtype, frame.device)
        self.states.check(ids, geometry)
        if self.config.block_size == AUTO:
            resolve_block_size(self, call, original)

        kind = self.graphs.kind_of(self, call)
        program = None if kind is not None else self.programs.kind_of(self, call)
        self.guards.check_budget(self.policy, tuple(frame.shape[2:]), self.config.block_size)
        # A policy that decides on the host has its grid there, and nothing more is to be read.
        on_host = self.policy.on_host and not self.guards.guards
        device = torch.device("cpu") if on_host else frame.device
        context = self.guards.demand(frame, self._context(ids, call, device, began))
        whole_only = self.policy.whole_frames_only
        looked = self.propagation.look(self.adapter, call, context, whole_only)
        context.take_propagated(looked)
        grid = self._select(frame, context)
        if kind is not None or self.config.buckets is not None:
            scores = self.policy.scores(frame, context)
            grid = self._buckets.round_up(grid, scores, context.forbidden)
        host = self.reads.bring(grid)
        repeats = kind is None and looked.can_repeat(host)
        if not repeats and (whole_only or self.plain_frames.frames):
            grid, host = self._complete(grid, host, ids)
        decided, grid = grid, upload(grid, frame.device)
        context.take_executed(grid, host)
        compared = None if whole_only else self.policy.compares(host, context)
        chosen = time.perf_counter()

        store, streams = self.states.open(ids, geometry)
        work = FrameRun(self, call, original, grid, host, store, streams)
        cpu_start = time.thread_time()
        compared = compared if compared is not None and any(compared) else None
        if compared is not None and self.adapter.runs_once is not None:
            raise ConfigError(
                f"a budget of agreement runs some frames twice, but {type(self.model).__name__} "
                f"cannot: {self.adapter.runs_once}. Give the policy a target or target_ms."
            )
        # A graph does without the model's Python already.
        repeats = repeats and compared is None
        whole = None
        try:
            if repeats:
                out, counts, outputs = looked.repeat()
            elif kind is not None and work.for_graphs:
                out = self.graphs.run(work, kind)
            elif whole_only and kind is None and work.may_be_plain:
                out = self.plain_frames.run(work)
            elif program is not None and work.for_graphs:
                out = self.programs.run(work, program)
            else:
                out = work.run_counted()
            if compared is not None:
                whole = WholeRun(work, compared, context)
                before = self.adapter.task_outputs(out, call)
                whole.before = looked.chosen_outputs(before, host)
                out = whole.run()
        except BaseException:
            # Layers before the failure have this frame's features, those behind it older ones.
            for stream_id, stream in zip(ids, streams, strict=True):
                if stream.frames == 0:
                    self.states.drop([stream_id])
                elif work.touched_state or (whole is not None and whole.touched_state):
                    stream.broken = True
            raise
        else:
            if whole is None and bool(host.all()) and not any(context.host_first):
                looked.note_whole(time.thread_time() - cpu_start)
        finally:
            work.close()
            if whole is not None:
                whole.close()
            self.set_idle()
        if not repeats:
            counts = work.counts if whole is None else whole.counts
        if whole is not None:
            grid, host = whole.grid, whole.host
            decided = host if on_host else grid
            context.take_executed(grid, host)
            context.take_comparison(whole.comparison)
        for stream, its_grid in zip(streams, decided, strict=True):
            stream.frames += not repeats
            stream.repeated += repeats
            stream.stateless &= repeats or work.is_plain
            stream.broken = False
            stream.last_grid = its_grid
        if not repeats:
            outputs = looked.task_outputs(out, self.policy.needs_outputs)
            if outputs is None and self.policy.needs_outputs:
                self._say_nothing_compared(out)
            out = looked.deliver(out, outputs, host, counts)
        looked.commit()
        ran = time.perf_counter()

        outputs = outputs if self.policy.needs_outputs else None
        guarded, scalars = self._learn(frame, grid, outputs, context, streams)
        figures = Scalars({**scalars, **looked.figures()}, self.reads)
        context.take_propagated(None)
        done = time.perf_counter()
        seconds = {"policy": (chosen - start) + (done - ran), "model": ran - chosen}
        twice = None if whole is None else whole.comparison.blocks
        size = (int(frame.shape[2]), int(frame.shape[3]))
        self.last = FrameRecord(ids, grid, host, counts, figures, size, seconds, guarded, twice)
        self.totals.add(host, counts, seconds, guarded, twice)
        if self.totals.calls == _CALLS_UNTIL_JUDGED and self.totals.hardly_any_on_blocks():
            name = type(self.model).__name__
            warnings.warn(f"{name}: {self.report().why_dense}", stacklevel=2)
        return out

    def _learn(
        self,
        frame: Tensor,
        grid: Tensor,
        outputs: Sequence[TaskOutput] | None,
        context: PolicyContext,
        streams: Sequence[Stream],
    ) -> tuple[GuardCounts | None, dict[str, float | Tensor]]:
        """Tell guards and policy what has run; a failure of theirs costs no output.

        It is warned of at once and raised by the next call, as what a device finds out later is.
        But for a FrameError, which says that the output is not worth returning, and a ConfigError,
        which would come again in each frame.
        """
        guarded: GuardCounts | None = None
        scalars: dict[str, float | Tensor] = {}
        try:
            guarded = self.guards.commit(grid, context)
            scalars = self.policy.feedback(frame, grid, outputs, context) or {}
        except (FrameError, ConfigError):
            raise
        except BaseException as failure:
            # They know half of this frame: with a whole one they begin anew.
            for stream in streams:
                stream.broken = True
            if not isinstance(failure, Exception):
                raise
            self._unlearned = failure
            warnings.warn(
                f"{type(self.policy).__name__} failed to learn from a frame whose output is right "
                f"and was returned: {type(failure).__name__}: {failure}. The next call raises this "
                "error, before anything of it has run; the one after runs fully.",
                stacklevel=5,
            )
        return guarded, scalars

    def _say_nothing_compared(self, out: Any) -> None:
        """Warn once where a policy that learns from outputs gets none."""
        if self._said_nothing_compared:
            return
        self._said_nothing_compared = True
        warnings.warn(
            f"{type(self.model).__name__} returns {type(out).__name__}, in which nothing is known "
            f"that tells one block from another: {type(self.policy).__name__} goes by the picture "
            "alone. An adapter whose task_outputs() returns detections or maps mends it "
            "(blockcopy_plugins.engine.adapter).",
            stacklevel=2,
        )

    @property
    def modules(self) -> tuple[tuple[str, nn.Module], ...]:
        """The model's modules with their paths."""
        return self._modules

    @property
    def active(self) -> Frame | None:
        """The frame at work, if it is of this thread: others run the model's parts as they are."""
        frame = self._active
        return frame if frame is not None and self._thread == get_ident() else None

    def set_active(self, frame: Frame, call: Call) -> None:
        """From now on the hooks of the model's modules belong to this frame."""
        self._active, self._call, self._thread = frame, call, get_ident()

    def set_idle(self) -> None:
        """No frame is at work."""
        self._active = self._call = None

    def execute(self, original, call: Call, frame: Frame, pixels: Tensor):
        """Run the model on the executed blocks of a frame.

        Args:
            original: The model's own forward.
            call: The call.
            frame: The frame at work.
            pixels: ``(N, C, H, W)``, the picture.

        Returns:
            What the model returns, with dense tensors.
        """
        block = (self.config.block_size, self.config.block_size)
        args, kwargs = call.replace(frame.from_dense(pixels, block))
        out = tree_map(partial(self._leave_dense, last=True), original(*args, **kwargs))
        frame.finish()
        return out

    def _check_frame(self, frame: Tensor) -> None:
        """Refuse what is no frame; on a GPU, what is not finite with the frame's transfer."""
        if frame.dim() != 4 or not frame.is_floating_point() or 0 in frame.shape:
            raise FrameError(
                f"the frame is {frame.dtype} {tuple(frame.shape)}, expected a floating-point "
                "tensor (N, C, H, W) without empty dimensions."
            )
        if any(map(_IS_TRAINING, self._bare_modules)):
            name = next(name for name, module in self._modules if module.training)
            raise FrameError(
                f"module {name or '(root)'!r} is in training mode, in which features depend on "
                "more than the frame. Call model.eval() first, or restore_(model) to train."
            )
        if self.config.check_finite:
            # A sum with NaN or infinity in it is not finite. That of huge values may not be either,
            # which a second look tells; to look at each value at once takes seven times as long.
            # (The sum of a float16 frame would overflow soon.)
            finite = frame.sum(dtype=torch.float32 if frame.dtype == torch.float16 else None)
            # To ask now would be to wait for the device twice in a frame.
            if frame.device.type != "cpu" or self.graphs.backend is not None:
                self.reads.add(finite, partial(_refuse_infinite, frame))
            else:
                _refuse_infinite(frame, finite)

    def _streams_of(self, call: Call) -> tuple[Hashable, ...]:
        images = len(call.frame)
        named = self._named.get()
        ids = call.streams if named is None else named
        if ids is None:
            ids = tuple(range(images))
        if len(ids) != images or len(set(ids)) != len(ids):
            raise StateError(
                f"streams {list(ids)!r} were named for a batch of {images} images, expected "
                f"{images} different ids. Each image of a batch belongs to another stream; frames "
                "of one stream go through the model one after the other."
            )
        return tuple(ids)

    def _forget(self, restarts: Iterable[Hashable]) -> None:
        live = [i for i in restarts if self.states.find(i) is not None]
        if live:
            self.states.drop(live)
            self.policy.reset(live)
            self.guards.reset(live)
            self.propagation.reset(live)

    def _context(
        self, ids: Sequence[Hashable], call: Call, device: torch.device, began: float
    ) -> PolicyContext:
        frame = call.frame
        shape = (len(ids), *grid_size(*frame.shape[2:], self.config.block_size))
        found = [self.states.find(i) for i in ids]
        streams = [None if f is None else f[1] for f in found]
        last = torch.zeros(shape, dtype=torch.bool, device=device)
        for i, stream in enumerate(streams):
            if stream is not None and stream.last_grid is not None and not stream.broken:
                last[i] = stream.last_grid
        first = tuple(stream is None or stream.broken for stream in streams)
        motion = self._motion.get()
        return PolicyContext(
            streams=tuple(ids),
            grid_shape=shape,
            block_size=self.config.block_size,
            first=upload(torch.tensor(first), device),
            frame_index=tuple(0 if s is None else s.frames + s.repeated for s in streams),
            last_grid=last,
            motion=call.motion if motion is None else motion,
            host_first=first,
            reads=self.reads,
            began=began,
        )

    def _complete(
        self, grid: Tensor, host: Tensor, ids: Sequence[Hashable]
    ) -> tuple[Tensor, Tensor]:
        """A grid with all blocks of images whose state is not of their last frame."""
        found = [self.states.find(i) for i in ids]
        late = PlainFrames.stale([None if f is None else f[1] for f in found], host)
        if not any(late):
            return grid, host
        host = host | torch.tensor(late, device="cpu")[:, None, None]
        return upload(host, grid.device), host

    def _select(self, frame: Tensor, context: PolicyContext) -> Tensor:
        grid = self.policy.select(frame, context)
        if not isinstance(grid, Tensor):
            raise GridError(
                f"the policy returned {type(grid).__name__}, expected a bool tensor "
                f"{context.grid_shape}."
            )
        if grid.dtype != torch.bool or tuple(grid.shape) != context.grid_shape:
            raise GridError(
                f"the policy returned a grid {grid.dtype} {tuple(grid.shape)}, expected torch.bool "
                f"{context.grid_shape}: (N, GH, GW) = images and blocks of {context.block_size} px "
                f"of a frame of {tuple(frame.shape[2:])} px."
            )
        # A new tensor: the policy may go on writing into its own.
        grid = self.guards.adjust(upload(grid, context.device), frame, context)
        return grid | context.first[:, None, None]

    def _leave_dense(self, value, last: bool = False):
        if isinstance(value, BlockTensor):
            return value.frame.result(value) if last else value.frame.output(value)
        if isinstance(value, DenseMap):
            return value.plain
        if is_dataclass(value) and not isinstance(value, type):
            value = copy(value)
            for item in fields(value):
                leave = partial(self._leave_dense, last=last)
                dense = tree_map(leave, getattr(value, item.name))
                object.__setattr__(value, item.name, dense)
        return value

    # -- hooks on submodules -----------------------------------------------------------------------

    def attach(self) -> None:
        """Put the model's forward and the hooks of its submodules in place, all or none."""
        try:
            self._attach()
        except BaseException:
            self._take_away()
            raise

    def _attach(self) -> None:
        self._modules = tuple(nn.Module.named_modules(self.model))
        self._bare_modules = tuple(module for _, module in self._modules)
        for path, module in self._modules:
            leaf = shortcut_for(self, path, module) if path and self.native is not None else None
            if leaf is not None:
                module.__dict__["forward"] = leaf
            elif path and type(module) not in _POINTWISE_MODULES:
                self._removers.append(module.register_forward_pre_hook(_Enter(self, path)))
                self._removers.append(module.register_forward_hook(_Leave(self, path)))
        self._removers.extend(self.adapter.attach(self.model))
        for module in self.adapter.read_only_inputs(self.model):
            hook = _ReadOnlyInputs(self, not self.adapter.reads_channels_last(module))
            self._removers.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        for module, reason in whole_map_modules(self.model, self.adapter):
            go, back = _GoDense(self, reason), _ComeBack(self)
            self._removers.append(module.register_forward_pre_hook(go, with_kwargs=True))
            # Before the hook that leaves the module, so that its ops belong to it.
            self._removers.append(module.register_forward_hook(back, prepend=True))
        ends = set(self.adapter.dense_outputs(self.model))
        for path, module in self._modules:
            if module in ends:
                # Before the hook that leaves the module, so that the entry belongs to it.
                hook = module.register_forward_hook(_DenseOutputs(self, path), prepend=True)
                self._removers.append(hook)
        self.model.__dict__[_ATTRIBUTE] = self
        self._forward = _Forward(self, self.model.forward)
        self.model.__dict__["forward"] = self._forward

    def detach(self) -> None:
        """Take everything away that :meth:`attach` put in place."""
        self.graphs.forget()
        self._take_away()
        if self.native is not None:
            self.native.clear()
        forward = self._forward
        # Whoever has wrapped it since goes on with the model's own.
        forward.handle = None
        if self.model.__dict__.get("forward") is forward:
            del self.model.__dict__["forward"]
            if getattr(forward.original, "__func__", None) is not type(self.model).forward:
                # The model had a forward of its own instance before.
                self.model.__dict__["forward"] = forward.original
        del self.model.__dict__[_ATTRIBUTE]

    def _take_away(self) -> None:
        """Remove the hooks of the submodules, and their forwards."""
        for remover in self._removers:
            remover.remove()
        self._removers.clear()
        for _, module in self._modules:
            if isinstance(module.__dict__.get("forward"), ModuleShortcut):
                del module.__dict__["forward"]

    @property
    def named_streams(self) -> tuple[Hashable, ...] | None:
        """The streams of the images of this thread's next call, where the caller has named them."""
        return self._named.get()

    @property
    def is_paused(self) -> bool:
        """Whether calls run dense now."""
        return self._paused.get()

    def paused(self) -> AbstractContextManager[None]:
        """Calls of this thread run dense and leave state and policy alone."""
        return self._paused.set_to(True)

    def named(self, ids: Sequence[Hashable]) -> AbstractContextManager[None]:
        """Images of this thread's calls belong to these streams, in this order."""
        return self._named.set_to(_stream_ids(ids))

    def moved(self, fields: Sequence[MotionField | None]) -> AbstractContextManager[None]:
        """The videos of the images of this thread's calls have moved so; see :func:`motion`."""
        return self._motion.set_to(tuple(fields))

    def give_motion(self, fields: Sequence[MotionField | None] | None) -> None:
        """As :meth:`moved`, for the calls from now on; ``None``: as the call tells."""
        self._motion.default = None if fields is None else tuple(fields)

    def name_streams(self, ids: Sequence[Hashable] | None) -> None:
        """Images of the calls from now on belong to these streams; ``None``: as the call tells."""
        self._named.default = None if ids is None else _stream_ids(ids)

    def reset(self, streams: Iterable[Hashable] | None = None) -> None:
        """Forget streams, ``None`` for all; see :func:`reset_`."""
        streams = None if streams is None else list(_stream_ids(streams))
        with self._lock.held():
            self.states.drop(streams)
            self.policy.reset(streams)
            self.guards.reset(streams)
            self.propagation.reset(streams)

    def report(self) -> Report:
        """What has run so far; see :func:`report`."""
        return self.totals.report(
            block_size=self.config.block_size,
            policy=type(self.policy).__name__,
            target=getattr(self.policy, "target", None),
            agreement=self.policy.agreement,
            state_bytes=self.states.bytes(),
            kernel_bytes=0 if self.native is None else self.native.bytes(),
            graphs=self.graphs.report(),
            programs=self.programs.report(),
            propagation=self.propagation.report(),
            plain_frames=self.plain_frames.frames,
        )


def _stream_ids(ids: Iterable[Hashable]) -> tuple[Hashable, ...]:
    """Ids of streams; a text would be taken for as many as it has letters."""
    if isinstance(ids, (str, bytes)):
        raise StateError(
            f"the streams are the text {ids!r}, expected a list with one id for each image of the "
            f"batch: [{ids!r}]."
        )
    return tuple(ids)


# Classes rather than closures: a deep copy of a converted model then runs on its own state.


@dataclass
class _Forward:
    handle: Handle | None  # None once the model was restored
    original: Any

    def __call__(self, *args, **kwargs):
        if self.handle is None:
            return self.original(*args, **kwargs)
        return enter(self.handle, self.original, args, kwargs)

    @property
    def __code__(self):
        """That of the model's own forward, by which torch.export names its inputs."""
        return self.original.__code__


@dataclass
class _Enter:
    handle: Handle
    path: str

    def __call__(self, module, args) -> None:
        frame = self.handle.active
        if frame is not None:
            frame.enter(self.path)


@dataclass
class _Leave:
    handle: Handle
    path: str

    def __call__(self, module, args, output) -> None:
        frame = self.handle.active
        if frame is not None:
            frame.leave(self.path)


@dataclass
class _ReadOnlyInputs:
    handle: Handle
    # Compiled ops (mmcv's RoIAlign) read memory as it lies and take it for NCHW without a look at
    # the strides.
    contiguous: bool

    def __call__(self, module, args, kwargs):
        frame = self.handle.active
        if frame is None:
            return None

        def densify(value):
            if isinstance(value, BlockTensor):
                return frame.dense_to_read(value, "input", self.contiguous)
            return plain(value)

        return tree_map(densify, (args, kwargs))


@dataclass
class _GoDense:
    handle: Handle
    reason: str

    def __call__(self, module, args, kwargs):
        frame = self.handle.active
        if frame is None:
            return None
        inputs, given = frame.make_whole((args, kwargs), type(module).__name__, self.reason)
        frame.whole_map_inputs.append(given)
        return inputs


@dataclass
class _ComeBack:
    handle: Handle

    def __call__(self, module, args, output):
        frame = self.handle.active
        if frame is None:
            return None
        given = frame.whole_map_inputs.pop()
        if not given:
            return None
        if isinstance(output, (tuple, list)):
            return type(output)([frame.pack_again(output[0], given[0]), *output[1:]])
        return frame.pack_again(output, given[0])


@dataclass
class _DenseOutputs:
    handle: Handle
    path: str

    def __call__(self, module, args, output):
        output = tree_map(self.handle._leave_dense, output)
        if self.handle._call is not None:
            self.handle._call.left[self.path] = output
        return output


def _refuse_infinite(frame: Tensor, total: Tensor) -> None:
    """Refuse a frame with NaN or infinity in it; the sum of its values tells where to look."""
    if math.isfinite(total) or torch.isfinite(frame).all():
        return
    low, high = torch.aminmax(frame)
    raise FrameError(
        f"the frame has values from {low.item()} to {high.item()}, expected finite ones: NaN or "
        "infinity would stay in the state. Mend or skip the frame."
    )


# -- public functions ------------------------------------------------------------------------------


def convert_(
    model: nn.Module, config: BlockCopyConfig | None = None, adapter: ModelAdapter | None = None
) -> nn.Module:
    """Make a model run block-sparsely, in place; see :func:`blockcopy_plugins.blockcopy_`."""
    config = BlockCopyConfig() if config is None else config
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model is a {type(model).__name__}, expected a torch.nn.Module.")
    if not isinstance(config, BlockCopyConfig):
        raise ConfigError(
            f"config is {config!r}, expected a BlockCopyConfig: "
            "blockcopy_(model, BlockCopyConfig(block_size=128))."
        )
    for name, module in nn.Module.named_modules(model):
        inside = any(isinstance(hook, _Enter) for hook in module._forward_pre_hooks.values())
        inside = inside or isinstance(module.__dict__.get("forward"), ModuleShortcut)
        if _ATTRIBUTE in module.__dict__ or inside:
            raise ConfigError(
                f"module {name or '(root)'!r} is converted already"
                + (", as part of a larger model. " if inside else ". ")
                + "Call restore_ on what was converted before converting again."
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise ConfigError(
                f"module {name or '(root)'!r} is a compiled {type(module).__name__}, expected "
                "ordinary modules: TorchScript hides its layers. Convert the model before "
                "torch.jit.script or torch.jit.trace."
            )
    policy = build_policy(config.policy)
    Handle(model, config, policy, adapter or ModelAdapter()).attach()
    return model


def handle(model: nn.Module) -> Handle:
    """The handle of a converted module.

    Raises:
        ConfigError: If the module is not converted.
    """
    found = model.__dict__.get(_ATTRIBUTE)
    if found is None:
        inside = [n for n, m in nn.Module.named_modules(model) if _ATTRIBUTE in m.__dict__]
        hint = (
            f"its submodule {inside[0]!r} is; ask for that one"
            if inside
            else "call blockcopy_ first"
        )
        raise ConfigError(f"{type(model).__name__} is not converted: {hint}.")
    return found


def restore_(model: nn.Module) -> nn.Module:
    """Undo the conversion of a module; see :func:`blockcopy_plugins.restore_`."""
    handle(model).detach()
    return model


def report(model: nn.Module) -> Report:
    """What a module has run so far; see :func:`blockcopy_plugins.report`."""
    return handle(model).report()


def motion(model: nn.Module, fields: Sequence[MotionField | None]):
    """How far the images of a batch have moved; see :func:`blockcopy_plugins.motion`."""
    return handle(model).moved(fields)


def to_dense(x: Tensor) -> Tensor:
    """A dense ``(N, C, H, W)`` copy of a BlockTensor; any other tensor as it is.

    For model code that hands a feature map to something that takes ordinary tensors alone.
    """
    return x.frame.dense(x, "to_dense", copy=True) if isinstance(x, BlockTensor) else plain(x)
