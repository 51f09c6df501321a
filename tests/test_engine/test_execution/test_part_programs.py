"""Programs of parts of a model, where the whole frame cannot be one: the same as frames without."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.execution.model_part import PartForward
from tests.test_engine.test_execution.test_frame_programs import (
    COUNTS,
    SIZE,
    Net,
    call,
    converted,
    grid_of,
    nearly_the_same,
    pair,
    run,
    same,
)


class Tail(nn.Module):
    """Reads two maps, of different strides, and keeps another map of one that was kept before."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
        self.two = nn.Sequential(nn.Conv2d(8, 4, 5, padding=2), nn.BatchNorm2d(4), nn.SiLU())

    def forward(self, maps, scale=1.0):
        x, y = maps
        x = self.one(F.max_pool2d(x, 4))
        return {"sum": self.two(y) * scale + x, "none": None, "number": 3, "same": y}


class Draws(nn.Module):
    """Two parts; what is between them cannot be done again by a program."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Net(), Tail()

    def between(self, maps):
        torch.rand(1).item()
        return maps

    def forward(self, x):
        maps = self.between(self.first(x))
        found = self.second(list(maps), scale=2.0)
        return found["sum"], F.relu(found["same"]), *maps


def parts(net):
    return bc.report(net).programs.parts


def test_nothing_executed_is_the_last_frame():
    torch.manual_seed(0)
    net = converted(Draws())
    draw = torch.Generator().manual_seed(1)
    for executed in (35, 5, 9, 4, 6):
        last = call(net, torch.randn(1, 3, *SIZE, generator=draw), grid_of(executed, draw))
    assert parts(net).replayed >= 2 and bc.report(net).programs.made == 0
    assert "calls of parts run by them" in str(bc.report(net))
    held = [x.clone() for x in last]
    same(call(net, torch.randn(1, 3, *SIZE), grid_of(0, draw)), held)


def test_hooks():
    torch.manual_seed(0)
    nets = pair(Draws())
    draw = torch.Generator().manual_seed(1)
    run(nets, [35, 5, 9, 4, 6], draw)
    seen = []
    hooks = [
        nets[0].get_submodule(path).register_forward_hook(lambda *a: seen.append(1))
        for path in ("first", "second.two")
    ]
    before = parts(nets[0]).replayed
    run(nets, [5, 9, 4], draw)
    # That of a part itself runs around it.
    assert len(seen) == 6 and parts(nets[0]).replayed == before + 3
    (reason,) = parts(nets[0]).eager_calls
    assert reason.startswith("'second': module 'two' has a forward hook")
    for hook in hooks:
        hook.remove()
    run(nets, [5, 9, 4], draw)
    assert len(seen) == 6 and parts(nets[0]).replayed == before + 9


class Between(Draws):
    """Does something to the maps between the parts."""

    how = "nothing"

    def between(self, maps):
        x, y = super().between(maps)
        if self.how == "in place":
            y.mul_(0.5).add_(0.25)
        if self.how == "slices":
            y[:, 1:3] *= 2
        if self.how == "dense":
            x = bc.to_dense(x).clamp(-1, 1)
        if self.how == "twice":
            x = (
                x
                + self.first(torch.cat([y[:, :2], y[:, 5:6]], 1))[1].mean((2, 3), keepdim=True)[
                    :, :6
                ]
            )
        if self.how == "out":
            x, y = x + 1, F.leaky_relu(y)
        return x, y


@pytest.mark.parametrize("how", ["in place", "slices", "dense", "twice", "out"])
def test_what_lies_between_parts(how):
    torch.manual_seed(0)
    net = Between()
    net.how = how
    nets = pair(net)
    run(nets, COUNTS, torch.Generator().manual_seed(1))
    assert parts(nets[0]).replayed >= 5


class Inside(Draws):
    """A part that cannot be a program, with one in it that can."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleDict({"all": Draws()})

    def forward(self, x):
        x, y, z, _ = self.first["all"](x)
        return self.second([z, y])["sum"], x


def test_what_cannot_be_a_program_leaves_its_parts():
    torch.manual_seed(0)
    nets = pair(Inside())
    run(nets, COUNTS, torch.Generator().manual_seed(1))
    report = parts(nets[0])
    assert report.replayed >= 14
    (reason,) = report.eager_calls
    assert re.search(r"'first.all': .* draws random numbers", reason)
    forwards = {
        p for p, m in nets[0].named_modules() if type(vars(m).get("forward")) is PartForward
    }
    assert forwards == {"first.all.first", "first.all.second", "second"}
    bc.restore_(nets[0])
    assert not any("forward" in vars(m) for m in nets[0].modules())


class Asked(nn.Module):
    """Asks the model in it by another method than by calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Draws()

    def forward(self, x):
        return Draws.forward(self.inner, x)  # Not its call, as a tracker's detector.predict().


def test_children_of_what_is_not_called_are_parts():
    torch.manual_seed(0)
    nets = pair(Asked())
    run(nets, (*COUNTS, *COUNTS[1:]), torch.Generator().manual_seed(1))
    assert parts(nets[0]).replayed >= 20 and not parts(nets[0]).eager_calls
    forwards = [
        path
        for path, module in nets[0].named_modules()
        if isinstance(module.__dict__.get("forward"), PartForward)
    ]
    assert forwards == ["inner.first", "inner.second"]


class Ties(nn.Module):
    """Gives maps that are tied to what it is given, or to each other."""

    def __init__(self, how) -> None:
        super().__init__()
        self.net, self.how = Net(), how

    def forward(self, x):
        y = self.net(x)[1]
        if self.how == "input written":
            x.mul_(2.0)
        return {
            "input": (x, y),
            "input written": (x, y),
            "slice of input": (x[:, 1:], y),
            "slices": (y[:, :3], y[:, 3:]),
            "twice": (y, y),
        }[self.how]


class Writes(nn.Module):
    def __init__(self, how) -> None:
        super().__init__()
        self.ties, self.tail = Ties(how), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, frame):
        torch.rand(1).item()
        frame = frame + 0
        x, y = self.ties(frame)
        x.add_(1.0)
        y.mul_(3.0)
        return self.tail(frame), self.tail(F.pad(x, (0, 0, 0, 0, 0, 8))[:, 0:3]), y.clone()


@pytest.mark.parametrize("how", ["input", "input written", "slice of input", "slices", "twice"])
def test_maps_that_share_memory_are_written_to_together(how):
    torch.manual_seed(0)
    nets = pair(Writes(how))
    run(nets, COUNTS, torch.Generator().manual_seed(1))
    # The net in it can be a program in any case.
    assert parts(nets[0]).replayed >= 3


class Leaves(nn.Module):
    """The first part leaves a map otherwise than by its results, and the model reads it there."""

    def __init__(self, how) -> None:
        super().__init__()
        self.first, self.second = LeavesItIn(how), Tail()
        self.how = how

    def forward(self, x):
        torch.rand(1).item()
        into = {} if self.how == "dict" else [x] if self.how == "list" else None
        maps = self.first(x, into)
        if self.how == "dict":
            found = into["map"]
        else:
            found = (self.first.kept if into is None else into)[-1]
        return self.second(maps)["sum"] + F.max_pool2d(found, 4)


class LeavesItIn(Net):
    def __init__(self, how) -> None:
        super().__init__()
        self.how, self.kept = how, []

    def forward(self, x, into):
        maps = super().forward(x)
        left = maps[0].sigmoid().mean(1, keepdim=True)
        if self.how == "dict":
            into["map"] = left
        elif self.how == "list":
            into.append(left)
        else:
            self.kept[:] = [left]
        return maps


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("dict", "changes the lists or dicts"),
        ("list", "changes the lists or dicts"),
        ("attribute", "is kept, and is not among its results"),
    ],
)
def test_what_a_part_leaves_elsewhere_is_there_in_each_frame(how, reason):
    torch.manual_seed(0)
    nets = pair(Leaves(how))
    run(nets, COUNTS, torch.Generator().manual_seed(1))
    (found,) = parts(nets[0]).eager_calls
    assert found.startswith("'first'") and reason in found


class Turning(Tail):
    """Goes by what no module shows."""

    def forward(self, maps, scale=1.0):
        found = super().forward(maps, scale)
        if self.turn[0] % 2:
            found["sum"] = -found["sum"].sigmoid()
        return found


def turning_pair():
    """A pair whose second part goes by a number, and that number in a list."""
    torch.manual_seed(0)
    net, turn = Draws(), [0]
    net.second = Turning()
    nets = pair(net)
    for net in nets:
        net.second.turn = turn
    return nets, turn


def test_a_path_that_changes_in_each_frame_is_given_up():
    nets, turn = turning_pair()
    draw = torch.Generator().manual_seed(1)
    for executed in (35, 5, 9, 4, 6, 8, 3, 10, 7, 5, 6):
        turn[0] += 1
        run(nets, [executed], draw)
    report = parts(nets[0])
    (reason,) = report.eager_calls
    assert reason.startswith("'second': frames did not do the same")
    assert report.replayed >= 7


def test_a_path_that_changes_later_is_found_out():
    nets, turn = turning_pair()
    draw = torch.Generator().manual_seed(1)
    run(nets, [35, 5, 9, 4, 6], draw)
    turn[0] = 1
    frame = torch.randn(1, 3, *SIZE, generator=draw)
    for executed in [3, 4, 5, 6, 7, 8, 9, 10]:
        call(nets[0], frame, grid_of(executed, draw))
    (reason,) = parts(nets[0]).eager_calls
    assert "'second': the model did not do what it did in earlier frames" in reason
    frame, ones = torch.randn(1, 3, *SIZE, generator=draw), grid_of(35, draw)
    nearly_the_same(call(nets[0], frame, ones), call(nets[1], frame, ones))


class Counts(Tail):
    count = 0

    def forward(self, maps, scale=1.0):
        self.count += 1
        return super().forward(maps, scale if self.count % 3 else 2 * scale)


def test_a_part_that_counts_its_frames_is_given_up():
    torch.manual_seed(0)
    net = Draws()
    net.second = Counts()
    nets = pair(net)
    run(nets, COUNTS + COUNTS, torch.Generator().manual_seed(1))
    report = parts(nets[0])
    (reason,) = report.eager_calls
    assert reason == "'second': its attributes are others in each frame"
    assert report.replayed >= 4
    (reason,) = bc.report(nets[0]).programs.eager_calls
    assert reason == "attributes of the model are others in each frame"


class Scaled(Draws):
    """Hands another number to a part in each frame."""

    def forward(self, x):
        self.number = getattr(self, "number", 0.5) + 0.25
        maps = self.between(self.first(x))
        return self.second(maps, self.number)["sum"]


def test_other_constants_in_each_frame_are_given_up_after_a_while():
    torch.manual_seed(0)
    nets = pair(Scaled())
    run(nets, [35, *[7, 5, 9] * 14], torch.Generator().manual_seed(1))
    report = parts(nets[0])
    (reason,) = report.eager_calls
    assert reason == "'second': it does something else in each frame" and report.replayed > 30


def test_a_frame_that_fails_leaves_the_stream_right():
    class Fails(Draws):
        fails = ""

        def between(self, maps):
            if self.fails == "between":
                raise KeyError("now")
            return maps

        def forward(self, x):
            torch.rand(1).item()
            found = super().forward(x)
            if self.fails == "last":
                raise KeyError("now")
            return found

    torch.manual_seed(0)
    nets = pair(Fails())
    draw = torch.Generator().manual_seed(1)
    run(nets, [35, 5, 9, 4, 6], draw)
    for place in ("between", "last"):
        for net in nets:
            net.fails = place
            with pytest.raises(KeyError):
                call(net, torch.randn(1, 3, *SIZE), grid_of(6, draw))
            net.fails = ""
        run(nets, [5, 9, 4, 6, 7], draw)
    assert parts(nets[0]).replayed >= 13


@pytest.mark.parametrize("when", ["before", "behind"])
def test_an_op_that_fails_runs_without_a_program(monkeypatch, when):
    torch.manual_seed(0)
    nets = pair(Draws())
    draw = torch.Generator().manual_seed(1)
    run(nets, [35, 5, 9, 4, 6], draw)
    (cache,) = bc.handle(nets[0]).caches
    made = next(made for key, (made,) in cache.parts.programs.items() if key[0] == "first")
    ran = made.program.run

    def fail(*args):
        if when == "behind":
            ran(*args)
        raise RuntimeError("no memory")

    monkeypatch.setattr(made.program, "run", fail)
    run(nets, [6, 8, 4], draw)
    reason, *_ = parts(nets[0]).eager_calls
    assert reason == "'first': a program failed (RuntimeError: no memory)"


def test_copies_make_their_own():
    torch.manual_seed(0)
    net, plain = pair(Draws())
    draw = torch.Generator().manual_seed(1)
    run((net, plain), [35, 5, 9, 4, 6], draw)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        before = parts(net).replayed
        run((other, copy.deepcopy(plain)), [35, 9, 4, 6, 8], draw)
        assert parts(other).replayed >= 3 and parts(net).replayed == before
        bc.restore_(other)
        assert not any("forward" in vars(m) for m in other.modules())
    run((net, plain), [35, 5, 9, 4, 6], draw)


def test_they_can_be_turned_off():
    torch.manual_seed(0)
    net = converted(Draws(), programs=False)
    draw = torch.Generator().manual_seed(1)
    run((net, net), [35, 5, 9, 4], draw)
    assert bc.report(net).programs is None
    assert not any(isinstance(vars(m).get("forward"), PartForward) for m in net.modules())


class Halves(nn.Module):
    """A graph of ops as a part, and one of the same ops of what it gives."""

    def __init__(self, one, two) -> None:
        super().__init__()
        self.one, self.two = one, two

    def forward(self, x):
        torch.rand(1).item()
        maps = self.one(x)
        again = self.two(maps[0][:, :3] + 0)
        return (*maps, *again)
