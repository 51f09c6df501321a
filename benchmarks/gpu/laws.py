"""Section ``laws``: the four laws on whole networks, with and without graphs, in float32.

Every frame is compared with the dense network or the masked reference on the same device. TF32 is
off: with its three digits nothing could be told.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import blockcopy_plugins as bc
from benchmarks import networks
from benchmarks.deviation import deviation
from benchmarks.precision import tf32
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.errors import BlockCopyError, FrameError, GridError

from .recording_backend import with_graphs
from .section import Section

TOLERANCE = 2e-4
"""Of the largest value of an output: both sides are rounded, and fifty layers add it up."""

FRAMES = 7
"""A graph's first frame warms up, its second is captured, later ones are replays."""

# The first of a stream is never a replay.
_WHOLE_FRAMES = 4
# A batch of eight in float32 needs more than a user's frames in float16.
_GRAPH_MEMORY_MIB = 32768

POLICIES = ("GainPolicy", "RLPolicy", "FrameDifferencePolicy", "callable")


@dataclass(frozen=True)
class Setting:
    """What one row is about.

    Attributes:
        network: Of ``benchmarks.networks``.
        graphs: Whether frames are captured and replayed.
        images: In a batch, each of a stream of its own.
        policy: One of ``POLICIES``.
    """

    network: str
    graphs: bool
    images: int
    policy: str

    def __str__(self) -> str:
        graphs = "graphs" if self.graphs else "no graphs"
        return f"{self.network}, batch {self.images}, {graphs}, {self.policy}"


def settings(small: bool) -> Iterator[Setting]:
    """All that are checked; a small check has each network, each policy and each way to run."""
    names = [name for name in networks.NETWORKS if name not in networks.LIGHT]
    if not small:
        # Time may end before they do: each quarter of them has each network in each way to run.
        ways = tuple(itertools.product((True, False), (1, 8)))
        for turn in range(len(POLICIES)):
            for (j, way), (i, name) in itertools.product(enumerate(ways), enumerate(names)):
                yield Setting(name, *way, POLICIES[(turn + i + j) % len(POLICIES)])
        return
    for index, name in enumerate(names):
        yield Setting(name, True, 2, POLICIES[index % len(POLICIES)])
    yield from (Setting(names[0], False, 1, policy) for policy in POLICIES[:2])


def run(section: Section) -> None:
    """Check all laws in all settings."""
    with tf32(False):
        for setting in settings(section.small):
            section.need(5)
            bench = Bench(setting, section)
            found: dict[str, Any] = {}
            try:
                for law in (bench.law_1, bench.law_2, bench.law_3, bench.law_4):
                    found |= law()
            # Whatever a network fails with, the others are still to be checked.
            except Exception as error:
                section.fail(f"{setting}: {type(error).__name__}: {error}")
                continue
            for name, value in found.items():
                if isinstance(value, float):
                    section.check(value <= TOLERANCE, f"{setting}: {name} deviates by {value:.2g}")
            worst = max(value for value in found.values() if isinstance(value, float))
            section.add(
                f"{setting}: at most {worst:.1e}"
                + (f", {found['replayed']} replays" if setting.graphs else ""),
                **vars(setting), **found,
            )  # fmt: skip


class Bench:
    """One setting: a network, its masked reference, and frames.

    Args:
        setting: What is checked.
        section: Tells the device and the size.
    """

    def __init__(self, setting: Setting, section: Section) -> None:
        self.setting = setting
        self.section = section
        self.block = 64 if section.small else 128
        # Neither is a multiple of the block.
        self.size = (180, 250) if section.small else (500, 1000)
        width = 0.125 if section.small else 1.0
        self.dense = networks.build(setting.network, width=width).to(section.device)
        self.draw = torch.Generator().manual_seed(0)
        self.ids = [f"camera {i}" for i in range(setting.images)]
        self.background = self._noise()

    def law_1(self) -> dict[str, float]:
        """All executed = dense, on whole maps and on packed blocks."""
        worst = 0.0
        for pack in (False, True):
            model = self._converted("all", pack_whole_frames=pack)
            for _ in range(_WHOLE_FRAMES):
                frame = self._noise()
                worst = max(worst, deviation(self._call(model, frame), self._dense(frame)))
        return {"law_1": worst}

    def law_2(self) -> dict[str, float]:
        """Nothing changed = nothing changes; under the empty grid bit for bit."""
        rates = [1.0, 0.4, 0.4, 0.4, 0.0, 0.0, 0.0, 0.4]
        model = self._converted(self._at_rates(list(rates)))
        still = self._noise()
        first = before = self._call(model, still)
        worst = 0.0
        for rate in rates[1:]:
            found = self._call(model, still if rate else self._noise())
            worst = max(worst, deviation(found, first))
            pairs = zip(tree_leaves(found), tree_leaves(before), strict=True)
            if rate == 0 and not all(torch.equal(a, b) for a, b in pairs):
                self.section.fail(f"{self.setting}: an empty grid changed the outputs")
            before = found
        return {"law_2": worst}

    def law_3(self) -> dict[str, Any]:
        """Any grid = the masked reference, whatever picks the grid and wherever streams are."""
        model = self._converted(self._policy())
        oracle = MaskedReference(copy.deepcopy(self.dense), self.block)
        worst = 0.0
        for step in range(FRAMES):
            frame, turn = self._moving(step), step % len(self.ids)
            ids = self.ids[turn:] + self.ids[:turn]
            frame = torch.cat([frame[turn:], frame[:turn]])
            with bc.streams(model, ids):
                found = self._call(model, frame)
            grid = bc.handle(model).last.grid
            with torch.no_grad():
                wanted = oracle(grid, frame, streams=ids)
            worst = max(worst, deviation(found, wanted))
        return {"law_3": worst, **self._of_graphs(model)}

    def law_4(self) -> dict[str, Any]:
        """What is wrong is refused, and the next good frame is as if it had never come."""
        grids = [torch.rand(self._grid_shape(), generator=self.draw) < 0.4 for _ in range(FRAMES)]
        given: list[Tensor] = []
        model = self._converted(lambda frame, context: given[-1])
        oracle = MaskedReference(copy.deepcopy(self.dense), self.block)
        worst = 0.0
        for step, grid in enumerate(grids):
            given.append(grid)
            frame = self._moving(step)
            found = self._call(model, frame)
            with torch.no_grad():
                wanted = oracle(bc.handle(model).last.grid, frame)
            worst = max(worst, deviation(found, wanted))
            for what, error, call in self._faults(model, given, grid, frame):
                self._refused(what, error, call)
        return {"law_4": worst}

    def _faults(
        self, model: nn.Module, given: list[Tensor], grid: Tensor, frame: Tensor
    ) -> Iterator[tuple[str, type[BlockCopyError], Callable[[], Any]]]:
        bad = frame.clone()
        bad[-1, 1, 7, 9] = float("nan")
        yield "a frame with NaN", FrameError, lambda: self._call(model, bad)
        cut = frame[..., : frame.shape[-1] // 2].contiguous()
        given.append(grid[..., : -(-cut.shape[-1] // self.block)])
        yield "a frame of another size", FrameError, lambda: self._call(model, cut)
        given.append(grid[:, :-1])
        yield "a grid of another shape", GridError, lambda: self._call(model, frame)
        given.append(grid)
        model.train()
        yield "a model in training mode", FrameError, lambda: self._call(model, frame)
        model.eval()

    def _refused(self, what: str, error: type[BlockCopyError], call: Callable[[], Any]) -> None:
        try:
            call()
        except error:
            return
        # Another error is as wrong as none.
        except Exception as other:
            self.section.fail(f"{self.setting}: {what} raised {type(other).__name__}: {other}")
            return
        self.section.fail(f"{self.setting}: {what} was not refused")

    # -- the network and its frames ---------------------------------------------------------------

    def _converted(self, policy: Any, **options: Any) -> nn.Module:
        model = bc.blockcopy_(
            copy.deepcopy(self.dense),
            bc.BlockCopyConfig(
                block_size=self.block,
                policy=policy,
                cuda_graphs=self.setting.graphs,
                graph_memory_mib=_GRAPH_MEMORY_MIB,
                buckets=2 if self.setting.graphs else None,
                **options,
            ),
        )
        if self.setting.graphs and self.section.small:
            with_graphs(model)
        return model

    def _policy(self) -> Any:
        if self.setting.policy == "callable":
            return self._at_rates([0.3] * FRAMES)
        return dict(type=self.setting.policy, target=0.3)

    def _at_rates(self, rates: list[float]) -> Callable:
        """A callable that executes random blocks at the next of these rates."""

        def policy(frame: Tensor, context) -> Tensor:
            return torch.rand(context.grid_shape, generator=self.draw) < rates.pop(0)

        return policy

    def _of_graphs(self, model: nn.Module) -> dict[str, Any]:
        if not self.setting.graphs:
            return {}
        found = bc.report(model).graphs
        replayed = 0 if found is None else found.replayed
        reasons = {} if found is None else dict(found.eager_calls)
        # A policy that saves up for whole frames has few others, of few different counts.
        least = 1 if self.setting.policy == "callable" else 0
        self.section.check(
            replayed >= least and not reasons,
            f"{self.setting}: {replayed} replays; without: {reasons}",
        )
        return {"replayed": replayed, "without_graph": reasons}

    def _call(self, model: nn.Module, frame: Tensor) -> Any:
        with torch.inference_mode():
            return model(frame)

    def _dense(self, frame: Tensor) -> Any:
        with torch.inference_mode():
            return self.dense(frame)

    def _grid_shape(self) -> tuple[int, int, int]:
        return (self.setting.images, *(-(-side // self.block) for side in self.size))

    def _noise(self) -> Tensor:
        frame = torch.randn(self.setting.images, 3, *self.size, generator=self.draw)
        return frame.to(self.section.device)

    def _moving(self, step: int) -> Tensor:
        """A still background with a square that moves."""
        frame = self.background.clone()
        side = self.block // 2
        left = 9 + step * side % (self.size[1] - side - 9)
        frame[:, :, 20 : 20 + side, left : left + side] = 2.0
        return frame
