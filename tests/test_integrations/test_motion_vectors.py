"""Motion vectors on their way from a video to the policy."""

from __future__ import annotations

import warnings

import cv2
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.errors import FrameError, GridError
from blockcopy_plugins.policy import MotionField

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
pytest.importorskip("av")

from blockcopy_plugins.datasets import LiveSource, VideoFrameDataset, VideoReader  # noqa: E402
from tests.test_integrations import tiny_projects as projects  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
BLOCK, SIZE = projects.BLOCK, projects.SIZE
POLICY = dict(type="MotionVectorPolicy", threshold=1.0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A square of 32 px that moves to the right by 7 px a frame, in the rows 40 to 72."""
    folder = tmp_path_factory.mktemp("motion")
    return projects.tiny_detector.write_clip(folder / "clip.mp4", 9, seed=1)


def touched(index, block, size, scale=1.0):
    """Blocks that the square is in, of those that it may have changed: a macroblock around it."""
    left, top = 7 * index, 40
    grids = []
    for margin in (0, 16 + 7):
        grid = torch.zeros(-(-size[0] // block), -(-size[1] // block), dtype=torch.bool)
        rows = [max(int((top - margin) * scale), 0), int((top + 32 + margin) * scale) - 1]
        columns = [max(int((left - margin) * scale), 0), int((left + 32 + margin) * scale) - 1]
        (a, b), (c, d) = ([pixel // block for pixel in ends] for ends in (rows, columns))
        grid[a : b + 1, c : d + 1] = True
        grids.append(grid)
    return grids


def check(grids, block, size, scale=1.0):
    assert grids[0].all()
    for index, grid in enumerate(grids[1:], 1):
        inside, around = touched(index, block, size, scale)
        # The square is flat: only what is in its middle can be told to stand still.
        assert (grid & inside).any() and not (grid & ~around).any(), index
    assert 0 < torch.stack(grids[1:]).float().mean() < 0.6


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_plain_module_is_given_them(clip, scale):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1)).eval()
    block = int(32 * scale)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=block, policy=POLICY))
    reader = VideoReader(clip, motion=True)
    grids, size = [], None
    for index, picture in enumerate(reader):
        frame = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
        frame = F.interpolate(frame, scale_factor=scale, mode="area")
        size = frame.shape[2:]
        with bc.motion(net, [reader.read_motion(index)]):
            net(frame)
        grids.append(bc.handle(net).last.grid[0])
    check(grids, block, size, scale)
    with pytest.raises(FrameError, match="stream 0 came without motion vectors"):
        net(frame)
    with bc.motion(net, [None, None]), pytest.raises(GridError, match="fields of 2 image"):
        net(frame)
    with bc.motion(net, [reader.read_motion(8)]):
        net(frame)  # the refused calls changed nothing
    assert not bc.handle(net).last.grid.any()


@pytest.mark.parametrize("kind", ["detector", "segmentor"])
@pytest.mark.parametrize("scale", [1, 2])
def test_the_inferencer_sees_to_it(tmp_path, clip, kind, scale):
    """Also where the test pipeline resizes pictures."""
    from mmdet.apis import init_detector
    from mmseg.apis import init_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "detector":
            model = init_detector(*map(str, projects.write_detector(tmp_path)), device="cpu")
        else:
            model = init_model(*map(str, projects.write_segmentor(tmp_path)), device="cpu")
    size = (scale * SIZE[0], scale * SIZE[1])
    for transform in model.cfg.test_dataloader.dataset.pipeline:
        if transform["type"] == "Resize":
            transform["scale"] = size[::-1]
    options = dict(block_size=BLOCK, policy=POLICY)
    with bc.VideoInferencer(model, options) as inferencer:
        grids = []
        for output in inferencer(clip):
            assert "motion" not in output.prediction.metainfo
            grids.append(output.grid)
        shape = torch.zeros(size).unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).shape
        assert grids[0].shape == (shape[0], shape[2])
        check(grids, BLOCK, size, scale)
        with LiveSource(clip) as source:  # a source of one's own
            again = [output.grid for output in inferencer(source)]
        assert all(torch.equal(a, b) for a, b in zip(grids, again, strict=True))
        both = list(inferencer.batch([clip, clip]))
        for grid, outputs in zip(grids, both, strict=True):
            assert all(torch.equal(output.grid, grid) for output in outputs)
        source = LiveSource(projects.pictures(2))
        with pytest.raises(FrameError, match="'list' has no motion vectors"):
            next(inferencer(source))
        assert next(source, None) is None  # it is closed
        assert inferencer._streams == {} and inferencer.handle.states.ids() == []


def test_data_samples_carry_them(tmp_path, clip):
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="mmdet.Resize", scale=(2 * SIZE[1], 2 * SIZE[0])),
        dict(type="mmdet.PackDetInputs", meta_keys=("ori_shape", "img_shape", "scale_factor")),
    ]
    dataset = VideoFrameDataset(str(clip), pipeline=pipeline, motion=True, stride=2)
    reader = VideoReader(clip, motion=True)
    for index in range(len(dataset)):
        sample = dataset[index]["data_samples"]
        found = sample.metainfo["motion"]
        assert torch.equal(found.displacement, reader.read_motion(2 * index).displacement)
    plain = VideoFrameDataset(str(clip), pipeline=pipeline)
    assert "motion" not in plain[0]["data_samples"].metainfo
    for index in range(2):
        cv2.imwrite(str(tmp_path / f"{index}.png"), projects.pictures(1)[0])
    with pytest.raises(FrameError, match="no motion vectors: it is a folder of images"):
        VideoFrameDataset(str(tmp_path), pipeline=pipeline, motion=True)


def field(size, cells=(8, 8)):
    return MotionField(
        torch.zeros(*cells, 2, dtype=torch.float64), torch.zeros(cells, dtype=torch.int64), size
    )


def test_the_detector_brings_them_to_the_scale_of_its_input(tiny):
    model = tiny.build(tiny.mask_rcnn())
    seen = []

    def look(frame, context):
        seen.append(context.motion)
        return torch.ones(context.grid_shape, dtype=torch.bool)

    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=32, policy=look))
    size = (64, 96)
    batch = tiny.batch([tiny.picture(size, 0), tiny.picture(size, 1)], original=[(128, 96)] * 2)
    model.test_step(batch)
    assert seen == [None]
    made = field((128, 96))
    batch = tiny.batch([tiny.picture(size, 0), tiny.picture(size, 1)], original=[(128, 96)] * 2)
    batch["data_samples"][1].set_metainfo(dict(motion=made))
    model.test_step(batch)
    none, found = seen[1]
    assert none is None and found.scale == (0.5, 1.0) and found.displacement is made.displacement


def test_the_hook_hands_them_to_a_wrapped_backbone(tiny):
    from blockcopy_plugins.integrations.mmengine import BlockCopyBackbone, BlockCopyHook

    seen = []

    def look(frame, context):
        seen.append(context.motion)
        return torch.ones(context.grid_shape, dtype=torch.bool)

    model = tiny.build(tiny.mask_rcnn())
    model.backbone = BlockCopyBackbone(model.backbone, block_size=32, policy=look)

    class Runner:
        pass

    runner = Runner()
    runner.model = model
    hook = BlockCopyHook()
    hook.before_test(runner)
    for index in range(2):
        batch = tiny.batch([tiny.picture((64, 96), 0)], video_id=[0], frame_id=[index])
        if index:
            batch["data_samples"][0].set_metainfo(dict(motion=field((64, 96))))
        hook.before_test_iter(runner, index, batch)
        model.test_step(batch)
    hook.after_test(runner)
    assert seen[0] is None and seen[1][0].scale == (1.0, 1.0)
    assert bc.handle(model.backbone.inner)._motion.get() is None
