"""Predicts what block-sparse execution will bring on this machine, in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import combinations
from math import exp, fsum, log, prod, sqrt
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from .api import blockcopy_
from .config import BlockCopyConfig
from .engine.adapter import ModelAdapter
from .engine.convert import motion, report, restore_
from .engine.report import Report
from .errors import BlockCopyError, ConfigError
from .integrations.config_kind import is_detectron2_config
from .integrations.framework import Framework, adapter_for, framework_called, frameworks_of
from .policy import MotionField, Policy, build_policy

RATES = (1.0, 0.5, 0.25, 0.125)
_ROUNDS = 3
# Parts of the frame's area that the block-sparse model may be timed on.
_SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)
_TRIED = 3  # block sizes, where none is named


@dataclass(frozen=True)
class RateEstimate:
    """What is to be expected at one executed rate.

    Attributes:
        rate: Executed blocks / all blocks, as it was asked for.
        executed: Executed blocks of a frame; a mean over frames, so it need not be whole.
        dense_ms: Milliseconds of a dense frame, without ``rest_ms``.
        model_ms: Milliseconds of a sparse frame in the model.
        policy_ms: Milliseconds of a sparse frame in the policy, learning included.
        speedup: Dense time / sparse time, policy and ``rest_ms`` included.
        efficiency: E = dense time / sparse time x rate, without ``rest_ms``.
    """

    rate: float
    executed: float
    dense_ms: float
    model_ms: float
    policy_ms: float
    speedup: float
    efficiency: float

    @property
    def sparse_ms(self) -> float:
        """Milliseconds of a sparse frame, policy included."""
        return self.model_ms + self.policy_ms


@dataclass(frozen=True)
class BlockSizeEstimate:
    """What is to be expected with one block size.

    Attributes:
        block_size: In pixels.
        blocks: Blocks of a frame.
        rates: One for each executed rate, in the order in which they were asked for.
        fixed_ms: Part of a sparse frame's time that does not depend on the executed blocks.
        block_ms: What each executed block adds to it.
        pays_below: Executed rate below which a sparse frame takes less time than a dense one, 0 to
            1; 0 if it never does.
        share_on_blocks: Part of the dense model's MACs that runs on blocks, 0 to 1.
        whole_map_ops: ``(module path, op, reason)`` of the ops that do not.
        state_bytes: Memory of a stream's state.
        measured_on: Sizes ``(H, W)`` of the frames on which the sparse model was timed.
    """

    block_size: int
    blocks: int
    rates: tuple[RateEstimate, ...]
    fixed_ms: float
    block_ms: float
    pays_below: float
    share_on_blocks: float
    whole_map_ops: tuple[tuple[str, str, str], ...]
    state_bytes: int
    measured_on: tuple[tuple[int, int], ...]

    @property
    def mean_speedup(self) -> float:
        """Geometric mean of the speed-ups at the rates below 1; of all if there is none below."""
        found = [r.speedup for r in self.rates if r.rate < 1] or [r.speedup for r in self.rates]
        return exp(fmean(log(speedup) for speedup in found))


@dataclass(frozen=True)
class Estimate:
    """What :func:`estimate` predicts. ``print`` it, or take its fields.

    Attributes:
        size: ``(H, W)`` of a frame in pixels.
        dtype: Of the model.
        device: Of the model.
        threads: Of torch.
        policy: Class name of the policy.
        dense_ms: Milliseconds of a dense frame.
        dense_measured: It was measured at this size, not extrapolated from smaller frames.
        rest_ms: As it was given.
        block_sizes: What is to be expected with each block size.
        best: The block size, px, with the largest mean speed-up at these rates.
        seconds: What the estimate took.
        notes: What it leaves out, and what would make dense or sparse faster.
    """

    size: tuple[int, int]
    dtype: str
    device: str
    threads: int
    policy: str
    dense_ms: float
    dense_measured: bool
    rest_ms: float
    block_sizes: tuple[BlockSizeEstimate, ...]
    best: int
    seconds: float
    notes: tuple[str, ...]

    def of(self, block_size: int | None = None) -> BlockSizeEstimate:
        """What is to be expected with a block size.

        Args:
            block_size: In pixels, by default the best.

        Raises:
            ConfigError: If it was not tried.
        """
        wanted = self.best if block_size is None else block_size
        for found in self.block_sizes:
            if found.block_size == wanted:
                return found
        tried = [found.block_size for found in self.block_sizes]
        raise ConfigError(
            f"block_size={wanted!r} was not tried, but {tried}; name it in the call of estimate."
        )

    def speedup(self, rate: float, block_size: int | None = None) -> float:
        """Predicted speed-up.

        Args:
            rate: One of the executed rates that were asked for.
            block_size: In pixels, by default the best.

        Raises:
            ConfigError: If rate or block size were not asked for.
        """
        found = self.of(block_size)
        for each in found.rates:
            if each.rate == rate:
                return each.speedup
        raise ConfigError(
            f"rate={rate!r} was not asked for, but {[r.rate for r in found.rates]}; name it in the "
            "call of estimate: rates=(...)."
        )

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        height, width = self.size
        how = "measured" if self.dense_measured else "extrapolated from smaller frames"
        lines = [
            f"BlockCopy estimate: frames of {height}x{width} px, {self.dtype}, {self.device}, "
            f"{self.threads} threads, {self.policy}",
            f"  dense {self.dense_ms:.1f} ms a frame ({how})"
            + (f", and {self.rest_ms:.1f} ms for the rest" if self.rest_ms else ""),
            f"  {'block size':>10}  {'executed':>8}  {'sparse ms':>9}  {'of it policy':>12}  "
            f"{'speed-up':>8}  {'E':>5}",
        ]
        for found in self.block_sizes:
            for r in found.rates:
                lines.append(
                    f"  {found.block_size:>7} px  {r.rate:>8.1%}  {r.sparse_ms:>9.1f}  "
                    f"{r.policy_ms:>12.1f}  {r.speedup:>7.2f}x  {r.efficiency:>5.2f}"
                )
        best = self.of()
        lines.append(
            f"  best block size: {self.best} px"
            + (
                f"; it pays where less than {best.pays_below:.0%} of the blocks are executed"
                if best.pays_below
                else "; it does not pay at any rate"
            )
        )
        lines += [f"  note: {note}" for note in self.notes]
        lines.append(f"  found in {self.seconds:.1f} s")
        return "\n".join(lines)


def estimate(
    model: nn.Module,
    size: Sequence[int],
    block_size: int | Iterable[int] | None = None,
    *,
    rates: Sequence[float] = RATES,
    policy: Any = None,
    rest_ms: float = 0.0,
    call: Callable[[nn.Module, Tensor], Any] | None = None,
    adapter: ModelAdapter | None = None,
    budget_s: float = 18.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Estimate:
    """Predict the speed-up by executed rate on this machine, from few blocks in a few seconds.

    The model runs dense, and block-sparse through the real engine with the real policy beside it,
    on frames that are as much smaller as the time allows, with a few numbers of executed blocks.
    What a sparse frame costs is what its executed blocks cost, whatever the frame's size, and
    something that grows with its area (ops on whole maps, the copies of the outputs), and something
    fixed (Python). The three are fitted to the times, and give those of the whole frame. Where the
    time allows, dense is timed at the frame's own size.

    Args:
        model: A model as :func:`blockcopy_plugins.blockcopy_` takes it, in eval mode, not
            converted. It is left as it was. Its device, dtype and weights' memory layout are those
            of the prediction, and the number of torch's threads is that at work.
        size: ``(H, W)`` of the frames in pixels of the network's input.
        block_size: In pixels; several to compare them; ``None`` tries some that suit the model's
            strides.
        rates: Executed rates, above 0 and at most 1.
        policy: As in :class:`blockcopy_plugins.BlockCopyConfig`, by default the same. It runs and
            learns beside, and does not choose the blocks here.
        rest_ms: Milliseconds a frame that are spent outside this model either way: RoI heads and
            post-processing, decoding. They count on both sides of the speed-up.
        call: ``call(model, frame)`` runs a frame ``(1, 3, h, w)``, by default ``model(frame)``, and
            the ``predict`` of a detector or segmentor.
        adapter: As in :func:`blockcopy_plugins.blockcopy_`; its ``task_outputs`` are what the
            policy compares.
        budget_s: Seconds that it may take, about. More of them give more exact figures.
        clock: Tells the seconds.

    Returns:
        The estimate.

    Raises:
        ConfigError: If the model is in training mode, is converted already or cannot run on smaller
            frames, or a value is out of range.

    Examples:
        >>> found = bc.estimate(model, (1024, 2048), block_size=128)
        >>> print(found)
        >>> assert found.speedup(rate=0.25) > 2
    """
    start = clock()
    _check(model, size, rates, rest_ms, budget_s)
    size = (int(size[0]), int(size[1]))
    own = adapter_for(model)
    timing = _Timing(model, adapter or own, call or _call_for(model, own), clock)
    wanted = BlockCopyConfig().policy if policy is None else policy
    per_pixel = _probe(timing, size, budget_s)
    sizes = _block_sizes(block_size, size, timing)

    dense_guess = per_pixel * prod(size)
    # With a warm-up before. Nothing counts more than this time, so it is measured if possible.
    directly = 2 if 3 * dense_guess <= 0.5 * budget_s else int(2 * dense_guess <= 0.6 * budget_s)
    left = budget_s - (clock() - start) - (dense_guess * (directly + 1) if directly else 0.0)
    left /= len(sizes)
    runs = []
    for block in sizes:
        share, rounds = _plan(size, block, rates, per_pixel, left)
        runs.append(_measure(timing, size, block, share, rounds, rates, wanted))
    if directly:
        timing.dense(size, directly)
    dense = _line(timing.dense_times, prod(size), size)
    found = tuple(_predict(run, size, dense, rates, rest_ms) for run in runs)
    best = max(found, key=lambda f: f.mean_speedup)
    return Estimate(
        size=size,
        dtype=str(timing.dtype).removeprefix("torch."),
        device=timing.device.type,
        threads=torch.get_num_threads(),
        policy=type(build_policy(wanted)).__name__,
        dense_ms=1e3 * dense,
        dense_measured=size in timing.dense_times,
        rest_ms=float(rest_ms),
        block_sizes=found,
        best=best.block_size,
        seconds=clock() - start,
        notes=tuple(_notes(model, timing, best, runs, size, rest_ms)),
    )


def estimate_config(
    path: str,
    size: tuple[int, int] | None = None,
    block_size: int | Iterable[int] | None = None,
    **options: Any,
) -> Estimate:
    """Predict the speed-up for the model of a config, with random weights.

    Args:
        path: Config of MMDetection, MMSegmentation or Detectron2.
        size: ``(H, W)`` of the frame in pixels; by default what the config's pipeline makes.
        block_size: See :func:`estimate`.
        **options: More of :func:`estimate`.

    Returns:
        The estimate of the whole model, with what stands behind the dense heads.

    Raises:
        ConfigError: If the config cannot be read or its model not be built; and as
            :func:`estimate`.
    """
    if is_detectron2_config(path):
        framework_called("detectron2")
        from .integrations.detectron2.survey import build_model

        model, _, usual = build_model(path)
        return estimate(model, usual if size is None else size, block_size, **options)
    from .integrations.mmengine import survey, video_config

    config = video_config.read_config(path)
    model = survey.build_model(config)
    size = survey.frame_size(config) if size is None else size
    return estimate(model, size, block_size, **options)


# -- what runs -------------------------------------------------------------------------------------


class _Timing:
    """Runs a model and times it.

    Args:
        model: The model.
        adapter: For the conversion.
        call: Runs a frame.
        clock: Tells the seconds.
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
        """Inside the context the model is converted."""
        config = BlockCopyConfig(block_size=block_size, policy=policy)
        blockcopy_(self.model, config, self.adapter)
        try:
            yield
        finally:
            restore_(self.model)

    def frame(self, size: tuple[int, int]) -> Tensor:
        """A frame of noise; the same for the same size, so that a detector finds the same in it."""
        frame = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return frame.to(self.device, self.dtype).contiguous(memory_format=layout)

    def now(self) -> float:
        """Seconds, once the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock()

    def run(self, frame: Tensor) -> float:
        """Seconds of one call."""
        start = self.now()
        # Not in inference mode: what a model keeps of a call must go on working outside of it.
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
            # Whatever a model of the user's raises.
            except Exception as error:
                raise ConfigError(
                    f"the model cannot run a frame {tuple(frame.shape)}, {frame.dtype}: "
                    f"{type(error).__name__}: {error}. An estimate runs it on frames smaller than "
                    "those asked for; give call=f(model, frame) if it is not called model(frame)."
                ) from error
            self._dense[size] = []
        self._dense[size] += [self.run(frame) for _ in range(times)]


class _Dictated(Policy):
    """Executes the grid it was given, while another policy works beside it and is timed.

    Args:
        inner: The other policy.
        now: Tells the seconds.
    """

    def __init__(self, inner: Policy, now: Callable[[], float]) -> None:
        self.grid = torch.ones(1, 1, 1, dtype=torch.bool)
        self.seconds = 0.0
        self.needs_outputs = inner.needs_outputs
        self.needs_motion = inner.needs_motion
        self._inner = inner
        self._now = now

    def select(self, frame, context):
        start = self._now()
        self._inner.select(frame, context)
        self.seconds += self._now() - start
        return self.grid

    def feedback(self, frame, grid, outputs, context):
        start = self._now()
        scalars = self._inner.feedback(frame, grid, outputs, context)
        self.seconds += self._now() - start
        return scalars

    def reset(self, streams=None):
        self._inner.reset(streams)


def _motion_for(policy: Policy, model: nn.Module, size: tuple[int, int]) -> Any:
    """Gives a policy that wants motion vectors those of a video that stands still."""
    if not policy.needs_motion:
        return nullcontext()
    still = torch.zeros(-(-size[0] // 16), -(-size[1] // 16), 2, dtype=torch.float64)
    return motion(model, [MotionField(still, still[..., 0].long(), size)])


@dataclass(frozen=True)
class _Sample:
    """Times of one number of executed blocks on frames of one size, in seconds."""

    size: tuple[int, int]
    executed: int
    model: float


@dataclass(frozen=True)
class _Run:
    """What was measured with one block size.

    Attributes:
        block_size: In pixels.
        samples: Of frames that are executed in part.
        whole: Seconds of a fully executed frame / seconds of a dense one.
        policy: Mean seconds of the policy by size of the frame.
        report: Of the engine, on the largest frame.
        size: ``(H, W)`` of that frame.
        macs: MACs of a dense frame by size.
    """

    block_size: int
    samples: tuple[_Sample, ...]
    whole: float
    policy: dict[tuple[int, int], float]
    report: Report
    size: tuple[int, int]
    macs: dict[tuple[int, int], float]


def _probe(timing: _Timing, size: tuple[int, int], budget: float) -> float:
    """Seconds a pixel of a dense frame, found on frames that grow until one takes some time."""
    blocks = 2
    while True:
        probe = _reduced(size, 64, 0.0, (blocks, blocks))
        timing.dense(probe, 1)
        spent = timing.dense_times[probe]
        # The next one would be four times as large.
        if probe == size or 4 * spent > 0.05 * budget:
            return spent / prod(probe)
        blocks *= 2


def _measure(
    timing: _Timing,
    size: tuple[int, int],
    block: int,
    share: float,
    rounds: int,
    rates: Sequence[float],
    wanted: Any,
) -> _Run:
    """Time the model on blocks: on a frame, and on a smaller one that tells what area costs."""
    frames = _frames(size, block, share)
    large = frames[-1]
    policy = _Dictated(build_policy(wanted), timing.now)
    draw = torch.Generator().manual_seed(0)
    samples: list[_Sample] = []
    of_policy: dict[tuple[int, int], float] = {}
    macs: dict[tuple[int, int], float] = {}
    for current in frames:
        rows, columns = -(-current[0] // block), -(-current[1] // block)
        blocks = rows * columns
        counts = _counts(blocks, rates if current == large else ())
        times: dict[int, list[float]] = {count: [] for count in counts}
        policies: list[float] = []
        frame = timing.frame(current)
        # Before and after: what slows the machine for a while then slows both.
        timing.dense(current, max(1, rounds - 1))
        with timing.on_blocks(block, policy), _motion_for(policy, timing.model, current):
            for turn in range(rounds + 1):
                # The first frame is executed fully, and fills the state.
                for count in counts if turn else [blocks]:
                    chosen = torch.zeros(blocks, dtype=torch.bool)
                    chosen[torch.randperm(blocks, generator=draw)[:count]] = True
                    policy.grid = chosen.view(1, rows, columns).to(timing.device)
                    policy.seconds = 0.0
                    spent = timing.run(frame)
                    if turn:
                        times[count].append(spent - policy.seconds)
                        policies.append(policy.seconds)
            found = report(timing.model)
        timing.dense(current, 1)
        policy.reset()
        of_policy[current] = fmean(policies)
        macs[current] = found.macs_dense + found.macs_outside
        samples += [
            _Sample(current, count, median(times[count])) for count in counts if count < blocks
        ]
    # Of the largest frame, which came last.
    dense = timing.dense_times[large]
    whole = median(times[blocks]) / dense if dense else 1.0
    return _Run(block, tuple(samples), whole, of_policy, found, large, macs)


def _block_sizes(
    block_size: int | Iterable[int] | None, size: tuple[int, int], timing: _Timing
) -> list[int]:
    """Those asked for; or up to three that suit the strides of the model, of usable width."""
    if block_size is None:
        tiny = (min(size[0], 128), min(size[1], 256))
        with timing.on_blocks(128, "all"):
            timing.run(timing.frame(tiny))
            suitable = report(timing.model).block_sizes
        # At least four blocks, or there is nothing to choose from.
        usable = [b for b in suitable if -(-size[0] // b) * -(-size[1] // b) >= 4]
        return usable[-_TRIED:] or [min(suitable, default=min(size))]
    sizes = [block_size] if isinstance(block_size, int) else list(block_size)
    for block in sizes:
        if not isinstance(block, int) or isinstance(block, bool) or block < 1:
            raise ConfigError(
                f"block_size={block_size!r}, expected whole numbers of at least 1, px; or None to "
                "try some that suit the model."
            )
        if -(-size[0] // block) * -(-size[1] // block) < 2:
            raise ConfigError(
                f"block_size={block} makes one block of a frame of {size} px, so there is nothing "
                f"to skip; give one below {max(size)}."
            )
    if not sizes:
        raise ConfigError("block_size is empty; name one, or give None to try some.")
    return list(dict.fromkeys(sizes))


def _call_for(model: nn.Module, adapter: ModelAdapter) -> Callable[[nn.Module, Tensor], Any]:
    if type(adapter) is ModelAdapter:
        return lambda model, frame: model(frame)
    for framework in frameworks_of(model):
        if type(framework).call is not Framework.call:
            return framework.call
    from .integrations.mmengine.survey import data_sample

    def predict(model: nn.Module, frame: Tensor) -> Any:
        return model(frame, [data_sample(tuple(frame.shape[2:]))], mode="predict")

    return predict


# -- what follows from it --------------------------------------------------------------------------


def _predict(
    run: _Run, size: tuple[int, int], dense: float, rates: Sequence[float], rest_ms: float
) -> BlockSizeEstimate:
    area = prod(size)
    blocks = -(-size[0] // run.block_size) * -(-size[1] // run.block_size)
    points = [((1.0, float(prod(s.size)), float(s.executed)), s.model) for s in run.samples]
    fixed, by_area, by_block = fit_costs(points)
    policy = _line(run.policy, area, size)
    fixed += by_area * area
    found = []
    for rate in rates:
        executed = rate * blocks
        model = fixed + by_block * executed if rate < 1 else dense * run.whole
        sparse = model + policy
        rest = rest_ms / 1e3
        found.append(
            RateEstimate(
                rate=float(rate),
                executed=executed,
                dense_ms=1e3 * dense,
                model_ms=1e3 * model,
                policy_ms=1e3 * policy,
                speedup=(dense + rest) / (sparse + rest) if sparse + rest else 1.0,
                efficiency=dense / sparse * rate if sparse else 1.0,
            )
        )
    spare = dense - policy - fixed
    pays = spare / (by_block * blocks) if by_block else float(spare > 0)
    state = run.report.state_bytes * area / prod(run.size)
    return BlockSizeEstimate(
        block_size=run.block_size,
        blocks=blocks,
        rates=tuple(found),
        fixed_ms=1e3 * (fixed + policy),
        block_ms=1e3 * by_block,
        pays_below=min(1.0, max(0.0, pays)),
        share_on_blocks=run.report.share_on_blocks,
        whole_map_ops=tuple((op.path, op.op, op.reason) for op in run.report.dense_ops),
        state_bytes=round(state),
        measured_on=tuple(dict.fromkeys(s.size for s in run.samples)),
    )


def fit_costs(points: Sequence[tuple[Sequence[float], float]]) -> tuple[float, ...]:
    """Costs of at least 0 that explain times best: ``time = sum(cost * amount)``.

    Args:
        points: Amounts (as many for each point), and the time that was measured.

    Returns:
        A cost for each amount, 0 for those that explain nothing. Long times count more than short
        ones, whose noise is the larger part of them, but not as much more as they are longer.
    """
    amounts = torch.tensor([list(a) for a, _ in points], dtype=torch.float64)
    times = torch.tensor([t for _, t in points], dtype=torch.float64)
    weight = times.clamp(min=1e-9).rsqrt()
    # Amounts of like size, or the solver loses digits.
    scale = amounts.abs().amax(0).clamp(min=1e-30)
    matrix = amounts / scale * weight[:, None]
    wanted = times * weight
    count = amounts.shape[1]
    best, least = (0.0,) * count, float("inf")
    # So few amounts that all choices of them can be tried, the smaller ones first.
    for chosen in (c for n in range(1, count + 1) for c in combinations(range(count), n)):
        part = matrix[:, list(chosen)]
        if torch.linalg.matrix_rank(part) < len(chosen):
            continue
        costs = torch.linalg.lstsq(part, wanted[:, None]).solution[:, 0]
        error = float(((part @ costs - wanted) ** 2).sum())
        if bool((costs >= 0).all()) and error < least * (1 - 1e-9) - 1e-18:
            least = error
            found = dict(zip(chosen, (costs / scale[list(chosen)]).tolist(), strict=True))
            best = tuple(found.get(i, 0.0) for i in range(count))
    return best


def _line(times: dict[tuple[int, int], float], area: int, size: tuple[int, int]) -> float:
    """Seconds at a size: those measured there, or what smaller frames make expect."""
    if size in times:
        return times[size]
    fixed, by_area = fit_costs([((1.0, float(prod(s))), t) for s, t in times.items()])
    return fixed + by_area * area


def _plan(
    size: tuple[int, int], block: int, rates: Sequence[float], per_pixel: float, budget: float
) -> tuple[float, int]:
    """Part of the frame's area to time, and how often, in a budget of seconds."""
    choices = [(share, _ROUNDS) for share in _SHARES]
    choices += [(_SHARES[-1], rounds) for rounds in range(_ROUNDS - 1, 0, -1)]
    for share, rounds in choices:
        cost = 0.0
        frames = _frames(size, block, share)
        for frame in frames:
            blocks = -(-frame[0] // block) * -(-frame[1] // block)
            *counts, _ = _counts(blocks, rates if frame == frames[-1] else ())
            # A warm-up and the rounds dense; a first one on blocks, then rounds of a whole one and
            # one of each rate, not all as fast as hoped.
            parts = 1.3 * fsum(counts) / blocks
            times = 1 + max(2, rounds) + 1 + rounds * (1 + parts)
            cost += times * per_pixel * prod(frame)
        if cost <= budget:
            break
    return share, rounds


def _frames(size: tuple[int, int], block: int, share: float) -> list[tuple[int, int]]:
    """A small frame and a larger one to time, or one, where the whole is no larger."""
    wide = -(-size[1] // block) >= 3
    large = _reduced(size, block, share, (2, 3) if wide else (3, 2))
    small = _reduced(size, block, share / 4, (2, 2))
    return list(dict.fromkeys((small, large)))


def _reduced(
    size: tuple[int, int], block: int, share: float, least: tuple[int, int]
) -> tuple[int, int]:
    """A frame of whole blocks with about a share of the area, and some rows and columns of them."""
    found = []
    for length, floor in zip(size, least, strict=True):
        blocks = -(-length // block)
        kept = min(blocks, max(floor, round(blocks * sqrt(share))))
        found.append(length if kept == blocks else kept * block)
    return found[0], found[1]


def _counts(blocks: int, rates: Sequence[float]) -> list[int]:
    """Numbers of executed blocks to time; all of them comes last."""
    counts = {min(blocks, max(1, round(rate * blocks))) for rate in rates}
    # Two at least, or nothing tells the cost of a block from the fixed one.
    counts |= {max(1, blocks // 8), max(1, blocks // 2)}
    return [*sorted(counts - {blocks}), blocks]


def _notes(
    model: nn.Module,
    timing: _Timing,
    best: BlockSizeEstimate,
    runs: Sequence[_Run],
    size: tuple[int, int],
    rest_ms: float,
) -> Iterable[str]:
    frames = " and ".join(f"{h}x{w}" for h, w in best.measured_on)
    if best.measured_on != (size,):
        yield f"extrapolated from sparse frames of {frames} px"
    if not rest_ms:
        yield (
            "left out: decoding and preparing the frame, and all that is not in this model; give "
            "its milliseconds as rest_ms"
        )
    if len(runs) > 1:
        yield (
            "smaller blocks follow what moves more closely: the same video needs a lower executed "
            "rate with them, which this table cannot know"
        )
    policy_ms, dense_ms = best.rates[0].policy_ms, best.rates[0].dense_ms
    if policy_ms > 0.02 * dense_ms:
        yield (
            f"the policy takes {policy_ms / dense_ms:.0%} of a dense frame; it compares what the "
            "model returns, and large maps of features take longer than detections or logits: give "
            "an adapter whose task_outputs are what the model is for"
        )
    outside = 1 - best.share_on_blocks
    if outside > 0.01:
        yield f"{outside:.0%} of the MACs do not run on blocks with {best.block_size} px"
    for run in runs:
        per_area = [macs / prod(s) for s, macs in run.macs.items()]
        if min(per_area) and max(per_area) > 1.05 * min(per_area):
            yield (
                "the MACs do not grow as the frame's area does (attention, or work behind the "
                "dense heads): trust this less, or raise budget_s"
            )
            break
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in nn.Module.modules(model)):
        yield "the model has batch norm: folded into the convolutions, dense is faster"
    if not timing.channels_last and timing.device.type == "cpu":
        yield (
            "the weights are not channels last: model.to(memory_format=torch.channels_last) makes "
            "dense faster on most machines"
        )


def _check(model: Any, size: Any, rates: Any, rest_ms: Any, budget_s: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model is a {type(model).__name__}, expected a torch.nn.Module.")
    for name, module in nn.Module.named_modules(model):
        if "_blockcopy" in module.__dict__:
            raise ConfigError(
                f"module {name or '(root)'!r} is converted already; an estimate wants the plain "
                "model: call restore_(model) first."
            )
    for name, module in nn.Module.named_modules(model):
        if module.training:
            raise ConfigError(
                f"module {name or '(root)'!r} is in training mode; call model.eval() first."
            )
    if not (
        isinstance(size, (tuple, list))
        and len(size) == 2
        and all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in size)
    ):
        raise ConfigError(f"size={size!r}, expected (height, width) of a frame in pixels.")
    if not (
        isinstance(rates, (tuple, list))
        and rates
        and all(isinstance(r, (int, float)) and 0 < r <= 1 for r in rates)
    ):
        raise ConfigError(
            f"rates={rates!r}, expected executed rates above 0 and at most 1, such as (0.5, 0.25)."
        )
    for name, value, low in (("rest_ms", rest_ms, 0.0), ("budget_s", budget_s, 1e-9)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= low:
            raise ConfigError(f"{name}={value!r}, expected a number above or equal to {low:g}.")
