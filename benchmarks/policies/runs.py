"""One run of a network over a clip, dense or under a policy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from tqdm import tqdm

import blockcopy_plugins as bc
from blockcopy_plugins.engine.propagation_report import PropagationReport
from blockcopy_plugins.policy import Policy

from .answers import Answer
from .network import Frames, Network


@dataclass
class Run:
    """What a run leaves besides its answers.

    Attributes:
        rates: Executed rate of each frame.
        seconds: Of each frame, the whole call.
        cpu_seconds: Likewise in CPU time of all threads, which busy neighbours disturb less.
        policy_seconds: Of each frame, the policy's choice and its learning.
        size: ``(H, W)`` of the network's input; None of a dense run.
        grid: ``(GH, GW)``; None of a dense run.
        propagation: What became of the outputs of blocks that did not run; None of a dense run.
    """

    rates: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    policy_seconds: list[float] = field(default_factory=list)
    size: tuple[int, int] | None = None
    grid: tuple[int, int] | None = None
    propagation: PropagationReport | None = None

    def rate(self, part: slice) -> float:
        """Mean executed rate of some frames, the first of the clip included where it is one."""
        return fmean(self.rates[part])

    def milliseconds(self) -> dict[str, float]:
        """Mean times of a frame; without the first, which prepares much that stays."""
        found = {
            "ms": 1e3 * fmean(self.seconds[1:] or self.seconds),
            "cpu_ms": 1e3 * fmean(self.cpu_seconds[1:] or self.cpu_seconds),
        }
        if self.policy_seconds:
            found["policy_ms"] = 1e3 * fmean(self.policy_seconds[1:] or self.policy_seconds)
        return found


class PolicyClock:
    """Measures the time in a policy's own two methods.

    What the engine counts as the policy's has the decoding of the network's outputs in it too,
    where nothing else needs them.

    Args:
        policy: Its ``select`` and ``feedback`` are measured from now on.

    Attributes:
        seconds: Since the last :meth:`take`.
    """

    def __init__(self, policy: Policy) -> None:
        self.seconds = 0.0
        self.pixels: tuple[int, int] | None = None
        for name in ("select", "feedback"):
            setattr(policy, name, self._measured(getattr(policy, name)))

    def take(self) -> float:
        """Seconds since the last call, and start anew."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def _measured(self, method: Callable) -> Callable:
        def measured(frame, *args):
            start = time.perf_counter()
            try:
                return method(frame, *args)
            finally:
                self.seconds += time.perf_counter() - start
                self.pixels = tuple(frame.shape[2:])

        return measured


def run_dense(network: Network, frames: Frames, on_answer: Callable[[Any, Answer], None]) -> Run:
    """Run the network as it is.

    Args:
        network: Not converted.
        frames: The frames.
        on_answer: Called with each frame and its answer.
    """
    run = Run()
    for frame in tqdm(frames, desc="dense", unit="frame", leave=False, disable=None):
        on_answer(frame, _call(network, frame, run))
        run.rates.append(1.0)
    return run


def run_policy(
    network: Network,
    frames: Frames,
    options: bc.BlockCopyConfig,
    on_answer: Callable[[Any, Answer], None],
    title: str,
    warm_up: tuple[Frames, int] | None = None,
) -> Run:
    """Convert the network, run it under a policy, and restore it.

    Args:
        network: Not converted; nor is it afterwards, whatever happens.
        frames: The frames.
        options: Of the conversion, with the policy built.
        on_answer: Called with each frame and its answer.
        title: For the progress bar.
        warm_up: Frames that the policy learns on beforehand, and how often.
    """
    clock = PolicyClock(options.policy)
    bc.blockcopy_(network.module, options, network.adapter)
    try:
        handle = bc.handle(network.module)
        for epoch in range(warm_up[1] if warm_up else 0):
            name = f"{title}: learning, epoch {epoch + 1}"
            for frame in tqdm(warm_up[0], desc=name, unit="frame", leave=False, disable=None):
                _call(network, frame, Run())
            bc.reset_(network.module)
        clock.take()
        run = Run()
        for frame in tqdm(frames, desc=title, unit="frame", leave=False, disable=None):
            answer = _call(network, frame, run)
            run.rates.append(handle.last.executed_rate)
            run.policy_seconds.append(clock.take())
            on_answer(frame, answer)
        run.size, run.grid = clock.pixels, tuple(handle.last.grid.shape[1:])
        run.propagation = bc.report(network.module).propagation
        return run
    finally:
        bc.restore_(network.module)


def _call(network: Network, frame: Any, run: Run) -> Answer:
    start, cpu_start = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        answer = network.run(frame)
    run.seconds.append(time.perf_counter() - start)
    run.cpu_seconds.append(time.process_time() - cpu_start)
    return answer
