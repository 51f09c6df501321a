from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.policy import (
    FrameDifferencePolicy,
    GainPolicy,
    PolicyContext,
    RateBudget,
    SemanticGain,
    build_policy,
)
from blockcopy_plugins.policy.gain.allotment import Allotment
from blockcopy_plugins.policy.gain.memory import StreamMemory
from blockcopy_plugins.policy.gain.price import BlockPrice
from blockcopy_plugins.policy.gain.spread import MeanSpread

SIZE, ROWS, COLUMNS = 32, 4, 6  # blocks of 32 px


class Scene:
    """A fixed camera and a network whose output is known in closed form.

    Foreground is what is green; the network finds it pixel by pixel (stride 4), with no halo. So
    what executing a block brings is exactly the foreground that came or went there since it was
    executed. A block in ``flicker`` turns purple and back: more to see, and nothing to gain.

    Args:
        objects: Blocks in which something comes or goes at random.
        flicker: Blocks that turn purple and back at random.
        pan: Pixels by which everything, foreground included, moves to the right in each frame.
        seed: Of the texture.
    """

    def __init__(self, objects=(), flicker=(), pan=0, seed=0):
        self.draw = torch.Generator().manual_seed(seed)
        shape = (3, ROWS * SIZE, COLUMNS * SIZE)
        self.texture = 0.2 * torch.rand(shape, generator=self.draw)
        self.objects, self.flicker, self.pan = objects, flicker, pan
        self.shown = torch.rand((256, len(objects)), generator=self.draw) > 0.5
        if pan:
            spots = torch.rand((1, 1, ROWS * 4, COLUMNS * 4), generator=self.draw) > 0.6
            self.texture += torch.nn.functional.interpolate(spots.float(), scale_factor=8)[0]

    def frame(self, index):
        picture = self.texture.roll(index * self.pan, 2)
        for row, column in self.flicker:
            purple = float(torch.rand((), generator=self.draw) > 0.5)
            picture[(slice(0, 3, 2), *_pixels(row, column))] = purple
        for place, (row, column) in enumerate(self.objects):
            if self.shown[index, place]:
                y, x = row * SIZE + 8, column * SIZE + 8
                picture[1, y : y + 12, x : x + 12] = 1.0
        return picture[None]

    @staticmethod
    def output(frame):
        green = torch.nn.functional.avg_pool2d(frame[:, 1:2], 4)[0]
        return torch.cat((8 * (0.6 - green), 8 * (green - 0.6)))


def _pixels(row, column, side=SIZE):
    return slice(row * side, row * side + side), slice(column * side, column * side + side)


class Run:
    """Frames through a policy, with outputs as block-sparse execution gives them."""

    def __init__(self, policy, streams=("cam",), per_block=SIZE // 4):
        self.policy, self.streams, self.per_block = policy, tuple(streams), per_block
        self.standing, self.index, self.grids, self.errors = {}, 0, [], []

    def context(self, streams, kind=PolicyContext):
        shape = (len(streams), ROWS, COLUMNS)
        return kind(
            streams=tuple(streams),
            grid_shape=shape,
            block_size=SIZE,
            first=torch.tensor([stream not in self.standing for stream in streams]),
            frame_index=(self.index,) * len(streams),
            last_grid=torch.zeros(shape, dtype=torch.bool),
        )

    def step(self, frames, streams=None, give=True, context=None):
        """Run one frame of each stream: ``frames`` is (N, 3, H, W)."""
        streams = self.streams if streams is None else streams
        context = self.context(streams) if context is None else context
        grid = self.policy.select(frames, context) | context.first[:, None, None]
        outputs = []
        for image, stream in enumerate(streams):
            dense = Scene.output(frames[image : image + 1])
            executed = grid[image].repeat_interleave(self.per_block, 0)
            executed = executed.repeat_interleave(self.per_block, 1)
            standing = torch.where(executed, dense, self.standing.get(stream, dense))
            self.standing[stream] = standing
            self.errors.append(float((standing.argmax(0) != dense.argmax(0)).float().mean()))
            outputs.append(standing)
        self.policy.feedback(frames, grid, outputs if give else None, context)
        self.grids.append(grid)
        self.index += 1
        return grid

    def play(self, scene, frames, **options):
        for _ in range(frames):
            self.step(scene.frame(self.index), **options)
        return self

    def rates(self, skip=1):
        return torch.stack(self.grids[skip:]).float().mean((1, 2, 3))


OBJECTS = [(0, 1), (2, 4), (3, 0)]
FLICKER = [(0, 4), (0, 5), (1, 5), (2, 0), (1, 2), (3, 3)]


def test_it_is_built_by_name():
    assert type(build_policy(dict(type="GainPolicy", target=0.2))) is GainPolicy
    assert build_policy("gain").target == 0.3
    assert GainPolicy(budget=RateBudget(0.4)).target == 0.4


@pytest.mark.parametrize(
    "arguments",
    [
        dict(target=0),
        dict(target=1.5),
        dict(target=True),
        dict(target=0.3, budget=RateBudget(0.3)),
        dict(budget=0.3),
        dict(information_gain="boxes"),
    ],
)
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ConfigError, match=r"target|budget|information_gain"):
        GainPolicy(**arguments)


def test_it_finds_what_brings_gain_among_what_only_moves():
    """Something comes or goes in 1.5 blocks of a frame, and 3 more change: 2 may be executed."""
    run = Run(GainPolicy(2 / 24)).play(Scene(OBJECTS, FLICKER), 80)
    late = torch.stack(run.grids[30:]).float().mean((0, 1))
    of_objects = sum(float(late[place]) for place in OBJECTS)
    assert of_objects > 2 * sum(float(late[place]) for place in FLICKER)
    # Frame difference cannot tell the two apart.
    other = Run(FrameDifferencePolicy(target=2 / 24)).play(Scene(OBJECTS, FLICKER), 80)
    assert sum(run.errors[30:]) < 0.7 * sum(other.errors[30:])


def test_the_scores_rank_blocks_as_their_true_gains():
    """Gains by hand: objects of different size come and go."""
    scene = Scene(OBJECTS, FLICKER)
    policy = GainPolicy(0.3)
    run = Run(policy).play(scene, 50)
    frame = scene.frame(run.index)
    policy.select(frame, context := run.context(("cam",)))
    worth = policy._look_made.found.worth[0]
    assert policy.scores(frame, context).shape == (1, ROWS, COLUMNS)
    changed = Scene.output(frame).argmax(0) != run.standing["cam"].argmax(0)
    truth = changed.float().unflatten(0, (ROWS, 8)).unflatten(2, (COLUMNS, 8)).mean((1, 3))
    assert truth.count_nonzero() >= 2
    assert worth[truth > 0].min() > worth[truth == 0].max()


def test_before_anything_was_learned_it_goes_by_the_picture():
    scene = Scene()
    run = Run(GainPolicy(5 / 24, per_frame=True))
    run.play(scene, 1)
    moved = scene.frame(1)
    for row, column in OBJECTS:
        moved[(0, slice(None), *_pixels(row, column))] += 0.5
    grid = run.step(moved)
    assert all(grid[0][place] for place in OBJECTS)


def test_where_everything_moves_whole_frames_run_and_nothing_between():
    run = Run(GainPolicy(0.25)).play(Scene(pan=5), 60)
    rates = run.rates(8)
    assert ((rates < 0.1) | (rates > 0.75)).float().mean() > 0.9
    assert rates.mean() == pytest.approx(0.25, abs=0.02)


def test_where_little_moves_each_frame_runs_what_moves():
    run = Run(GainPolicy(0.25)).play(Scene(OBJECTS), 60)
    rates = run.rates(8)
    assert rates.mean() == pytest.approx(0.25, abs=0.02) and rates.max() < 0.6
    # What comes and goes is shown at once, nearly always: a twelfth of the pixels of a block.
    assert sum(run.errors[8:]) / len(run.errors[8:]) < 0.02 * 3 / 24


def test_a_busy_street_lives_on_what_an_empty_one_has_saved():
    """Nothing for 30 frames, then something comes or goes in 6 blocks; 2 a frame are paid for."""
    places = [(row, column) for row in range(3) for column in range(0, 6, 2)] + OBJECTS
    scene = Scene(dict.fromkeys(places))
    scene.objects, scene.shown = places, torch.zeros((256, len(places)), dtype=torch.bool)
    scene.shown[30:] = torch.rand(scene.shown[30:].shape, generator=scene.draw) > 0.5
    uneven, even = (
        Run(GainPolicy(2 / 24, per_frame=even)).play(scene, 32) for even in (False, True)
    )
    assert uneven.rates(0)[30] >= 6 / 24 and even.rates(0)[30:].max() == 2 / 24
    assert uneven.errors[30] == 0 < even.errors[30]
    # Neither savings nor debts are larger than a frame.
    assert uneven.rates(1).mean() < 2 / 24 + 1 / 31 + 1e-3


def test_where_nothing_moves_it_keeps_looking():
    """No gain at all is none that is spread over the whole picture, to be saved up for."""
    scene = Scene(OBJECTS)
    scene.shown[:] = False
    run = Run(GainPolicy(2 / 24)).play(scene, 40)
    assert run.rates(2).max() <= 3 / 24


def test_per_frame_is_even_even_where_everything_moves():
    run = Run(GainPolicy(0.3, per_frame=True)).play(Scene(pan=5), 40)
    counts = torch.stack(run.grids[1:]).flatten(1).sum(1)
    assert set(counts.tolist()) <= {7, 8}  # of 7.2


def test_no_block_is_forgotten():
    """More comes and goes in the upper half than may run; nothing ever moves in the lower one."""
    busy = [(row, column) for row in range(2) for column in range(COLUMNS)]
    run = Run(GainPolicy(0.1, per_frame=True)).play(Scene(busy), 250)
    assert torch.stack(run.grids[1:]).any(0).all()


@settings(max_examples=12, deadline=None)
@given(
    target=st.sampled_from([0.05, 0.1, 0.33, 0.5, 0.7, 1.0]),
    per_frame=st.booleans(),
    pan=st.sampled_from([0, 3]),
    give=st.booleans(),
)
def test_the_rate_is_the_target(target, per_frame, pan, give):
    run = Run(GainPolicy(target, per_frame=per_frame))
    run.play(Scene(OBJECTS, FLICKER, pan), 121, give=give)
    windows = run.rates().unfold(0, 100, 1).mean(1)
    assert (windows - target).abs().max() <= 0.02 + 1e-4


@pytest.mark.parametrize("batched", [True, False])
def test_a_quiet_camera_gives_to_a_busy_one_and_does_not_starve(batched):
    busy = [(row, column) for row in range(ROWS) for column in (0, 1, 2, 4)]
    scenes = {"busy": Scene(busy, seed=1), "quiet": Scene(seed=2)}
    run = Run(GainPolicy(0.2))
    rates = {"busy": [], "quiet": []}
    seen = torch.zeros(ROWS, COLUMNS, dtype=torch.bool)
    for index in range(110):
        frames = {name: scene.frame(index) for name, scene in scenes.items()}
        if batched:
            grid = run.step(torch.cat(list(frames.values())), tuple(frames))
        else:
            grid = torch.cat([run.step(frame, (name,)) for name, frame in frames.items()])
        if index:
            seen |= grid[1]
            for name, one in zip(frames, grid, strict=True):
                rates[name].append(float(one.float().mean()))
    late = {name: sum(values[30:]) / len(values[30:]) for name, values in rates.items()}
    assert late["busy"] >= 0.3
    assert sum(late.values()) / 2 == pytest.approx(0.2, abs=0.02)
    assert seen.all()


def test_select_commits_nothing_and_twice_is_once():
    scene = Scene(OBJECTS, FLICKER)
    run = Run(GainPolicy(0.2)).play(scene, 10)
    frame = scene.frame(10)
    before = run.policy.state_dict()
    first = run.policy.select(frame, run.context(("cam",)))
    run.policy.select(scene.frame(11), run.context(("cam",)))  # that frame fails
    assert torch.equal(run.policy.select(frame, run.context(("cam",))), first)
    after = run.policy.state_dict()
    assert torch.equal(before["products"], after["products"])
    assert before["budget"] == after["budget"]


def test_a_broken_frame_commits_nothing():
    scene = Scene(OBJECTS)
    run = Run(GainPolicy(0.2, per_frame=True)).play(scene, 10)
    frame = scene.frame(10)
    context = run.context(("cam",))
    grid = run.policy.select(frame, context)
    scores = run.policy.scores(frame, context)
    broken = torch.full((2, 32, 48), math.nan)
    with pytest.raises(FrameError, match="NaN"):
        run.policy.feedback(frame, grid, [broken], context)
    with pytest.raises(FrameError, match="one output for each"):
        run.policy.feedback(frame, grid, [], context)
    with pytest.raises(FrameError, match="NaN"):
        run.policy.select(frame * math.nan, run.context(("cam",)))
    again = run.context(("cam",))
    assert torch.equal(run.policy.select(frame, again), grid)
    assert torch.equal(run.policy.scores(frame, again), scores)


@pytest.mark.parametrize("mode", ["inference", "no_grad", "grad", "autocast", "mixed"])
def test_it_is_the_same_in_every_mode(mode):
    def play(modes):
        run, scene = Run(GainPolicy(0.2)), Scene(OBJECTS, FLICKER)
        for index in range(12):
            with modes[index % len(modes)]():
                run.step(scene.frame(index))
        return torch.stack(run.grids)

    modes = {
        "inference": [torch.inference_mode],
        "no_grad": [torch.no_grad],
        "grad": [torch.enable_grad],
        "autocast": [lambda: torch.autocast("cpu", dtype=torch.bfloat16)],
        "mixed": [torch.inference_mode, torch.enable_grad, torch.no_grad],
    }
    assert torch.equal(play(modes[mode]), play([torch.no_grad]))


def test_what_was_learned_is_saved_and_goes_on(tmp_path):
    scene = Scene(OBJECTS, FLICKER)
    run = Run(GainPolicy(0.2)).play(scene, 40)
    torch.save(run.policy.state_dict(), tmp_path / "policy.pth")
    other = GainPolicy(0.2)
    other.load_state_dict(torch.load(tmp_path / "policy.pth", weights_only=True))
    assert other.budget.balance == run.policy.budget.balance
    # The streams' memories are not in it: both look at a stream that neither knows.
    scenes = [Scene(OBJECTS, FLICKER, seed=5) for _ in range(2)]
    run.policy.reset()
    policies = (run.policy, other)
    runs = [Run(policy).play(scene, 5) for policy, scene in zip(policies, scenes, strict=True)]
    assert torch.equal(torch.stack(runs[0].grids), torch.stack(runs[1].grids))
    fresh = Run(GainPolicy(0.2)).play(Scene(OBJECTS, FLICKER, seed=5), 5)
    assert not torch.equal(torch.stack(runs[0].grids), torch.stack(fresh.grids))


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("products"),
        lambda state: state.update(version=0),
        lambda state: state.update(features=["one"]),
        lambda state: state.update(targets=torch.zeros(3)),
        lambda state: state.update(products=state["products"] * math.nan),
        lambda state: state.update(budget={}),
    ],
)
def test_a_foreign_state_is_refused_and_changes_nothing(change):
    policy = GainPolicy(0.2)
    Run(policy).play(Scene(OBJECTS), 5)
    before, state = policy.state_dict(), policy.state_dict()
    change(state)
    with pytest.raises(ConfigError):
        policy.load_state_dict(state)
    assert torch.equal(policy.state_dict()["products"], before["products"])
    assert policy.state_dict()["budget"] == before["budget"]


def test_frozen_it_learns_nothing():
    policy = GainPolicy(0.2, online=False)
    Run(policy).play(Scene(OBJECTS, FLICKER), 10)
    assert not policy.state_dict()["products"].any()


def test_outputs_may_come_and_go():
    scene = Scene(OBJECTS, FLICKER)
    run = Run(GainPolicy(0.2))
    for index in range(12):
        run.step(scene.frame(index), give=index % 3 > 0)
    assert run.policy.state_dict()["products"].any()


class _Guarded(PolicyContext):
    """A context with what guards demand."""

    required = forbidden = None


def test_what_guards_demand_is_counted_into_the_budget():
    scene = Scene(OBJECTS, FLICKER)
    run = Run(GainPolicy(0.25, per_frame=True)).play(scene, 10)
    required = torch.zeros(1, ROWS, COLUMNS, dtype=torch.bool)
    required[0, 3, 4:] = True
    forbidden = torch.zeros(1, ROWS, COLUMNS, dtype=torch.bool)
    forbidden[0, :2] = True
    for _ in range(20):
        context = run.context(("cam",), _Guarded)
        object.__setattr__(context, "required", required)
        object.__setattr__(context, "forbidden", forbidden)
        grid = run.step(scene.frame(run.index), context=context)
        assert grid[required].all() and not grid[forbidden].any()
        assert grid.sum() == 6


def test_a_zone_that_is_ignored_does_not_keep_others_waiting():
    """All gain is in it, and its blocks wait for ever."""
    busy = [(row, column) for row in range(2) for column in range(COLUMNS)]
    scene, seen = Scene(busy), torch.zeros(1, ROWS, COLUMNS, dtype=torch.bool)
    run = Run(GainPolicy(0.1)).play(scene, 5)
    forbidden = torch.zeros(1, ROWS, COLUMNS, dtype=torch.bool)
    forbidden[0, :2] = True
    for _ in range(60):
        context = run.context(("cam",), _Guarded)
        object.__setattr__(context, "forbidden", forbidden)
        seen |= run.step(scene.frame(run.index), context=context)
    assert seen[~forbidden].all()


def test_more_demanded_than_paid_for_is_executed():
    run = Run(GainPolicy(0.05)).play(Scene(OBJECTS), 5)
    context = run.context(("cam",), _Guarded)
    object.__setattr__(context, "required", torch.ones(1, ROWS, COLUMNS, dtype=torch.bool))
    assert run.step(Scene(OBJECTS).frame(5), context=context).all()
    assert run.policy.budget.balance >= -24


def test_memory_does_not_grow_and_is_forgotten():
    policy = GainPolicy(0.2)
    run = Run(policy).play(Scene(OBJECTS), 6)
    sizes = [_numbers(policy._memories["cam"])]
    run.play(Scene(OBJECTS), 30)
    sizes.append(_numbers(policy._memories["cam"]))
    assert sizes[0] == sizes[1]
    policy.reset(["other"])
    assert policy._memories
    policy.reset(["cam"])
    assert not policy._memories


def _numbers(memory):
    tensors = [memory.picture, memory.worth, memory.maps, memory.summary[1]]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


class _Counting(SemanticGain):
    """Counts the outputs that it is shown."""

    shown = 0

    def change(self, *arguments):
        self.shown += 1
        return super().change(*arguments)


def test_outputs_of_frames_in_which_nothing_ran_are_not_looked_at():
    gain = _Counting()
    run = Run(GainPolicy(0.2, information_gain=gain)).play(Scene(pan=5), 30)
    busy = sum(bool(grid.any()) for grid in run.grids)
    assert gain.shown == busy < 12


def test_another_size_of_the_same_stream_is_executed_fully():
    policy = GainPolicy(0.2)
    Run(policy).play(Scene(OBJECTS), 3)
    frame = torch.rand(1, 3, 64, 64)
    context = PolicyContext(
        ("cam",), (1, 2, 2), SIZE, torch.tensor([False]), (3,), torch.zeros(1, 2, 2).bool()
    )
    assert policy.select(frame, context).all()


def test_boxes_teach_it_too(make_context, detections):
    """One block a frame may run; an object moves in half of the frames, another thing in all."""
    torch.manual_seed(0)
    background = 0.3 * torch.rand(1, 3, 256, 384)
    policy, standing, wrong = GainPolicy(1 / 24, per_frame=True), None, []
    for index in range(50):
        left = 70 if torch.rand(()) > 0.5 else 94
        frame = background.clone()
        frame[:, :, 140:180, 260:300] = torch.rand(1, 3, 40, 40)
        frame[:, :, 70:110, left : left + 24] = 0.6
        context = make_context(frame, first=index == 0, index=index)
        grid = policy.select(frame, context) | context.first[:, None, None]
        if grid[0, 1, 1]:
            standing = detections([(left, 70, left + 24, 110, 0.9, 0)], (256, 384))
        policy.feedback(frame, grid, [standing], context)
        wrong.append(standing.boxes[0, 0] != left)
    assert sum(wrong[20:]) <= 2


def test_macs_are_few():
    policy = GainPolicy(0.3)
    macs = policy.macs((1, 3, 1024, 2048), 128)
    assert macs["total"] == macs["forward"] + macs["update"]
    assert macs["forward"] == 128 * 12
    policy.online = False
    assert policy.macs((1, 3, 1024, 2048), 128)["update"] == 0


@pytest.mark.parametrize(("account", "runs"), [(-6.0, False), (1.0, True)])
def test_what_ran_on_credit_is_paid_for_before_anything_runs(account, runs):
    """Of 100 blocks 5 a frame are paid for, and 30 are worth it."""
    memory = StreamMemory(torch.zeros(3, 4, 4), torch.zeros(6, 10, 10), None, account)
    memory.spread, memory.price = MeanSpread(0.2, 1.0), BlockPrice(0.5)
    allotment = Allotment(
        [memory], total=1, saved=account, blocks=100, rate=0.05, allowance=account + 5,
        capacity=100.0, per_frame=False,
    )  # fmt: skip
    assert allotment.waits != runs
    scores = (torch.arange(100) < 30).float().view(1, 10, 10)
    allotment.take_scores(scores, scores, torch.ones(1, 10, 10))
    assert allotment.counts == [30 if runs else 0]


def test_few_blocks_with_all_the_gain_run_in_each_frame():
    """Of 100 blocks a tenth may run: gain on 20 of them is not saved up for, gain on 50 is."""

    def counts(spread):
        memory = StreamMemory(torch.zeros(3, 4, 4), torch.zeros(6, 10, 10), None)
        memory.spread = MeanSpread(spread)
        return Allotment(
            [memory], total=1, saved=0.0, blocks=100, rate=0.1, allowance=10.0, capacity=100.0,
            per_frame=False,
        ).counts  # fmt: skip

    assert counts(0.2) == [10]
    assert counts(0.5) == [0]


def test_what_skipped_blocks_are_worth_is_kept_from_frame_to_frame(drive):
    policy = GainPolicy(0.6)
    drive(policy, [torch.rand(1, 3, 256, 256) for _ in range(6)], None)
    (memory,) = policy._memories.values()
    # Of noise all blocks are worth about the same: a little less than the 1 that it begins with.
    assert 0.5 < memory.skipped.value < 1.0
