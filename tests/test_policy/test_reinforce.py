from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from blockcopy_plugins.errors import ConfigError, FrameError, StateError
from blockcopy_plugins.policy import InformationGain, RLPolicy
from blockcopy_plugins.policy.reinforce.learner import Learner

OUTPUT = [torch.zeros(1, 1, 1)]


class DictatedGain(InformationGain):
    """Gives the gains it was told, whatever the outputs."""

    def __init__(self, gains):
        self.gains = gains

    def summarise(self, output, geometry):
        return 0

    def output_map(self, summary, geometry):
        return torch.zeros(geometry.map_size)

    def compare(self, previous, current, geometry):
        return torch.as_tensor(self.gains).expand(geometry.grid).clone()


class DictatedNet(nn.Module):
    """A free logit for each block: whatever it learns can be computed by hand."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))
        self.register_buffer("offset", torch.zeros(()))

    def forward(self, cells, per_block):
        return self.logits.expand(cells.shape[0], *self.logits.shape)


def _dictated(logits, gains, **arguments):
    policy = RLPolicy(seed=0, information_gain=DictatedGain(gains), **arguments)
    policy.learner = Learner(DictatedNet(logits), policy.lr, policy.weight_decay)
    return policy


def _start(policy, frame, make_context, outputs=OUTPUT, block_size=64, streams=None):
    """Run a forced first frame."""
    context = make_context(frame, block_size, streams, first=True, index=0)
    grid = torch.ones(context.grid_shape, dtype=torch.bool)
    policy.select(frame, context)
    return policy.feedback(frame, grid, outputs * frame.shape[0], context)


def test_reward_and_loss_by_hand(make_context):
    frame = torch.rand(1, 3, 128, 128)
    theta = [[0.4, -1.0], [2.0, -0.3]]
    gains = [[0.5, 0.25], [0.0, 1.0]]
    policy = _dictated(theta, gains, target=0.25, gamma=5.0, update_every=1, lr=0.01)
    first = _start(policy, frame, make_context)
    assert first == {"executed_rate": 1.0}  # neither credited nor counted
    context = make_context(frame)
    grid = policy.select(frame, context)
    scalars = policy.feedback(frame, grid, OUTPUT, context)

    c = grid.float().mean().item()
    cost = 5.0 * (0.25 - c) * abs(0.25 - c)
    loss, gradient, rewards = 0.0, torch.zeros(2, 2), []
    for row in range(2):
        for column in range(2):
            p = 1 / (1 + math.exp(-theta[row][column]))
            if grid[0, row, column]:
                reward = gains[row][column] + cost
                loss -= math.log(p) * reward / 4
                gradient[row, column] = -(1 - p) * reward / 4
            else:
                reward = -cost
                loss -= math.log(1 - p) * reward / 4
                gradient[row, column] = p * reward / 4
            rewards.append(reward)
    assert 0 < grid.sum() < 4  # the seed gives both kinds
    assert scalars["running_rate"] == pytest.approx(c)
    assert scalars["cost"] == pytest.approx(cost)
    assert scalars["reward"] == pytest.approx(sum(rewards) / 4)
    assert scalars["information_gain"] == pytest.approx(
        float(torch.tensor(gains)[grid[0]].mean()), rel=1e-5
    )
    assert scalars["loss"] == pytest.approx(loss, rel=1e-5)
    # The first step of RMSprop (alpha 0.99): lr * g / (sqrt(0.01 g^2) + eps).
    gradient += 1e-3 * torch.tensor(theta)
    step = 0.01 * gradient / (0.1 * gradient.abs() + 1e-8)
    torch.testing.assert_close(policy.net.logits.detach(), torch.tensor(theta) - step)


def test_running_rate_is_an_exponential_mean_of_chosen_frames(make_context):
    frame = torch.rand(1, 3, 128, 128)
    policy = _dictated([[9.0, 9.0], [-9.0, -9.0]], 0.0, target=0.3, lr=0.0, weight_decay=0.0)
    _start(policy, frame, make_context)
    assert policy.running_rate is None
    expected = None
    for executed in (2, 0, 4, 1):
        context = make_context(frame)
        policy.select(frame, context)
        grid = (torch.arange(4) < executed).reshape(1, 2, 2)
        rate = executed / 4
        expected = rate if expected is None else 0.9 * expected + 0.1 * rate
        scalars = policy.feedback(frame, grid, OUTPUT, context)
        assert scalars["running_rate"] == pytest.approx(expected)
        assert scalars["cost"] == pytest.approx(5 * (0.3 - expected) * abs(0.3 - expected))


def test_an_update_each_so_many_frames_on_all_of_them(make_context):
    frame = torch.rand(1, 3, 128, 128)
    theta = [[0.4, -1.0], [0.7, -0.3]]
    policy = _dictated(theta, 0.3, update_every=3, lr=0.01)
    _start(policy, frame, make_context)
    seen, losses = [], []
    for _ in range(3):
        context = make_context(frame)
        grid = policy.select(frame, context)
        scalars = policy.feedback(frame, grid, OUTPUT, context)
        seen.append((grid[0], 0.3 * grid[0] + scalars["cost"]))
        losses.append(scalars.get("loss"))
    logits = torch.tensor(theta)
    expected = 0.0
    for grid, value in seen:
        log_pi = torch.where(grid, F.logsigmoid(logits), F.logsigmoid(-logits))
        expected -= float((log_pi * torch.where(grid, value, -value)).sum()) / 12
    assert losses[:2] == [None, None]
    assert losses[2] == pytest.approx(expected, rel=1e-5)
    assert policy.updates == 1


def test_blocks_executed_against_the_sample_are_not_credited(make_context):
    frame = torch.rand(1, 3, 128, 128)
    theta = [[-30.0, -30.0], [-30.0, 0.0]]
    policy = _dictated(theta, 1.0, update_every=1, lr=0.1, weight_decay=0.0)
    _start(policy, frame, make_context)
    context = make_context(frame)
    sampled = policy.select(frame, context)
    assert not sampled[0, 0, 0]
    executed = sampled.clone()
    executed[0, 0, 0] = True  # somebody else wanted it
    policy.feedback(frame, executed, OUTPUT, context)
    moved = policy.net.logits.detach() != torch.tensor(theta)
    assert not moved[0, 0] and moved[1, 1]


def test_forced_images_of_a_batch_are_not_credited(make_context):
    frame = torch.rand(2, 3, 128, 128)
    policy = _dictated([[0.0, 0.0], [0.0, 0.0]], 1.0, update_every=1, lr=0.0, weight_decay=0.0)
    _start(policy, frame[:1], make_context, streams="a")
    context = make_context(frame, streams="ab", first=[False, True])
    grid = policy.select(frame, context)
    assert grid[1].all()
    scalars = policy.feedback(frame, grid, OUTPUT * 2, context)
    rate = float(grid[0].float().mean())
    assert scalars["running_rate"] == rate and scalars["executed_rate"] == (rate + 1) / 2
    cost = 5 * (0.3 - rate) * abs(0.3 - rate)
    reward = torch.where(grid[0], 1 + cost, -cost)
    assert scalars["loss"] == pytest.approx(float(-(math.log(0.5) * reward).mean()), rel=1e-5)


def test_a_stream_that_the_policy_does_not_know_is_executed_fully(make_context):
    frame = torch.rand(1, 3, 128, 128)
    policy = RLPolicy(seed=0, target=0.05)
    context = make_context(frame)  # not first for the engine, but new to the policy
    grid = policy.select(frame, context)
    assert grid.all()
    assert policy.feedback(frame, grid, OUTPUT, context) == {"executed_rate": 1.0}
    context = make_context(frame)
    assert not policy.select(frame, context).all()
    # Nor is one whose frames changed their size.
    assert policy.select(frame[..., :64], make_context(frame[..., :64])).all()


def _moving(frames, grid=(4, 6), moving=((1, 1), (1, 2), (2, 1), (2, 2), (0, 5), (3, 0)), seed=0):
    """A textured scene in which only some 64-px blocks ever change."""
    generator = torch.Generator().manual_seed(seed)
    scene = torch.randn(1, 3, grid[0] * 16, grid[1] * 16, generator=generator)
    stream = []
    for _ in range(frames):
        now = scene.clone()
        for row, column in moving:
            part = torch.randn(1, 3, 16, 16, generator=generator)
            now[..., row * 16 : row * 16 + 16, column * 16 : column * 16 + 16] = part
        stream.append(now.repeat_interleave(4, 2).repeat_interleave(4, 3))
    gains = torch.zeros(grid)
    for row, column in moving:
        gains[row, column] = 0.5
    return stream, gains


def test_it_learns_which_blocks_carry_gain_and_holds_the_target(drive):
    frames, gains = _moving(400)
    policy = RLPolicy(seed=0, target=0.25, information_gain=DictatedGain(gains))
    grids, scalars = drive(policy, frames, OUTPUT)
    before = torch.cat(grids[1:41]).float().mean(0)
    after = torch.cat(grids[-60:]).float().mean(0)
    busy = gains > 0
    assert abs(before[busy].mean() - before[~busy].mean()) < 0.25
    assert after[busy].min() > 0.7
    assert after[~busy].mean() < 0.15
    assert abs(after.mean() - 0.25) < 0.08
    assert all(math.isfinite(value) for row in scalars for value in row.values())


def test_without_gain_the_rate_falls_from_above_and_rises_from_below_to_the_target(drive):
    frames, _ = _moving(240, moving=())
    for start, target in ((0.6, 0.3), (0.1, 0.4)):
        policy = RLPolicy(seed=0, target=start, information_gain=DictatedGain(0.0))
        policy.target = target
        grids, _ = drive(policy, frames, OUTPUT)
        first = torch.cat(grids[1:6]).float().mean()
        last = torch.cat(grids[-40:]).float().mean()
        assert abs(first - start) < 0.15
        assert abs(last - target) < 0.1


def test_offline_decides_but_does_not_learn(drive):
    frames, gains = _moving(12)
    policy = RLPolicy(seed=0, online=False, information_gain=DictatedGain(gains))
    before = {name: value.clone() for name, value in policy.net.state_dict().items()}
    _, scalars = drive(policy, frames, OUTPUT)
    assert policy.updates == 0 and not policy.learner.gathered
    assert all("loss" not in row for row in scalars)
    for name, value in policy.net.state_dict().items():
        assert torch.equal(value, before[name])
    # Offline it can do without outputs; online it must not run on silently.
    drive(policy, frames, None, streams=["b"] * 12)
    policy.online = True
    with pytest.raises(FrameError, match="online=False"):
        drive(policy, frames[:1], None, streams=["c"])


def test_threshold_is_deterministic(make_context):
    frame = torch.rand(1, 3, 128, 128)
    policy = RLPolicy(seed=0, online=False, sampling="threshold", information_gain=DictatedGain(0))
    policy.learner.net = DictatedNet([[0.1, -0.1], [2.0, -2.0]])
    _start(policy, frame, make_context)
    for _ in range(5):
        context = make_context(frame)
        grid = policy.select(frame, context)
        assert grid.tolist() == [[[True, False], [True, False]]]
        policy.feedback(frame, grid, OUTPUT, context)


def test_select_commits_nothing_and_a_failed_frame_can_be_tried_again(make_context):
    frames, gains = _moving(3)
    policy = RLPolicy(seed=0, information_gain=DictatedGain(gains))
    other = RLPolicy(seed=0, information_gain=DictatedGain(gains))
    for each in (policy, other):
        _start(each, frames[0], make_context)
    # This one's frames fail now and then.
    policy.select(frames[2], make_context(frames[2]))
    once = policy.select(frames[1], make_context(frames[1]))
    context = make_context(frames[1])
    again = policy.select(frames[1], context)
    assert torch.equal(once, again)
    assert torch.equal(again, other.select(frames[1], other_context := make_context(frames[1])))
    one = policy.feedback(frames[1], again, OUTPUT, context)
    two = other.feedback(frames[1], again, OUTPUT, other_context)
    assert one == two
    torch.testing.assert_close(
        policy._memories[0].picture, other._memories[0].picture, atol=0, rtol=0
    )


def test_feedback_that_fails_commits_nothing(make_context, detections):
    frame = torch.rand(1, 3, 128, 128)
    policy = RLPolicy(seed=0)
    good = [detections([(0, 0, 20, 20, 0.9, 0)], (128, 128))]
    _start(policy, frame, make_context, good)
    changed = torch.rand(1, 3, 128, 128)
    context = make_context(changed)
    grid = policy.select(changed, context)
    kept = policy._memories[0]
    for wrong in ([detections([], (64, 64))], [], [torch.zeros(2, 4, 4)], None):
        with pytest.raises(FrameError):
            policy.feedback(changed, grid, wrong, context)
        assert policy._memories[0] is kept and policy.running_rate is None
    assert torch.equal(policy.select(changed, make_context(changed)), grid)
    policy.feedback(changed, grid, good, context)
    assert policy.running_rate is not None


def test_each_stream_has_its_own_memory_wherever_it_is_in_the_batch(make_context, detections):
    torch.manual_seed(0)
    frames = {stream: torch.rand(1, 3, 128, 128) for stream in "abc"}
    output = {
        stream: detections([(10 * i, 10 * i, 10 * i + 30, 60, 0.9, i)], (128, 128))
        for i, stream in enumerate("abc")
    }
    policy = RLPolicy(seed=0, update_every=1000)

    def batch(streams, first=False):
        frame = torch.cat([frames[stream] for stream in streams])
        context = make_context(frame, streams=streams, first=first)
        policy.select(frame, context)
        grid = torch.ones(context.grid_shape, dtype=torch.bool)
        return policy.feedback(frame, grid, [output[stream] for stream in streams], context)

    batch("abc", first=True)
    for streams in ("cba", "b", "ac", "bca"):
        # No picture and no output changed, so there is no gain if each met its own memory.
        assert batch(streams)["information_gain"] == 0.0
    output["a"], output["b"] = output["b"], output["a"]
    assert batch("abc")["information_gain"] > 0.0
    policy.reset("b")
    assert set(policy._memories) == {"a", "c"}
    policy.reset()
    assert not policy._memories


@pytest.mark.parametrize("update_every", [4, 1])
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_it_learns_in_any_mode_and_the_same(drive, mode, update_every):
    frames, gains = _moving(9)

    def run(context):
        with context():
            policy = RLPolicy(
                seed=0, update_every=update_every, information_gain=DictatedGain(gains)
            )
            grids, scalars = drive(policy, [frame.clone() for frame in frames], OUTPUT)
        return policy, grids, scalars

    policy, grids, scalars = run(mode)
    expected, other_grids, other_scalars = run(torch.no_grad)
    assert policy.updates == expected.updates == 8 // update_every
    assert scalars == other_scalars
    assert all(torch.equal(a, b) for a, b in zip(grids, other_grids, strict=True))
    for a, b in zip(policy.net.parameters(), expected.net.parameters(), strict=True):
        assert torch.equal(a, b) and not a.is_inference()


def test_it_works_under_autocast_and_on_bfloat16(drive):
    frames, gains = _moving(9)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        policy = RLPolicy(seed=0, information_gain=DictatedGain(gains))
        grids, scalars = drive(policy, [frame.bfloat16() for frame in frames], OUTPUT)
    assert policy.updates == 2
    assert all(grid.dtype == torch.bool for grid in grids)
    assert all(math.isfinite(value) for row in scalars for value in row.values())


@pytest.mark.parametrize("size", [(40, 50), (64, 64), (300, 640), (257, 193)])
@pytest.mark.parametrize("block_size", [16, 32, 64, 100])
def test_any_size(drive, detections, size, block_size):
    torch.manual_seed(0)
    frames = [torch.rand(2, 3, *size) for _ in range(6)]
    boxes = [(0, 0, size[1] / 2, size[0] / 2, 0.9, 0)]

    def outputs(index, ids):
        rows = boxes if index % 2 else []
        return [detections(rows, size)] * 2

    policy = RLPolicy(seed=0, target=0.5, update_every=2)
    grids, _ = drive(policy, frames, outputs, block_size)
    assert grids[-1].shape == (2, -(-size[0] // block_size), -(-size[1] // block_size))
    assert policy.updates == 2


def test_streams_of_different_sizes_share_one_network(make_context):
    policy = RLPolicy(seed=0, update_every=4, information_gain=DictatedGain(0.5))
    for index in range(3):
        for stream, size in (("a", (64, 64)), ("b", (128, 192))):
            frame = torch.rand(1, 3, *size)
            context = make_context(frame, streams=stream, first=index == 0)
            policy.feedback(frame, policy.select(frame, context), OUTPUT, context)
    assert policy.updates == 1


def test_saved_and_loaded_it_goes_on_bit_for_bit(drive, tmp_path):
    frames, gains = _moving(40)
    policy = RLPolicy(seed=0, information_gain=DictatedGain(gains))
    drive(policy, frames[:17], OUTPUT)  # one forced frame and four updates
    assert policy.updates == 4 and not policy.learner.gathered
    torch.save(policy.state_dict(), tmp_path / "policy.pth")
    other = RLPolicy(seed=99, information_gain=DictatedGain(gains))
    other.load_state_dict(torch.load(tmp_path / "policy.pth", weights_only=True))
    policy.reset()
    results = [drive(each, frames[17:], OUTPUT) for each in (policy, other)]
    assert results[0][1] == results[1][1]
    for one, two in zip(results[0][0], results[1][0], strict=True):
        assert torch.equal(one, two)
    for one, two in zip(policy.net.parameters(), other.net.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_state_dict_is_a_snapshot(drive):
    frames, gains = _moving(9)
    policy = RLPolicy(seed=0, information_gain=DictatedGain(gains))
    drive(policy, frames, OUTPUT)
    state = policy.state_dict()
    kept = {name: value.clone() for name, value in state["net"].items()}
    drive(policy, frames, OUTPUT)
    for name, value in kept.items():
        assert torch.equal(state["net"][name], value)
    assert state["hyperparameters"]["target"] == 0.3


def test_loading_keeps_the_own_learning_rate(drive):
    frames, gains = _moving(9)
    saved = RLPolicy(seed=0, information_gain=DictatedGain(gains), lr=1e-2)
    drive(saved, frames, OUTPUT)
    policy = RLPolicy(seed=0, information_gain=DictatedGain(gains), lr=1e-5)
    policy.load_state_dict(saved.state_dict())
    assert policy.learner._optimizer.param_groups[0]["lr"] == 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("net"), "lacks"),
        (lambda state: state.update(version=99), "version 99"),
        (lambda state: state["net"].pop("head.weight"), "head.weight"),
        (lambda state: state["net"].update({"head.bias": torch.zeros(7)}), "head.bias"),
        (lambda state: state["net"].update(more=torch.zeros(1)), "more"),
        (lambda state: state["optimizer"].update({99: {}}), "optimizer"),
    ],
)
def test_a_wrong_state_dict_raises_and_changes_nothing(drive, change, message):
    frames, gains = _moving(9)
    saved = RLPolicy(seed=1, information_gain=DictatedGain(gains))
    drive(saved, frames, OUTPUT)
    state = saved.state_dict()
    change(state)
    policy = RLPolicy(seed=0)
    before = [value.clone() for value in policy.net.parameters()]
    with pytest.raises(ConfigError, match=message):
        policy.load_state_dict(state)
    for one, two in zip(before, policy.net.parameters(), strict=True):
        assert torch.equal(one, two)


def test_global_random_numbers_are_left_alone(drive):
    frames, gains = _moving(6)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    drive(RLPolicy(seed=0, information_gain=DictatedGain(gains)), frames, OUTPUT)
    assert torch.equal(before, torch.get_rng_state())


def test_nan_raises_and_names_the_culprit(make_context):
    frame = torch.rand(1, 3, 64, 64)
    policy = RLPolicy(seed=0)
    bad = frame.clone()
    bad[0, 0, 3, 3] = float("nan")
    with pytest.raises(FrameError, match="frame holds NaN"):
        policy.select(bad, make_context(bad, first=True))
    with torch.no_grad():
        policy.net.head.bias.fill_(float("nan"))
    with pytest.raises(StateError, match="learning rate"):
        policy.select(frame, make_context(frame, first=True))


@pytest.mark.parametrize(
    "arguments",
    [
        dict(target=0),
        dict(target=1),
        dict(target=1.5),
        dict(target=-0.1),
        dict(target="0.3"),
        dict(target=float("nan")),
        dict(gamma=-1),
        dict(lr=float("inf")),
        dict(weight_decay=None),
        dict(momentum=1.0),
        dict(update_every=0),
        dict(update_every=2.5),
        dict(information_gain="boxes"),
        dict(sampling="argmax"),
        dict(sampling="threshold"),
        dict(seed="x"),
        dict(net=dict(depth=3)),
    ],
)
def test_wrong_arguments_raise(arguments):
    with pytest.raises(ConfigError):
        RLPolicy(**arguments)


def _gathered(make_context, frames=3, streams=1):
    """A policy with a few frames to learn from; some of the batch's streams are new to it."""
    torch.manual_seed(1)
    policy = RLPolicy(seed=0, update_every=1000, information_gain=DictatedGain(0.5))
    _start(policy, torch.rand(streams, 3, 128, 192), make_context)
    for _ in range(frames):
        frame = torch.rand(streams + 1, 3, 128, 192)
        policy.reset([streams])
        context = make_context(frame, last_grid=torch.rand(streams + 1, 2, 3) > 0.5)
        policy.feedback(frame, policy.select(frame, context), OUTPUT * (streams + 1), context)
    assert len(policy.learner.gathered) == frames
    return policy


def _learned_plainly(policy):
    """Weights after an update that is written down from scratch, forward pass and all."""
    net = copy.deepcopy(policy.net)
    optimizer = torch.optim.RMSprop(
        net.parameters(), lr=policy.lr, weight_decay=policy.weight_decay
    )
    terms = []
    for item in policy.learner.gathered:
        probability = net(item.cells, 16).sigmoid()
        log_pi = torch.where(item.grid, probability, 1 - probability).log()
        terms.append((log_pi * item.reward)[item.credited])
    (-torch.cat(terms).mean()).backward()
    optimizer.step()
    return list(net.parameters())


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("changed", [False, True])
def test_the_update_is_that_of_a_fresh_forward_pass(make_context, streams, changed):
    policy = _gathered(make_context, streams=streams)
    if changed:
        # What was found with the old weights must not be used for the new ones.
        with torch.no_grad():
            policy.net.stages[1].weight.mul_(1.5)
    before = [parameter.detach().clone() for parameter in policy.net.parameters()]
    expected = _learned_plainly(policy)
    policy.learner.update()
    for old, new, wanted in zip(before, policy.net.parameters(), expected, strict=True):
        assert not torch.equal(old, new)
        # A step is as long as the learning rate; a hundredth of it is rounding.
        torch.testing.assert_close(new, wanted, atol=0.01 * 1e-3, rtol=0)


def test_the_memory_is_each_blocks_last_executed_picture(make_context):
    policy = RLPolicy(seed=0, information_gain=DictatedGain(0.5))
    _start(policy, torch.rand(1, 3, 128, 192), make_context)
    expected = policy._memories[0].picture.clone()
    for _ in range(4):
        frame = torch.rand(1, 3, 128, 192)
        context = make_context(frame)
        policy.select(frame, context)
        grid = torch.rand(1, 2, 3) > 0.5
        policy.feedback(frame, grid, OUTPUT, context)
        now = frame.reshape(3, 32, 4, 48, 4).mean((2, 4))  # cells of 4 px
        executed = grid[0].repeat_interleave(16, 0).repeat_interleave(16, 1)
        kept = policy._memories[0].picture
        torch.testing.assert_close(kept[:, executed], now[:, executed])
        assert torch.equal(kept[:, ~executed], expected[:, ~executed])
        expected = kept.clone()


def test_macs_are_those_of_the_convolutions():
    policy = RLPolicy(seed=0)
    counted = policy.macs((1, 3, 1024, 2048), 128)
    # Cells 128 x 256, halved four times down to the blocks, 8 x 16.
    places = [64 * 128, 32 * 64, 16 * 32, 8 * 16]
    channels = [11, 16, 32, 64, 64]
    layers = [
        9 * before * after * place
        for before, after, place in zip(channels, channels[1:], places, strict=False)
    ] + [9 * 64 * 64 * places[3], 64 * places[3]]
    assert counted["forward"] == sum(layers)
    # Gradients of the weights, and of all inputs but the first layer's; forward of the head alone,
    # as what the other layers gave is known from the decision.
    assert counted["update"] == 2 * sum(layers) - layers[0] + layers[-1]
    assert counted["total"] == counted["forward"] + counted["update"] < 0.5e9
    assert policy.macs((2, 3, 1000, 2000), 128)["forward"] == 2 * counted["forward"]
    policy.online = False
    assert policy.macs((1, 3, 1024, 2048), 128)["update"] == 0


def test_memory_does_not_grow_with_the_video(drive):
    frames, gains = _moving(3, grid=(1, 2), moving=((0, 0),))

    def held(policy):
        tensors = [memory.picture for memory in policy._memories.values()]
        tensors += [memory.output_map for memory in policy._memories.values()]
        tensors += [item.cells for item in policy.learner.gathered]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    policy = RLPolicy(seed=0, information_gain=DictatedGain(gains))
    drive(policy, frames, OUTPUT)
    after = []
    for _ in range(60):
        drive(policy, frames + frames[:1], OUTPUT, seen=(0,))  # a multiple of update_every
        after.append(held(policy))
    assert len(set(after)) == 1 and len(policy._memories) == 1
    assert len(policy.learner.gathered) < policy.update_every


def test_memory_is_constant_to_the_byte(drive, allocated_by):
    frames, gains = _moving(20, grid=(1, 2), moving=((0, 0),))  # a multiple of update_every
    policy = RLPolicy(seed=0, information_gain=DictatedGain(gains))
    allocated_by(lambda: drive(policy, frames, OUTPUT))
    for _ in range(3):
        assert allocated_by(lambda: drive(policy, frames, OUTPUT, seen=(0,)) and None) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_follows_the_frames_to_the_gpu(drive, detections):
    frames, _ = _moving(9)
    output = [detections([(0, 0, 100, 100, 0.9, 0)], (256, 384))]
    policy = RLPolicy(seed=0)
    drive(policy, frames, output)
    grids, _ = drive(policy, [frame.cuda() for frame in frames], output)
    assert policy.updates == 4 and grids[-1].device.type == "cuda"
