"""Predicts, within seconds, what block-sparse execution will bring on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import BlockCopyConfig
from ..engine.adapter import ModelAdapter
from ..errors import ConfigError
from ..integrations.framework import framework_for, framework_of_config
from ..policy import build_policy
from .figures import Estimate
from .frame_timer import FrameTimer, probe
from .measurement import block_sizes_to_try, measure
from .notes import notes
from .prediction import predict

RATES = (1.0, 0.5, 0.25, 0.125)
_PART_FOR_PROBES = 0.1  # of the time, for the last of them
_PART_FOR_DENSE = 0.45  # of the time, for a dense frame of the size itself


def estimate(
    model: nn.Module,
    size: Sequence[int],
    block_size: int | Iterable[int] | None = None,
    *,
    rates: Sequence[float] = RATES,
    policy: Any = None,
    rest_ms: float = 0.0,
    frames: Tensor | None = None,
    call: Callable[[nn.Module, Tensor], Any] | None = None,
    adapter: ModelAdapter | None = None,
    budget_s: float = 30.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Estimate:
    """Predict the speed-up at each executed rate on this machine, in seconds.

    The model runs dense, and block-sparse through the real engine with the real policy beside it,
    with random blocks, each frame another picture than the one before. Frames that the engine
    records are left out, since a video is replayed. If there is time, and for light networks there
    is, all of this happens on frames of the size itself, and what is predicted is what was
    measured. Else smaller frames are timed as well or instead, of two sizes, and a cost of each
    executed block, one of the share of blocks that run, one of the frame's area and a fixed one are
    fitted to the times.

    Args:
        model: A model as for :func:`blockcopy_plugins.blockcopy_`, in eval mode, not converted.
            It is left as it was. The prediction is for its device, dtype and weights' memory
            layout, and for torch's present number of threads.
        size: ``(H, W)`` of the frames in pixels of the network's input.
        block_size: In pixels; several are compared; ``None`` tries some that suit the model's
            strides.
        rates: Executed rates, above 0 and at most 1.
        policy: As in :class:`blockcopy_plugins.BlockCopyConfig`, with the same default. It runs
            and learns, but does not choose the blocks here.
        rest_ms: Milliseconds per frame that are spent outside this model either way: RoI heads
            and post-processing, decoding. They count on both sides of the speed-up.
        frames: Some pictures ``(N, 3, h, w)`` of the video, at least two, as ``call`` takes them;
            they are scaled to the sizes that are timed. ``None`` for noise, in which a detector
            does not find what it finds in a video, so that what follows its heads takes more or
            less time.
        call: ``call(model, frame)`` runs a frame ``(1, 3, h, w)``, by default ``model(frame)``, and
            the ``predict`` of a detector or segmentor.
        adapter: As in :func:`blockcopy_plugins.blockcopy_`; its ``task_outputs`` are what the
            policy compares.
        budget_s: Seconds that it may take, approximately; a light network takes few of them. More
            seconds give more exact figures for networks that take a second a frame or more.
        clock: Returns the time in seconds.

    Returns:
        The estimate.

    Raises:
        ConfigError: If the model is in training mode, is already converted or cannot run, or a
            value is out of range.

    Examples:
        >>> found = bc.estimate(model, (1024, 2048), block_size=128)
        >>> print(found)
        >>> assert found.speedup(rate=0.25) > 2
    """
    start = clock()
    _check(model, size, rates, rest_ms, budget_s)
    _check_frames(frames)
    size = (int(size[0]), int(size[1]))
    framework, own = framework_for(model)
    timing = FrameTimer(model, adapter or own, call or framework.call, clock, frames)
    wanted = BlockCopyConfig().policy if policy is None else policy
    probe(timing, size, _PART_FOR_PROBES * budget_s)
    sizes = block_sizes_to_try(block_size, size, timing)

    # No time matters more than this one, so it is measured if possible.
    guess = timing.dense_seconds(size)
    if 3 * guess <= _PART_FOR_DENSE * budget_s:
        timing.dense(size, 2)
    elif guess <= _PART_FOR_DENSE * budget_s:
        timing.dense(size, 0)
    runs = []
    for number, block in enumerate(sizes):
        now = clock()
        deadline = now + (budget_s - (now - start)) / (len(sizes) - number)
        runs.append(measure(timing, size, block, rates, wanted, deadline))
    found = tuple(predict(run, size, timing.dense_times, rates, rest_ms) for run in runs)
    best = max(found, key=lambda f: f.mean_speedup)
    return Estimate(
        size=size,
        dtype=str(timing.dtype).removeprefix("torch."),
        device=timing.device.type,
        threads=torch.get_num_threads(),
        policy=type(build_policy(wanted)).__name__,
        dense_ms=found[0].rates[0].dense_ms,
        dense_measured=size in timing.dense_times,
        rest_ms=float(rest_ms),
        block_sizes=found,
        best=best.block_size,
        seconds=clock() - start,
        notes=tuple(notes(model, timing, best, runs, size, rest_ms)),
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
        size: ``(H, W)`` of the frame in pixels; by default that of the config's pipeline.
        block_size: See :func:`estimate`.
        **options: Further arguments of :func:`estimate`.

    Returns:
        The estimate of the whole model, including what follows the dense heads.

    Raises:
        ConfigError: If the config cannot be read or its model cannot be built; and as for
            :func:`estimate`.
    """
    model, _, usual = framework_of_config(path).model_of_config(path)
    return estimate(model, usual if size is None else size, block_size, **options)


def _check(model: Any, size: Any, rates: Any, rest_ms: Any, budget_s: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model is a {type(model).__name__}, expected a torch.nn.Module.")
    for name, module in nn.Module.named_modules(model):
        if "_blockcopy" in module.__dict__:
            raise ConfigError(
                f"module {name or '(root)'!r} is already converted; an estimate needs the plain "
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


def _check_frames(frames: Any) -> None:
    if frames is None:
        return
    if not isinstance(frames, Tensor) or frames.dim() != 4 or not frames.is_floating_point():
        found = tuple(frames.shape) if isinstance(frames, Tensor) else type(frames).__name__
        dtype = getattr(frames, "dtype", "")
        raise ConfigError(
            f"frames is {found} {dtype}, expected a floating-point tensor (N, 3, H, W) of pictures."
        )
    if len(frames) < 2:
        raise ConfigError(
            f"frames has {len(frames)} picture, expected at least two different ones: in a still "
            "video all that a detector finds would repeat."
        )
