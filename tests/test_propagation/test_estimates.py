"""Estimates of motion: known shifts of a textured picture, cuts, vectors, what is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.policy import MotionField, PolicyContext
from blockcopy_plugins.propagation import (
    AutoMotion,
    CallableMotion,
    CodecMotion,
    DISMotion,
    Displacement,
    GlobalMotion,
    Motion,
    build_motion,
)

SIZE = (144, 256)


def context(index=1, streams=("a",), motion=None, first=None):
    count = len(streams)
    grid = torch.zeros(count, 3, 4, dtype=torch.bool)
    return PolicyContext(
        streams=tuple(streams),
        grid_shape=(count, 3, 4),
        block_size=64,
        first=torch.tensor([index == 0] * count if first is None else first),
        frame_index=(index,) * count,
        last_grid=grid,
        motion=motion,
    )


def world(seed, size=(400, 500)):
    """Soft texture of several sizes, larger than a picture."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for cells in (12, 40, 90):
        small = torch.rand(1, 3, cells, round(cells * size[1] / size[0]), generator=generator)
        parts.append(F.interpolate(small, size=size, mode="bicubic"))
    return sum(parts) / 3 * 4 - 2


def view(picture, x, y, zoom=1.0):
    """What a camera sees that has moved the content by (x, y) px after magnifying it."""
    theta = torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]]])
    grid = F.affine_grid(theta, (1, 3, *SIZE), align_corners=False)
    height, width = picture.shape[2:]
    place = torch.stack(
        (
            (grid[..., 0] * SIZE[1] / 2 - x) / zoom / (width / 2),
            (grid[..., 1] * SIZE[0] / 2 - y) / zoom / (height / 2),
        ),
        -1,
    )
    return F.grid_sample(picture, place, align_corners=False)


def displacement_of(motion, *frames):
    found = None
    for index, frame in enumerate(frames):
        at = context(index)
        look = motion.look(frame, at)
        motion.commit(look, at)
        found = look.displacements[0]
    return found


@pytest.fixture(autouse=True)
def _opencv():
    pytest.importorskip("cv2")


@pytest.mark.parametrize("name", ["dis", "global", "auto"])
@pytest.mark.parametrize("shift", [(3.0, 0.0), (-5.0, 4.0), (2.5, -1.25)])
def test_a_shift_of_the_whole_picture_is_found(name, shift):
    picture = world(1)
    found = displacement_of(build_motion(name), view(picture, 0, 0), view(picture, *shift))
    inner = found.vectors[3:-3, 3:-3]
    assert found.size == SIZE and found.share_known > 0.85
    assert (inner - torch.tensor(shift)).abs().max() < 0.5


def test_a_zoom_is_found_by_its_cells():
    picture = world(2)
    found = displacement_of(GlobalMotion(), view(picture, 0, 0), view(picture, 0, 0, 1.06))
    rows, columns = found.confidence.shape
    y = (torch.arange(rows) + 0.5) * found.cell - SIZE[0] / 2
    x = (torch.arange(columns) + 0.5) * found.cell - SIZE[1] / 2
    wanted = torch.stack(torch.broadcast_tensors(x[None], y[:, None]), -1) * (1 - 1 / 1.06)
    assert (found.vectors - wanted)[2:-2, 2:-2].abs().max() < 0.5


def test_a_large_frame_is_looked_at_reduced_and_told_in_its_own_pixels():
    picture = F.interpolate(world(3), scale_factor=4, mode="bicubic")
    frames = [picture[..., 100:676, 200 - x : 1224 - x] for x in (0, 12)]
    found = displacement_of(DISMotion(width=256), *frames)
    assert found.size == (576, 1024) and found.cell == 8
    assert (found.vectors[4:-4, 4:-4] - torch.tensor([12.0, 0])).abs().max() < 2


def test_after_a_cut_nothing_is_known():
    for motion in (DISMotion(), AutoMotion(), GlobalMotion()):
        assert displacement_of(motion, view(world(1), 0, 0), view(world(7), 0, 0)) is None


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e5, -1e5])
def test_flow_that_diverges_is_unknown(wrong):
    """In a corner; elsewhere it is what it was."""

    class Broken(DISMotion):
        def flow(self, earlier, later):
            flow = super().flow(earlier, later)
            flow[:24, :32] = wrong
            return flow

    picture = world(1)
    views = view(picture, 0, 0), view(picture, 2, 0)
    found, sound = displacement_of(Broken(), *views), displacement_of(DISMotion(), *views)
    assert torch.isfinite(found.vectors).all() and found.cell == 8
    corner = torch.zeros_like(found.confidence, dtype=torch.bool)
    corner[:3, :4] = True
    assert (found.confidence[corner] == 0).all() and (sound.confidence[corner] > 0).any()
    assert torch.equal(found.confidence[~corner], sound.confidence[~corner])
    assert torch.equal(found.vectors[~corner], sound.vectors[~corner])


def test_a_still_camera_is_seen_for_nothing_more_than_the_difference():
    class Counting(AutoMotion):
        flows = 0

        def flow(self, earlier, later):
            self.flows += 1
            return super().flow(earlier, later)

    still = view(world(1), 0, 0)
    person = still.clone()
    person[..., 40:110, 60:110] = view(world(5), 0, 0)[..., 40:110, 60:110]
    motion = Counting()
    noise = torch.randn(still.shape) * 0.01
    found = displacement_of(motion, still, still + noise, person)
    assert found.is_still and found.share_known == 1 and motion.flows == 0
    assert displacement_of(motion, still, view(world(1), 3, 1)) is not None
    assert motion.flows == 1


class Looking(AutoMotion):
    """Counts how often it looks at pictures."""

    looks = 0

    def see(self, frame, context):
        self.looks += 1
        return super().see(frame, context)


def watch(motion, frames, stream=0, start=0):
    """Each frame's displacement, asked for and committed."""
    found = []
    for index, frame in enumerate(frames, start):
        at = context(index, (stream,))
        look = motion.look(frame, at)
        found.append(look.displacement(0))
        motion.commit(look, at)
    return found


def test_a_camera_that_stays_still_is_looked_at_ever_more_rarely():
    motion, still = Looking(), view(world(1), 0, 0)
    found = watch(motion, [still] * 200)
    assert found[0] is None and all(each.is_still for each in found[1:])
    # In each of the first frames, and in every eighth of the last ones.
    assert motion.looks < 60
    before = motion.looks
    watch(motion, [still] * 80, start=200)
    assert motion.looks - before == 10
    # Another stream is looked at all the same, and so is this one after a reset.
    watch(motion, [still] * 3, stream="other")
    assert motion.looks - before == 13
    motion.reset([0])
    watch(motion, [still] * 3)
    assert motion.looks - before == 16


def test_a_camera_that_begins_to_move_after_a_rest_has_moved_by_the_whole_way():
    motion, picture = Looking(), world(1)
    watch(motion, [view(picture, 0, 0)] * 203)
    found = watch(motion, [view(picture, x, 0) for x in range(1, 13)], start=203)
    moved = [float(each.vectors[3:-3, 3:-3, 0].mean()) for each in found]
    # The flow takes 1 px for 1.09; if one frame's way were lost there would be 1 px too little.
    assert 11.5 < sum(moved) < 13.5
    # From the first motion that it sees it looks at each frame again.
    first = next(i for i, each in enumerate(found) if not each.is_still)
    assert 1 <= first <= 7 and all(not each.is_still for each in found[first:])
    assert moved[first] > first


def test_a_frame_that_was_not_committed_is_not_remembered():
    motion, picture = DISMotion(), world(1)
    first, second, third = (view(picture, x, 0) for x in (0, 3, 5))
    motion.commit(motion.look(first, context(0)), context(0))
    motion.look(second, context(1))
    found = motion.look(third, context(1)).displacements[0]
    assert (found.vectors[3:-3, 3:-3, 0] - 5).abs().max() < 0.5


def test_streams_have_their_own_past_and_forget_it():
    motion, one, other = DISMotion(), world(1), world(2)
    begin = torch.cat((view(one, 0, 0), view(other, 0, 0)))
    at = context(0, ("a", "b"))
    motion.commit(motion.look(begin, at), at)
    # They change places.
    at = context(1, ("b", "a"))
    look = motion.look(torch.cat((view(other, 0, 3), view(one, 4, 0))), at)
    found = [moved.vectors[3:-3, 3:-3].mean((0, 1)) for moved in look.displacements]
    assert (found[0] - torch.tensor([0, 3.0])).abs().max() < 0.3
    assert (found[1] - torch.tensor([4.0, 0])).abs().max() < 0.3
    motion.reset(["a"])
    look = motion.look(begin.flip(0), at)
    assert look.displacements[0] is not None and look.displacements[1] is None
    motion.reset()
    assert motion.look(begin, at).displacements == (None, None)


def test_another_size_and_a_first_frame_have_no_motion():
    motion, picture = DISMotion(), world(1)
    motion.commit(motion.look(view(picture, 0, 0), context(0)), context(0))
    assert motion.look(view(picture, 2, 0)[..., :200], context(1)).displacements == (None,)
    assert motion.look(view(picture, 2, 0), context(1, first=[True])).displacements == (None,)


# -- codec vectors and functions -------------------------------------------------------------------


def field(displacement, renewed=None, size=(64, 96), scale=None):
    shape = (-(-size[0] // 16), -(-size[1] // 16))
    moved = torch.zeros(*shape, 2, dtype=torch.float64) + torch.tensor(displacement)
    new = torch.zeros(shape, dtype=torch.int64)
    if renewed is not None:
        new[renewed] = 1
    return MotionField(moved, new, size, scale=scale)


def codec(fields, size):
    motion = CodecMotion()
    found = None
    for index, one in enumerate(fields):
        at = context(index, motion=(one,))
        look = motion.look(torch.zeros(1, 3, *size), at)
        motion.commit(look, at)
        found = look.displacements[0]
    return found


def test_codec_vectors_are_what_was_added_since_the_last_frame_shown():
    found = codec([field((5.0, 1.0)), field((8.0, -1.0))], (64, 96))
    assert found.cell == 16 and (found.vectors == torch.tensor([3.0, -2.0])).all()
    assert found.share_known == 1


def test_codec_vectors_are_scaled_to_the_networks_input_and_end_with_the_picture():
    """A picture of 64 x 96 px at twice its size, with padding to the right and below."""
    scale = (2.0, 2.0)
    found = codec([field((0.0, 0.0), scale=scale), field((3.0, 1.0), scale=scale)], (160, 224))
    assert found.cell == 32 and found.confidence.shape == (5, 7)
    assert (found.vectors[:4, :6] == torch.tensor([6.0, 2.0])).all()
    assert found.confidence.sum() == 24 and (found.confidence[:4, :6] == 1).all()


def test_blocks_that_were_coded_anew_are_unknown():
    found = codec([field((0.0, 0.0)), field((1.0, 0.0), (1, 2))], (64, 96))
    assert found.confidence[1, 2] == 0 and found.confidence.sum() == 23


@pytest.mark.parametrize("second", [None, field((1.0, 0.0), size=(80, 96))])
def test_missing_vectors_and_those_of_another_size_are_no_motion(second):
    motion = CodecMotion()
    at = context(0, motion=(field((0.0, 0.0)),))
    motion.commit(motion.look(torch.zeros(1, 3, 64, 96), at), at)
    at = context(1, motion=(second,))
    look = motion.look(torch.zeros(1, 3, 64, 96), at)
    assert look.displacements == (None,)
    # Nor is there one right after.
    motion.commit(look, at)
    at = context(2, motion=(field((2.0, 0.0)),))
    assert motion.look(torch.zeros(1, 3, 64, 96), at).displacements == (None,)


def test_a_function_may_give_a_pair_a_tensor_a_displacement_or_none():
    frame = torch.zeros(4, 3, 64, 96)
    vectors = torch.randn(4, 6, 2)
    given = [(2, 3), vectors, Displacement.unknown((64, 96)), None]
    motion = CallableMotion(lambda frame, context: given)
    pair, tensor, unknown, nothing = motion.look(frame, context(1, "abcd")).displacements
    assert (pair.vectors == torch.tensor([2.0, 3.0])).all() and pair.share_known == 1
    assert torch.equal(tensor.vectors, vectors) and tensor.cell == 16
    assert unknown.share_known == 0 and nothing is None


@pytest.mark.parametrize(
    "given, message",
    [
        ([], "gave 0, expected a list"),
        (None, "gave NoneType"),
        ([torch.zeros(3, 3)], r"gave \(3, 3\) for an image"),
        ([torch.zeros(2, 6, 2)], r"expected px|vectors float32"),
        ([Displacement.still((32, 32))], r"frame of \(32, 32\) px"),
        (["x"], "gave 'x' for an image"),
    ],
)
def test_a_function_that_gives_anything_else_is_refused(given, message):
    motion = CallableMotion(lambda frame, context: given)
    with pytest.raises(FrameError, match=message):
        motion.look(torch.zeros(1, 3, 64, 96), context(1))


# -- building --------------------------------------------------------------------------------------


def test_motions_are_built_of_names_dicts_classes_objects_and_functions():
    assert type(build_motion("codec")) is CodecMotion
    assert build_motion(dict(type="DISMotion", width=128)).width == 128
    assert type(build_motion(GlobalMotion)) is GlobalMotion
    motion = AutoMotion()
    assert build_motion(motion) is motion
    assert type(build_motion(lambda frame, context: [None])) is CallableMotion
    assert isinstance(motion, Motion)


@pytest.mark.parametrize(
    "config, message",
    [
        ("dys", "no motion 'dys'. Did you mean 'dis'"),
        (dict(width=3), "needs a 'type'"),
        (dict(type="dis", width=3), "width of DISMotion must be an integer of at least 32"),
        (dict(type="dis", cell=1), "cell of DISMotion"),
        (dict(type="auto", share=2), "share must be a number from 0 to 1"),
        (dict(type="global", model="cubic"), "model of GlobalMotion must be one of"),
        (dict(type="dis", depth=3), "does not take the arguments"),
        (7, "must be a Motion, a name"),
    ],
)
def test_bad_configs_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        build_motion(config)


def test_without_opencv_the_message_says_what_else_there_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match="DISMotion needs OpenCV.*CodecMotion"):
        build_motion("dis")
    assert type(build_motion("codec")) is CodecMotion
