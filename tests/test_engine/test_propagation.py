"""Outputs that are copied or moved from frame to frame, through real calls of converted models."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.policy import EveryNthFramePolicy, Policy
from blockcopy_plugins.propagation import CallableMotion

SIZE, BLOCK = (64, 96), 32
WHOLE = torch.ones(1, 2, 3, dtype=torch.bool)
NOTHING = torch.zeros(1, 2, 3, dtype=torch.bool)


class PerPixel(nn.Module):
    """What it says of a pixel depends on that pixel alone, so that it moves with the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.b(F.relu(self.a(x)))


class Net(nn.Module):
    """Convolutions whose outputs depend on what is around."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, 2, 1)
        self.b = nn.Conv2d(6, 4, 3, 1, 2, 2)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return F.interpolate(self.b(F.relu(self.a(x))), scale_factor=2, mode="bilinear")


class Dictated(Policy):
    """Executes given grids."""

    needs_outputs = True

    def __init__(self, grids):
        self.grids, self.seen, self.indices = list(grids), [], []

    def select(self, frame, context):
        return self.grids[0]

    def feedback(self, frame, grid, outputs, context):
        self.grids.pop(0)
        self.seen.append(None if outputs is None else [x.clone() for x in outputs])
        self.indices.append(context.frame_index)
        return super().feedback(frame, grid, outputs, context)


def pan(frames, step=(4, 2), images=1, seed=0):
    """Frames of a picture that moves by ``step`` px from each to the next."""
    generator = torch.Generator().manual_seed(seed)
    world = torch.randn(images, 3, 300, 300, generator=generator)
    x0, y0 = 150, 150
    return [
        world[
            :, :, y0 - i * step[1] : y0 - i * step[1] + 64, x0 - i * step[0] : x0 - i * step[0] + 96
        ].contiguous()  # fmt: skip
        for i in range(frames)
    ]


def converted(net, policy, **options):
    return bc.blockcopy_(copy.deepcopy(net), bc.BlockCopyConfig(BLOCK, policy, **options))


def moved_by(x, y):
    return lambda frame, context: [(x, y)] * len(frame)


@pytest.fixture
def per_pixel():
    return PerPixel().eval()


@pytest.fixture
def net():
    return Net().eval()


# -- what is moved ---------------------------------------------------------------------------------


def test_a_camera_that_pans_is_followed_exactly(per_pixel):
    model = converted(per_pixel, EveryNthFramePolicy(3), propagate="move", motion=moved_by(4, 2))
    for index, frame in enumerate(pan(9)):
        with torch.inference_mode():
            got, wanted = model(frame), per_pixel(frame)
        age = index % 3
        # What came in since the last whole frame is as it was there; cells of 16 px tell.
        top, left = (age > 0) * 16, (age > 0) * 16
        torch.testing.assert_close(got[..., top:, left:], wanted[..., top:, left:])
    assert bc.handle(model).model.calls == 3
    report = bc.report(model).propagation
    assert (report.frames, report.moved, report.repeated, report.unknown) == (8, 6, 6, 0)
    # The whole frames 3 and 6 agree with what was moved to them, but for what came in.
    assert report.checks == 2 and report.agreement_moved > report.agreement_copied + 0.3
    assert "6 of 8 frames moved (approximate)" in str(bc.report(model))


def test_executed_blocks_are_fresh_and_the_others_are_moved(per_pixel):
    """Blocks run while the picture moves, and read nothing that was moved."""
    frames = pan(5, (8, 0))
    grid = NOTHING.clone()
    grid[0, 0, 1] = True
    policy = Dictated([WHOLE, grid, grid, grid, NOTHING])
    model = converted(per_pixel, policy, propagate="move", motion=moved_by(8, 0))
    for index, frame in enumerate(frames):
        with torch.inference_mode():
            got, wanted = model(frame), per_pixel(frame)
        come_in = 8 * index + 16 * (index > 0)
        torch.testing.assert_close(got[..., 40:, come_in:], wanted[..., 40:, come_in:])
        if 0 < index < 4:
            torch.testing.assert_close(got[..., :24, 40:56], wanted[..., :24, 40:56])
    # Policies see what the model gave, whose blocks do not move.
    assert torch.equal(policy.seen[3][0][:, 32:], policy.seen[0][0][:, 32:])


@pytest.mark.parametrize("motion", ["zero", "dis"])
def test_without_motion_moving_is_copying_bit_for_bit(net, motion):
    if motion == "dis":
        pytest.importorskip("cv2")
    still = pan(1)[0]
    frames = [still.clone() for _ in range(10)]
    for frame in frames:
        frame[..., 10:20, 70:80] = torch.randn(1, 3, 1, 1)
    grids = [WHOLE, *(torch.rand(8, 1, 2, 3) < 0.4), NOTHING]
    given = dict(propagate="move", motion=moved_by(0, 0))
    if motion == "dis":
        frames = [still] * 10
        given = dict(propagate="auto")
    moving, copying = converted(net, Dictated(grids), **given), converted(net, Dictated(grids))
    for frame in frames:
        assert torch.equal(moving(frame), copying(frame))


def test_labels_dicts_and_other_outputs(per_pixel):
    class Labels(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = per_pixel

        def forward(self, x):
            logits = self.inner(x)
            return {
                "logits": logits,
                "labels": logits.argmax(1),
                "half": F.avg_pool2d(logits, 2),
                "scene": logits.mean((2, 3)),
                "name": "street",
            }

    model = converted(Labels().eval(), EveryNthFramePolicy(4), propagate="move",
                      motion=moved_by(4, 2))  # fmt: skip
    frames = pan(3)
    with torch.inference_mode():
        first, _, got = (model(frame) for frame in frames)
        wanted = per_pixel(frames[2])
    assert list(got) == ["logits", "labels", "half", "scene", "name"] and got["name"] == "street"
    inside = (..., slice(16, None), slice(16, None))
    assert got["labels"].dtype == torch.int64
    assert torch.equal(got["labels"][inside], wanted.argmax(1)[inside])
    torch.testing.assert_close(got["half"][..., 8:, 8:], F.avg_pool2d(wanted, 2)[..., 8:, 8:])
    assert torch.equal(got["scene"], first["scene"])


def test_streams_move_by_themselves_and_change_places(per_pixel):
    right, down = pan(6, (8, 0), seed=1), pan(6, (0, 8), seed=2)

    def motion(frame, context):
        return [{"r": (8, 0), "d": (0, 8)}[stream] for stream in context.streams]

    model = converted(per_pixel, EveryNthFramePolicy(9), propagate="move", motion=motion)
    for index, order in enumerate(["rd", "rd", "dr", "r", "d", "rd"]):
        own = {"r": [0, 1, 2, 3, 3, 4], "d": [0, 1, 2, 2, 3, 4]}
        frames = [dict(r=right, d=down)[s][own[s][index]] for s in order]
        with bc.streams(model, list(order)), torch.inference_mode():
            got, wanted = model(torch.cat(frames)), per_pixel(torch.cat(frames))
        come_in = 16 * index + 16
        torch.testing.assert_close(got[..., come_in:, come_in:], wanted[..., come_in:, come_in:])


# -- frames of which nothing runs ------------------------------------------------------------------


@pytest.mark.parametrize("propagate", ["copy", "move"])
def test_a_frame_of_nothing_does_not_enter_the_network(net, propagate):
    options = {} if propagate == "copy" else dict(propagate="move", motion=moved_by(0, 0))
    grids = [WHOLE, NOTHING, NOTHING, NOTHING, torch.rand(1, 2, 3) < 0.5, NOTHING, NOTHING]
    policy = Dictated(grids)
    model, frames = converted(net, policy, **options), pan(7)
    reference = MaskedReference(net, BLOCK)
    for index, frame in enumerate(frames):
        got = model(frame)
        torch.testing.assert_close(got, reference(grids[index], frame), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(policy.seen[index][0], got[0])
        got.fill_(index)  # the caller's own
    # Copying, the first one tells that such frames come.
    assert bc.handle(model).model.calls == (3 if propagate == "copy" else 2)
    assert policy.indices == [(i,) for i in range(7)]
    report = bc.report(model)
    assert report.frames == 7 and report.propagation.repeated == (4 if propagate == "copy" else 5)
    assert report.executed_rate == pytest.approx((6 + int(grids[4].sum())) / 42)
    whole = converted(net, "all")
    whole(frames[0])
    dense = bc.report(whole)
    assert report.macs_dense == dense.macs_dense
    assert report.macs_executed == pytest.approx(dense.macs_dense * report.executed_rate)


def test_other_arguments_enter_the_network(net):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net

        def forward(self, x, scale=1, extra=None):
            return self.inner(x) * scale

    grids = [WHOLE] + [NOTHING] * 6
    model, frame = converted(Scaled().eval(), Dictated(grids)), pan(1)[0]
    model(frame)
    # Copying, the first frame of nothing runs in any case: it tells that such frames come.
    for calls, given in [
        (2, {}),
        (2, {}),
        (3, dict(scale=3)),
        (3, dict(scale=3)),
        (4, dict(extra=torch.zeros(1))),
        (5, dict(extra=torch.zeros(1))),
    ]:
        model(frame, **given)
        assert bc.handle(model).model.inner.calls == calls


def test_outputs_of_an_unknown_kind_are_left_alone_and_the_report_says_so(per_pixel):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = per_pixel

        def forward(self, x):
            return self.inner(x), object()

    model = converted(Odd().eval(), EveryNthFramePolicy(5), propagate="move",
                      motion=moved_by(4, 2))  # fmt: skip
    frames = pan(3)
    with torch.inference_mode():
        first, *_, last = (model(frame)[0] for frame in frames)
    assert torch.equal(first, last) and bc.handle(model).model.inner.calls == 3
    report = bc.report(model).propagation
    assert report.moved == 0 and "something in it that is neither" in report.obstacle
    assert "nothing is moved: the model returns tuple" in str(bc.report(model))


# -- the self-check, unknown motion, failures ------------------------------------------------------


def test_motion_that_does_not_pay_is_turned_off_and_tried_again(per_pixel):
    told = [(-20, 9)]
    model = converted(per_pixel, EveryNthFramePolicy(3), propagate="move",
                      motion=lambda frame, context: list(told))  # fmt: skip
    frames = pan(60, (1, 0))
    keys, moved = [], []
    for index, frame in enumerate(frames):
        if index == 12:
            told[0] = (1, 0)
        with torch.inference_mode():
            got = model(frame)
        keys.append(got if index % 3 == 0 else keys[-1])
        moved.append(not torch.equal(got, keys[-1]))
    assert moved[1] and moved[2]
    assert not any(moved[3:12])
    # Moving right, it is better at the first try after that, but has its bad name to lose.
    assert moved[-1] and any(moved[12:])
    scalars = bc.handle(model).last.scalars
    assert scalars["agreement_moved"] > scalars["agreement_copied"] and scalars["moved"] == 1
    assert bc.report(model).propagation.streams_moving == 1


def test_unknown_motion_is_copied_until_blocks_run_again_and_is_counted(per_pixel):
    steps = iter([(4, 2), (4, 2), None, (4, 2), (4, 2), (4, 2)])
    model = converted(per_pixel, EveryNthFramePolicy(4), propagate="move",
                      motion=lambda frame, context: [next(steps)])  # fmt: skip
    with torch.inference_mode():
        got = [model(frame) for frame in pan(6)]
        wanted = [per_pixel(frame) for frame in pan(6)]
    inside = (..., slice(16, None), slice(16, None))
    torch.testing.assert_close(got[1][inside], wanted[1][inside])
    assert torch.equal(got[2], got[0]) and torch.equal(got[3], got[0])
    torch.testing.assert_close(got[5][inside], wanted[5][inside])
    assert bc.report(model).propagation.unknown == 1


def test_a_frame_that_is_refused_changes_nothing(per_pixel):
    seen = []

    def motion(frame, context):
        seen.append(context.frame_index)
        return [(4, 2)]

    good = converted(per_pixel, EveryNthFramePolicy(5), propagate="move", motion=moved_by(4, 2))
    model = converted(per_pixel, EveryNthFramePolicy(5), propagate="move", motion=motion)
    frames = pan(4)
    for index, frame in enumerate(frames):
        if index == 2:
            with pytest.raises(FrameError, match="nan"):
                model(frame * float("nan"))
        assert torch.equal(model(frame), good(frame))


def test_a_frame_that_fails_half_way_is_followed_by_a_whole_one():
    class Failing(Net):
        fails = False

        def forward(self, x):
            x = F.relu(self.b(F.relu(self.a(x))))
            if self.fails:
                raise RuntimeError("out of memory")
            return x

    grid = NOTHING.clone()
    grid[0, 1, 1] = True
    policy = Dictated([WHOLE] + [grid] * 5)
    net = Failing().eval()
    model = converted(net, policy, propagate="move", motion=moved_by(4, 2))
    frames = pan(5)
    model(frames[0]), model(frames[1])
    model.fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        model(frames[2])
    model.fails = False
    with torch.inference_mode():
        got, wanted = model(frames[3]), net(frames[3])
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
        # From there it moves on: half a pixel of the map is 1 px here, so 4 and 2 px are whole.
        after = model(frames[4])
    assert torch.equal(after[..., 24:, 8:16], got[..., 23:-1, 6:14])


def test_a_reset_forgets_what_was_kept_and_the_motion(per_pixel):
    class Remembering(CallableMotion):
        forgotten = None

        def reset(self, streams=None):
            self.forgotten = streams
            super().reset(streams)

    model = converted(per_pixel, EveryNthFramePolicy(5), propagate="move",
                      motion=Remembering(moved_by(4, 2)))  # fmt: skip
    for frame in pan(3):
        model(frame)
    bc.reset_(model, [0])
    propagation = bc.handle(model).propagation
    assert propagation.motion.forgotten == [0] and not propagation.memory.kept
    other = pan(1, seed=5)[0]
    with torch.inference_mode():
        torch.testing.assert_close(model(other), per_pixel(other))


def test_comparisons_are_with_what_would_have_been_delivered(per_pixel):
    class Comparing(Dictated):
        told = None

        def compares(self, grid, context):
            return [len(self.grids) == 1]

        def feedback(self, frame, grid, outputs, context):
            self.told = context.comparison
            return super().feedback(frame, grid, outputs, context)

    policy = Comparing([WHOLE, NOTHING, NOTHING])
    model = converted(per_pixel, policy, propagate="move", motion=moved_by(4, 2))
    frames = pan(3)
    with torch.inference_mode():
        for frame in frames:
            got = model(frame)
        wanted = per_pixel(frames[2])
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(policy.told.outputs[0][:, 16:, 16:], wanted[0][:, 16:, 16:])


def test_policies_may_ask_what_would_be_delivered(per_pixel):
    class Asking(Dictated):
        def select(self, frame, context):
            if context.frame_index[0]:
                self.told = context.propagated.output(0), context.propagated.displacement(0)
            else:
                assert context.propagated.output(0) is None
            self.context = context
            return super().select(frame, context)

    policy = Asking([WHOLE, NOTHING])
    model = converted(per_pixel, policy, propagate="move", motion=moved_by(4, 2))
    frames = pan(2)
    with torch.inference_mode():
        model(frames[0]), model(frames[1])
        wanted = per_pixel(frames[1])
    output, displacement = policy.told
    torch.testing.assert_close(output[:, 16:, 16:], wanted[0][:, 16:, 16:])
    assert displacement.vectors[0, 0].tolist() == [4, 2]
    assert policy.context.propagated is None


# -- copies, options -------------------------------------------------------------------------------


def shift(frame, context):
    return [(4, 2)] * len(frame)


def test_a_deep_copy_goes_on_and_a_pickle_begins_anew(per_pixel):
    model = converted(per_pixel, EveryNthFramePolicy(9), propagate="move", motion=shift)
    frames = pan(4)
    model(frames[0]), model(frames[1])
    other, fresh = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    with torch.inference_mode():
        mine = model(frames[2]), model(frames[3])
        its = other(frames[2]), other(frames[3])
        torch.testing.assert_close(fresh(frames[3]), per_pixel(frames[3]))
    assert all(map(torch.equal, mine, its))
    assert fresh(frames[3]) is not None and bc.handle(fresh).propagation.mode == "move"


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(propagate="warp"), "propagate='warp', expected one of 'copy', 'move', 'auto'"),
        (dict(motion="dis"), "propagate='copy' moves nothing"),
        (dict(propagate="move", motion="dys"), "no motion 'dys'"),
    ],
)
def test_bad_options_are_refused(per_pixel, options, message):
    with pytest.raises(ConfigError, match=message):
        converted(per_pixel, "all", **options)
