"""Section ``speed``: E = (dense time / sparse time) x executed rate, beside the dense engines.

All alternate in one process on the same frames; medians of CUDA events, which begin when the host
begins: what the host is late with counts. ``E`` is against torch with channels last and batch norms
folded, ``E_fastest`` against the fastest engine of all. Dense and sparse share their weights.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import blockcopy_plugins as bc
from benchmarks import networks
from benchmarks.clock import Clock
from benchmarks.deviation import deviation
from benchmarks.grids import random_grid
from benchmarks.precision import tf32
from blockcopy_plugins.policy import build_policy
from blockcopy_plugins.policy.dictated import DictatedPolicy

from .dense_engines import (
    EngineUnavailable,
    Run,
    cuda_graph,
    fold_batch_norms_,
    slow_to_build,
)
from .section import OutOfTime, Section

RATES = (1.0, 0.5, 0.25, 0.125)
POLICIES = (None, "GainPolicy", "RLPolicy", "FrameDifferencePolicy")
"""``None``: what the blocks themselves take, without a policy."""

TOLERANCE = {"float16": 5e-2, "bfloat16": 0.2, "tf32": 5e-2, "float32": 1e-3}
_WARM_UP = 4  # a graph is captured in its second frame


class Setting(NamedTuple):
    """What the rows of one alternated loop have in common."""

    network: str
    dtype: str
    images: int

    def __str__(self) -> str:
        return f"{self.network}, {self.dtype}, batch {self.images}"


def settings(small: bool) -> Iterator[Setting]:
    """What matters most comes first: time may end before they do."""
    names = [name for name in networks.NETWORKS if name not in networks.LIGHT]
    if small:
        yield Setting("swiftnet_r18", "float32", 1)
        yield Setting("shufflenet_detector", "bfloat16", 2)
        return
    for dtype, images in (("float16", 1), ("float16", 8), ("bfloat16", 1), ("tf32", 1)):
        yield from (Setting(name, dtype, images) for name in names)
    for dtype in ("bfloat16", "tf32"):
        yield from (Setting(name, dtype, 8) for name in names)


def run(section: Section) -> None:
    """Measure all settings, then once more with the engines that take minutes to build."""
    if section.small:
        section.say("toy sizes on a CPU: they show that the section works, and no speed")
    for setting in settings(section.small):
        section.need(2 if section.small else 12)
        _measure(section, setting, slow=False)
    if section.small:
        return
    for name in (name for name in networks.NETWORKS if name not in networks.LIGHT):
        section.need(120)
        _measure(section, Setting(name, "float16", 1), slow=True)


def _measure(section: Section, setting: Setting, slow: bool) -> None:
    try:
        with tf32(setting.dtype == "tf32"):
            Contest(section, setting).run(slow)
    except OutOfTime:
        raise
    # One setting may need more memory than there is; the others are still to be measured.
    except Exception as error:
        section.fail(f"{setting}: {type(error).__name__}: {error}")
    finally:
        if section.device == "cuda":
            torch.cuda.empty_cache()


class Contest:
    """One setting: dense engines and block-sparse at each rate, in turn.

    Args:
        section: Tells the device and the size, and is told the figures.
        setting: What is measured.
    """

    def __init__(self, section: Section, setting: Setting) -> None:
        self.section = section
        self.setting = setting
        self.clock = Clock(section.device)
        self.block = 64 if section.small else 128
        size = (192, 256) if section.small else (1024, 2048)
        dtype = torch.float32 if setting.dtype == "tf32" else getattr(torch, setting.dtype)
        net = networks.build(setting.network, width=0.125 if section.small else 1.0)
        net = fold_batch_norms_(net).to(section.device, dtype)
        self.net = net.to(memory_format=torch.channels_last)
        self.draw = torch.Generator().manual_seed(0)
        shape = (setting.images, 3, *size)
        self.frames = [
            torch.randn(shape, generator=self.draw)
            .to(section.device, dtype)
            .contiguous(memory_format=torch.channels_last)
            for _ in range(2)
        ]
        self.shape = (setting.images, *(-(-side // self.block) for side in size))
        self.repeats = 3 if section.small else 15

    def run(self, slow: bool) -> None:
        """Measure, and add a row for each policy and rate."""
        with torch.inference_mode():
            engines, absent = self._engines(slow)
            models = {name: self._converted(name) for name in POLICIES}
            wanted = self.net(self.frames[0])
            worst = 0.0
            for model, policy in models.values():
                policy.grid = torch.ones(self.shape, dtype=torch.bool)
                worst = max(worst, deviation(model(self.frames[0]), wanted))
            del wanted
            if not self.section.check(
                worst <= TOLERANCE[self.setting.dtype],
                f"{self.setting}: a fully executed frame deviates from dense by {worst:.2g}",
            ):
                return
            times = self._alternate(engines, models)
        dense = {name: statistics.median(times[name]) for name in engines}
        fastest = min(dense, key=dense.get)
        for (name, rate), spent in ((key, t) for key, t in times.items() if key not in engines):
            self._add(name, rate, spent, dense, fastest, absent, worst, models[name][0])

    def _engines(self, slow: bool) -> tuple[dict[str, Run], dict[str, str]]:
        engines: dict[str, Run] = {"torch": self.net}
        makers: list[tuple[str, Callable[[], Run]]] = []
        if self.section.device == "cuda":
            makers.append(("CUDA graph", lambda: cuda_graph(self.net, self.frames[0])))
        if slow:
            makers += slow_to_build(self.net, self.frames[0])
        absent = {}
        for name, make in makers:
            try:
                engines[name] = make()
            except EngineUnavailable as error:
                absent[name] = str(error)
        return engines, absent

    def _converted(self, name: str | None) -> tuple[nn.Module, DictatedPolicy]:
        # In a frame in which it saves up, a policy would not look.
        options = dict(per_frame=True) if name == "GainPolicy" else {}
        beside = None if name is None else build_policy(dict(type=name, target=0.25, **options))
        policy = DictatedPolicy(beside)
        shared = {id(t): t for t in (*self.net.parameters(), *self.net.buffers())}
        config = bc.BlockCopyConfig(block_size=self.block, policy=policy)
        return bc.blockcopy_(copy.deepcopy(self.net, shared), config), policy

    def _alternate(self, engines: dict[str, Run], models: dict) -> dict[Any, list[float]]:
        """Milliseconds of each frame, by engine, and by policy and rate."""
        times: dict[Any, list[float]] = {}
        for step in range(_WARM_UP + self.repeats):
            frame = self.frames[step % len(self.frames)]
            for name, engine in engines.items():
                self._time(times, step, name, engine, frame)
            # Another rate first in each round, so that a policy's updates fall on all of them.
            first = step % len(RATES)
            for rate in (*RATES[first:], *RATES[:first]):
                grid = random_grid(rate, self.shape, self.draw)
                for name, (model, policy) in models.items():
                    policy.grid = grid
                    self._time(times, step, (name, rate), model, frame)
            if self.section.seconds_left() < 3 and step >= _WARM_UP + 2:
                break
        return times

    def _time(self, times: dict, step: int, key: Any, run: Run, frame: Tensor) -> None:
        start = self.clock.start()
        run(frame)
        spent = 1e3 * self.clock.between(start, self.clock.stop())
        if step >= _WARM_UP:
            times.setdefault(key, []).append(spent)

    def _add(self, policy, rate, spent, dense, fastest, absent, worst, model) -> None:
        sparse = statistics.median(spent)
        blocks = self.shape[1] * self.shape[2]
        executed = max(1, round(rate * blocks)) / blocks
        efficiency = dense["torch"] / sparse * executed
        against_fastest = dense[fastest] / sparse * executed
        graphs = bc.report(model).graphs
        self.section.add(
            f"{self.setting}, {policy or 'no policy'}, {executed:6.1%}: {sparse:.2f} ms of "
            f"{dense['torch']:.2f} (E {efficiency:.2f}), {fastest} {dense[fastest]:.2f} "
            f"(E {against_fastest:.2f})",
            **self.setting._asdict(), policy=policy, rate=executed, block_size=self.block,
            sparse_ms=sparse, dense_ms=dense, fastest=fastest, E=efficiency,
            E_fastest=against_fastest, absent=absent, deviation=worst,
            replayed=0 if graphs is None else graphs.replayed,
            without_graph={} if graphs is None else dict(graphs.eager_calls), times=spent,
        )  # fmt: skip
