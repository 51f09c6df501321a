"""A small converted network on videos that come, go, change places and fail."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import torch
from hypothesis import strategies as st
from torch import nn

import blockcopy_plugins as bc

SIZE = (70, 100)  # 3 x 4 blocks of 32 px, the last of each row and column cut
GRID = (3, 4)
BLOCK = 32


class Fails(RuntimeError):
    pass


class Net(nn.Module):
    """Fails before its first layer, when nothing was written, or behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 2, 3, padding=1)
        self.second = nn.Conv2d(2, 2, 3, padding=1)
        self.failure: str | None = None

    def forward(self, x):
        if self.failure == "early":
            raise Fails
        x = self.first(x)
        if self.failure == "late":
            x = x + 0  # the layer has run
            raise Fails
        return self.second(x)


@dataclass
class Seen:
    """One frame of one stream that has run.

    Attributes:
        chosen: What the policy picked.
        demanded: What the policy was told to be demanded.
        executed: What ran.
        first: Whether the engine executed it fully whatever anybody said.
    """

    chosen: torch.Tensor
    demanded: torch.Tensor
    executed: torch.Tensor
    first: bool


@dataclass(frozen=True)
class Step:
    """One call: streams in their order, a failure, and streams that end after it."""

    streams: tuple[str, ...]
    failure: str | None = None
    ends: tuple[str, ...] = ()


@dataclass
class Video:
    """Runs steps, and writes down what happened to each stream since it began.

    Args:
        guards: Of the conversion.
        rate: Probability of a block to be chosen.
        seed: Of the choice.
        choose_next: Is chosen in its place.
    """

    guards: list
    rate: float = 0.2
    seed: int = 0
    choose_next: torch.Tensor | None = None
    lives: list[list[Seen]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.seed)
        self.net = Net().eval()
        config = bc.BlockCopyConfig(block_size=BLOCK, policy=self.choose, guards=self.guards)
        bc.blockcopy_(self.net, config)
        self.at_work: dict[str, list[Seen]] = {}

    def choose(self, frame, context):
        chosen = self.choose_next
        if chosen is None:
            chosen = torch.rand(context.grid_shape, generator=self.random) < self.rate
        required = context.required
        self.told = torch.zeros_like(chosen) if required is None else required.clone()
        self.chosen, self.first = chosen.clone(), context.first.tolist()
        return chosen

    def run(self, step: Step, frame: torch.Tensor | None = None) -> None:
        if frame is None:
            frame = torch.rand(len(step.streams), 3, *SIZE)
        self.net.failure = step.failure
        try:
            with bc.streams(self.net, step.streams):
                self.net(frame)
        except Fails:
            pass
        else:
            grid = bc.handle(self.net).last.grid
            for i, stream in enumerate(step.streams):
                if stream not in self.at_work:
                    self.lives.append([])
                    self.at_work[stream] = self.lives[-1]
                seen = Seen(self.chosen[i], self.told[i], grid[i].clone(), self.first[i])
                self.at_work[stream].append(seen)
        live = set(bc.handle(self.net).states.ids())
        bc.reset_(self.net, [stream for stream in step.ends if stream in live])
        for stream in step.ends:
            self.at_work.pop(stream, None)


def story(seed: int, length: int) -> list[Step]:
    """Streams a, b and c in any subset and order; a few calls fail, a few streams end."""
    random = Random(seed)
    steps = []
    for _ in range(length):
        order = random.sample("abc", random.choice([1, 2, 3, 3]))
        failure = random.choice([None] * 10 + ["early", "late"])
        ends = random.choice([()] * 14 + [("a",), ("b", "c")])
        steps.append(Step(tuple(order), failure, ends))
    return steps


def steps(length: int = 25):
    """Stories of a length, all of them different: short and equal ones would test little."""
    return st.integers(0, 10**6).map(lambda seed: story(seed, length))


def rates():
    return st.sampled_from([0.3, 0.1, 0.0, 0.8])
