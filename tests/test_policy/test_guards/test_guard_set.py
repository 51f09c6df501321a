"""How guards are made, joined, counted, refused and copied."""

from __future__ import annotations

import copy
import json
import pickle
import sys
import types

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.errors import ConfigError, GridError
from blockcopy_plugins.policy import Policy, PolicyContext
from blockcopy_plugins.policy.guards import (
    Always,
    Guard,
    GuardSet,
    Hold,
    MaxAge,
    Refresh,
    build_guard,
    build_guards,
    known_guards,
)

LEFT = [[0, 0], [32, 0], [32, 64], [0, 64]]  # 8 of 16 blocks of 16 px


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x)


def convert(guards, policy="none", **options):
    config = bc.BlockCopyConfig(block_size=16, policy=policy, guards=guards, **options)
    return bc.blockcopy_(Net().eval(), config)


def frame(images=1):
    return torch.rand(images, 3, 64, 64)


def one_block(row, column):
    grid = torch.zeros(1, 4, 4, dtype=torch.bool)
    grid[0, row, column] = True
    return grid


# -- made of configs -------------------------------------------------------------------------------


def test_configs():
    built = build_guards([dict(type="MaxAge", frames=7), "Refresh", Hold, Hold(4)])
    assert built.names == (
        "MaxAge(frames=7)",
        "Refresh(period=60)",
        "Hold(frames=2)",
        "Hold(frames=4)",
    )
    assert build_guard("blockcopy_plugins.Dilate").name == "Dilate(blocks=1)"
    assert build_guard(dict(type=MaxAge)).frames == 60
    assert len(build_guards(None)) == len(build_guards(())) == 0
    assert Always(LEFT).name == "Always(1 polygon)"
    for name in known_guards():
        options = dict(mask=LEFT) if name in ("Ignore", "Always") else {}
        assert isinstance(build_guard(dict(type=name, **options)), Guard)


@pytest.mark.parametrize(
    ("guards", "message"),
    [
        ([dict(type="MaxAgee")], "no guard 'MaxAgee'. Did you mean 'MaxAge'"),
        ([dict(frames=3)], "needs a 'type'"),
        ([dict(type="MaxAge", n=3)], "guard MaxAge does not take"),
        ([dict(type="Ignore")], "mask"),
        ([dict(type=int)], "subclass of Guard"),
        ([3], "found 3"),
        ("MaxAge", "guards must be a list"),
        (dict(type="MaxAge"), "guards must be a list"),
        ([dict(type="MaxAge", frames=0)], "frames of MaxAge must be an integer of at least 1"),
        ([dict(type="MaxAge", frames=2.5)], "found 2.5"),
        ([dict(type="MaxAge", frames=True)], "found True"),
        ([dict(type="Refresh", period=-1)], "period of Refresh"),
        ([dict(type="Hold", frames="2")], "frames of Hold"),
        ([dict(type="Dilate", blocks=0)], "blocks of Dilate"),
        ([dict(type="SceneCut", threshold=0)], "threshold of SceneCut must be a number above 0"),
        ([dict(type="SceneCut", ratio=float("nan"))], "ratio of SceneCut"),
    ],
)
def test_what_is_no_guard(guards, message):
    net = Net().eval()
    with pytest.raises(ConfigError, match=message):
        bc.blockcopy_(net, bc.BlockCopyConfig(guards=guards))
    # Nothing was converted.
    assert net(frame()).requires_grad


def test_users_guards_come_from_the_registry(monkeypatch):
    class Registry:
        module_dict = {"Own": Hold}

        def get(self, name):
            return self.module_dict.get(name)

    module = types.ModuleType("blockcopy_plugins.registry")
    module.GUARDS = Registry()
    monkeypatch.setitem(sys.modules, "blockcopy_plugins.registry", module)
    assert build_guard(dict(type="Own", frames=3)).frames == 3
    with pytest.raises(ConfigError, match="GUARDS.register_module"):
        build_guard("Owm")


# -- in a model ------------------------------------------------------------------------------------


def test_without_guards_nothing_is_demanded():
    contexts = []

    def policy(frame, context):
        contexts.append(context)
        return torch.zeros(context.grid_shape, dtype=torch.bool)

    net = convert((), policy)
    net(frame())
    assert contexts[0].required is None and contexts[0].forbidden is None
    assert bc.handle(net).last.guards is None
    report = bc.report(net)
    assert report.guards == () and "guards" not in str(report)


def test_the_policy_is_told_and_ignored_blocks_are_not_demanded():
    contexts = []

    def policy(frame, context):
        contexts.append(context)
        return torch.zeros(context.grid_shape, dtype=torch.bool)

    net = convert([dict(type="MaxAge", frames=2), dict(type="Ignore", mask=LEFT)], policy)
    for _ in range(3):
        net(frame())
    left = torch.zeros(1, 4, 4, dtype=torch.bool)
    left[..., :2] = True
    assert all(torch.equal(context.forbidden, left) for context in contexts)
    assert not contexts[1].required.any() and torch.equal(contexts[2].required, ~left)
    assert torch.equal(bc.handle(net).last.grid, ~left)


def test_what_is_demanded_is_neither_dilated_nor_held():
    """So it does not matter whether a policy returns what it was told to be required."""
    guards = [dict(type="MaxAge", frames=2), "Dilate", dict(type="Hold", frames=4)]

    def policy(frame, context):
        return context.required | one_block(0, 0)

    net = convert(guards, policy)
    counts = []
    for _ in range(5):
        net(frame())
        counts.append(int(bc.handle(net).last.grid.sum()))
    # A corner with its three neighbours, which are held too; MaxAge has all others run every other
    # frame.
    assert counts == [16, 4, 16, 4, 16]


def test_figures_of_the_report():
    """Counted by hand, with 16 blocks."""
    grids = [one_block(0, 0), one_block(0, 3), one_block(1, 3), one_block(1, 0)]
    guards = [
        dict(type="Always", mask=[[0, 0], [16, 0], [16, 64], [0, 64]]),  # the first column
        dict(type="MaxAge", frames=3),
        dict(type="Hold", frames=1),
        dict(type="Ignore", mask=[[48, 0], [64, 0], [64, 16], [48, 16]]),  # block (0, 3)
    ]
    net = convert(guards, lambda frame, context: grids.pop(0))
    for _ in range(4):
        net(frame())
    always, age, hold, ignore = bc.report(net).guards
    assert [g.guard for g in (always, age, hold, ignore)] == [
        "Always(1 polygon)",
        "MaxAge(frames=3)",
        "Hold(frames=1)",
        "Ignore(1 polygon)",
    ]
    # The first frame is executed fully. Frame 1: the column. Frame 2: the column, and (1, 3), which
    # was chosen. Frame 3: the column, of which (1, 0) was chosen, what is as old as 3 frames, all
    # but the column, (1, 3) and the ignored block, and (1, 3), which is held.
    assert (always.demanded, always.added, always.taken) == (12, 11, 0)
    assert (age.demanded, age.added) == (10, 10)
    assert (hold.demanded, hold.added) == (1, 1)
    assert (ignore.demanded, ignore.added, ignore.taken) == (0, 0, 1)
    executed = bc.report(net).executed_rate * 4 * 16
    assert executed == pytest.approx(16 + 4 + 5 + 4 + 10 + 1)
    text = str(bc.report(net))
    assert "MaxAge(frames=3): demanded 10 blocks, 10 more than were chosen" in text
    assert "Ignore(1 polygon): kept 1 chosen blocks from running" in text
    json.dumps(bc.report(net).as_dict())


def test_what_two_guards_forbid_is_counted_once():
    net = convert([dict(type="Ignore", mask=LEFT)] * 2, "all")
    for _ in range(3):
        net(frame())
    assert [guard.taken for guard in bc.report(net).guards] == [2 * 8, 0]


def test_a_copy_goes_on_by_itself():
    guards = [
        dict(type="MaxAge", frames=5),
        dict(type="Refresh", period=7),
        "SceneCut",
        dict(type="Hold", frames=3),
    ]
    net = convert(guards, dict(type="RandomPolicy", rate=0.1, seed=0))
    frames = [frame(2) * (1 if index % 4 else 0.2) for index in range(20)]
    for one in frames[:8]:
        with torch.inference_mode():
            net(one)
    models = (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net)))
    grids = []
    for model in models:
        grids.append([])
        for one in frames[8:]:
            model(one)
            grids[-1].append(bc.handle(model).last.grid)
    assert 0.1 < torch.stack(grids[0]).float().mean() < 0.9
    assert all(torch.equal(a, b) for a, b in zip(grids[0], grids[1], strict=True))
    # In a pickle streams begin anew, and the guards keep their promises from there.
    executed = torch.stack(grids[2])
    assert executed[0].all() and executed.float().mean() < 0.9
    assert executed.unfold(0, 5, 1).any(-1).all(), "no block is older than five frames"


def test_two_models_of_one_config_do_not_share_memory():
    guard = MaxAge(frames=3)
    config = bc.BlockCopyConfig(block_size=16, policy="none", guards=[guard])
    one, other = (bc.blockcopy_(Net().eval(), config) for _ in range(2))
    rates = []
    for _ in range(4):
        one(frame())
        other(frame())
        rates.append((bc.handle(one).last.executed_rate, bc.handle(other).last.executed_rate))
    assert rates == [(1, 1), (0, 0), (0, 0), (1, 1)]


def test_reset_forgets():
    net = convert([Hold(frames=5)], lambda frame, context: one_block(2, 2))
    net(frame())
    net(frame())
    bc.reset_(net)
    net(frame())
    bc.handle(net).policy.function = lambda frame, context: one_block(0, 0)
    net(frame())
    assert bc.handle(net).last.grid.nonzero().tolist() == [[0, 0, 0]]


def test_twice_the_same_question_gets_the_same_answer():
    guards = build_guards([MaxAge(3), Refresh(4), "SceneCut", Hold(2), "Dilate"])
    picture, chosen = frame(), one_block(1, 1)
    for index in range(8):
        picture = picture * (0.2 if index % 3 == 0 else 5)
        asked = PolicyContext(
            streams=("a",),
            grid_shape=(1, 4, 4),
            block_size=16,
            first=torch.tensor([index == 0]),
            frame_index=(index,),
            last_grid=chosen,
        )
        answers = []
        for _ in range(3):
            context = guards.demand(picture, asked)
            answers.append((context.required, guards.adjust(chosen, picture, context)))
        for required, grid in answers[1:]:
            assert torch.equal(required, answers[0][0]) and torch.equal(grid, answers[0][1])
        guards.commit(answers[0][1], context)


def test_ignored_blocks_do_not_fill_buckets():
    net = convert([dict(type="Ignore", mask=LEFT)], lambda f, c: one_block(0, 3), buckets=1)
    for _ in range(3):
        net(frame())
    assert bc.handle(net).last.grid[0, :, 2:].all()
    assert not bc.handle(net).last.grid[0, :, :2].any()


# -- refused ---------------------------------------------------------------------------------------


class Budget(Policy):
    """Stands for a policy that keeps to its target."""

    enforces_target = True

    def __init__(self, target):
        self.target = target

    def select(self, frame, context):
        return torch.zeros(context.grid_shape, dtype=torch.bool)


class Aim(Budget):
    enforces_target = False


def test_a_budget_below_what_guards_need():
    guards = [
        dict(type="Always", mask=LEFT),
        dict(type="MaxAge", frames=10),
        dict(type="Ignore", mask=[[32, 0], [64, 0], [64, 32], [32, 32]]),
        "SceneCut",
    ]
    # 8 of 16 blocks always, 4 of the others every tenth frame, 4 never.
    needed, each = build_guards(guards).least_rate((64, 64), 16)
    assert needed == pytest.approx(0.5 + 0.25 * 0.1)
    assert [rate for _, rate in each] == pytest.approx([0.5, 0.075, 0, 0])
    net = convert(guards, Budget(0.51))
    with pytest.raises(ConfigError) as error:
        net(frame())
    for part in ("Budget(target=0.51)", "51.0%", "52.5%", "Always(1 polygon) 50.0%", "64x64 px"):
        assert part in str(error.value)
    assert "MaxAge(frames=10) 7.5%" in str(error.value) and "SceneCut" not in str(error.value)
    assert not bc.handle(net).states.ids()
    for policy in (Budget(0.53), Budget(None), Aim(0.1), dict(type="RLPolicy", target=0.1)):
        convert(guards, policy)(frame())


def test_a_budget_that_is_just_enough():
    convert([dict(type="Refresh", period=10)], Budget(0.1))(frame())
    with pytest.raises(ConfigError, match="10.0%"):
        convert([dict(type="Refresh", period=10)], Budget(0.099))(frame())


def test_each_frame_size_is_checked():
    net = convert([dict(type="Always", mask=[[0, 0], [16, 0], [16, 16], [0, 16]])], Budget(0.1))
    with bc.streams(net, ["large"]):
        net(frame())
    with bc.streams(net, ["small"]), pytest.raises(ConfigError, match="25.0%"):
        net(torch.rand(1, 3, 32, 32))
    with bc.streams(net, ["large"]):
        net(frame())


class Odd(Guard):
    def __init__(self, demanded=None, forbidden=None, grown=None):
        self.answers = demanded, forbidden
        self.grown = grown

    def demand(self, frame, context):
        return self.answers

    def adjust(self, grid, frame, context):
        return grid if self.grown is None else self.grown


@pytest.mark.parametrize("bad", [torch.ones(1, 4, 4), torch.ones(4, 4).bool(), "all"])
@pytest.mark.parametrize("where", ["demanded", "forbidden", "grown"])
def test_a_guard_that_gives_no_grid(bad, where):
    net = convert([Odd(**{where: bad})])
    with pytest.raises(GridError, match="guard Odd gave"):
        net(frame())
    assert not bc.handle(net).states.ids()


def test_a_guard_that_forbids_and_demands_the_same_forbids():
    everything = torch.ones(1, 4, 4, dtype=torch.bool)
    net = convert([Odd(demanded=everything), Odd(forbidden=one_block(1, 1))], "all")
    for _ in range(2):
        net(frame())
    assert torch.equal(bc.handle(net).last.grid, ~one_block(1, 1))


@pytest.mark.parametrize("name", ["required", "forbidden"])
@pytest.mark.parametrize("bad", [torch.ones(1, 2, 2), torch.ones(2, 2).bool()])
def test_a_context_checks_its_grids(name, bad):
    grids = dict(last_grid=torch.zeros(1, 2, 2).bool(), **{name: bad})
    with pytest.raises(GridError, match=name):
        PolicyContext(("a",), (1, 2, 2), 16, torch.tensor([True]), (0,), **grids)


def test_an_empty_set_leaves_the_grid_alone():
    grid = one_block(0, 0)
    assert GuardSet().adjust(grid, frame(), None) is grid
    assert GuardSet().commit(grid, None) is None
