"""Models of transformers, and pipelines around them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import blockcopy_plugins as bc
from blockcopy_plugins.errors import ConfigError, FrameError

transformers = pytest.importorskip("transformers", reason="needs transformers")
Image = pytest.importorskip("PIL.Image")

BLOCK = 64


def segformer():
    torch.manual_seed(0)
    small = transformers.SegformerConfig(
        num_labels=5,
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 24, 32],
        decoder_hidden_size=16,
        num_attention_heads=[1, 1, 2, 2],
    )
    return transformers.SegformerForSemanticSegmentation(small).eval()


def detr():
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    small = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=7,
        num_labels=4,
    )
    return transformers.DetrForObjectDetection(small).eval()


def picture(size, seed, t=0) -> np.ndarray:
    """uint8 ``(H, W, 3)``: a square that moves over a still background."""
    random = np.random.default_rng(seed)
    cells = random.integers(0, 255, (size[0] // 16, size[1] // 16, 3), dtype=np.uint8)
    frame = cells.repeat(16, 0).repeat(16, 1)
    frame[32:80, 12 * t : 12 * t + 48] = (255, 30, 30)
    return frame


def video(size, seed, frames=4):
    return [Image.fromarray(picture(size, seed, t)) for t in range(frames)]


def tensor(size, seed, t=0) -> torch.Tensor:
    return torch.from_numpy(picture(size, seed, t)).permute(2, 0, 1)[None].float() / 255 - 0.5


def pipe(model, height=128, width=192):
    processor = transformers.SegformerImageProcessor(size=dict(height=height, width=width))
    return transformers.pipeline("image-segmentation", model=model, image_processor=processor)


def config(policy="all"):
    return bc.BlockCopyConfig(block_size=BLOCK, policy=policy)


def masks(found):
    """A segmentation as the share of the picture under each label, and the masks."""
    return {item["label"]: np.asarray(item["mask"]) > 0 for item in found}


def same(found, wanted) -> bool:
    found, wanted = masks(found), masks(wanted)
    if found.keys() != wanted.keys():
        return False
    return all((found[label] != wanted[label]).mean() < 1e-3 for label in wanted)


def test_a_pipeline_over_two_videos():
    segment = pipe(segformer())
    videos = [video((128, 192), 0), video((128, 192), 1)]
    wanted = [[segment(frame) for frame in frames] for frames in videos]
    assert not same(wanted[0][0], wanted[1][0])
    bc.blockcopy_(segment, config())
    for frames, expected in zip(videos, wanted, strict=True):
        assert all(map(same, [segment(frame) for frame in frames], expected))
        bc.reset_(segment)
    report = bc.report(segment)
    assert report.frames == 8 and report.share_on_blocks > 0.9
    bc.restore_(segment)
    bc.blockcopy_(segment, config("none"))
    found = [segment(frame) for frame in videos[0]]
    assert all(same(item, wanted[0][0]) for item in found)
    bc.reset_(segment)
    assert same(segment(videos[1][0]), wanted[1][0])
    assert bc.report(segment).executed_rate == pytest.approx(2 / 5)


def test_a_pipelines_batch_is_a_piece_of_one_video():
    segment = pipe(segformer())
    frames = video((128, 192), 0)
    wanted = segment(frames[0])
    bc.blockcopy_(segment, config("none"))
    found = segment(frames, batch_size=4)
    assert len(found) == 4 and all(same(item, wanted) for item in found)
    assert bc.report(segment).frames == 4
    assert bc.report(segment).executed_rate == pytest.approx(1 / 4)
    bc.reset_(segment)
    with bc.streams(segment, ["cam0", "cam1"]):
        found = segment([frames[0], frames[3]], batch_size=2)
    assert not same(found[0], found[1]), "two cameras are no video"


def test_a_frame_of_another_size_begins_anew_in_a_pipeline():
    model = segformer()
    bc.blockcopy_(segment := pipe(model), config("none"))
    first = segment(video((128, 192), 0)[0])
    segment.image_processor.size = dict(height=192, width=128)
    with bc.dense(segment):
        wanted = segment(video((192, 128), 1)[0])
    assert same(segment(video((192, 128), 1)[0]), wanted)
    segment.image_processor.size = dict(height=128, width=192)
    assert same(segment(video((128, 192), 0)[0]), first)
    assert bc.report(segment).executed_rate == 1.0


@pytest.mark.parametrize("build", [segformer, detr])
def test_models_called_by_themselves(build):
    model = build()
    frames = [tensor((128, 192), 0, t) for t in range(3)]
    with torch.no_grad():
        wanted = [model(pixel_values=frame) for frame in frames]
    bc.blockcopy_(model, config())
    for frame, expected in zip(frames, wanted, strict=True):
        found = model(pixel_values=frame)
        assert type(found) is type(expected) and found.keys() == expected.keys()
        for name in ("logits", "pred_boxes"):
            if name in expected:
                torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4)
    with pytest.raises(FrameError, match="reset_"):
        model(pixel_values=tensor((192, 128), 0))
    bc.reset_(model)
    model(pixel_values=tensor((192, 128), 0))
    other = copy.deepcopy(model)
    other(pixel_values=tensor((192, 128), 0))
    assert bc.report(other).frames == bc.report(model).frames + 1


def test_the_default_policy_compares_boxes_of_queries(recwarn):
    model = detr()
    bc.blockcopy_(model, config(dict(type="GainPolicy", target=0.5)))
    for t in range(6):
        model(pixel_values=tensor((128, 192), 0, t))
    assert bc.report(model).executed_rate <= 0.5 + 1 / 6 + 0.1
    assert not [w for w in recwarn if "goes by the picture alone" in str(w.message)]
    adapter = bc.handle(model).adapter
    call = adapter.read_call((tensor((128, 192), 0),), {})
    logits = torch.full((1, 2, 5), -9.0)
    logits[0, 0, 2] = logits[0, 1, 4] = 9.0
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.25], [0.5, 0.5, 1, 1]]])
    (found,) = adapter.task_outputs(dict(logits=logits, pred_boxes=boxes), call)
    # The second one's class is the last, which means no object.
    torch.testing.assert_close(found.boxes, torch.tensor([[48.0, 48.0, 144.0, 80.0]]))
    assert found.labels.tolist() == [2] and found.scores[0] > 0.99


def test_four_dimensions_make_no_picture():
    model = segformer()
    bc.blockcopy_(model, config())
    adapter = bc.handle(model).adapter
    call = adapter.read_call((torch.rand(1, 3, 128, 128),), {})
    queries = torch.rand(1, 6, 32, 32)
    assert adapter.task_outputs(dict(intermediate_hidden_states=queries), call) is None
    (found,) = adapter.task_outputs(dict(intermediate_hidden_states=queries, logits=queries), call)
    assert torch.equal(found, queries[0])


def test_masks_with_classes_and_depth_are_compared_as_maps():
    model = segformer()
    bc.blockcopy_(model, config())
    adapter = bc.handle(model).adapter
    call = adapter.read_call((torch.rand(1, 3, 128, 128),), {})
    classes = torch.full((1, 2, 4), -9.0)
    classes[0, 0, 1] = classes[0, 1, 3] = 9.0
    masks = torch.full((1, 2, 8, 8), -9.0)
    masks[0, 0, :, :4] = masks[0, 1, :, 4:] = 9.0
    outputs = dict(class_queries_logits=classes, masks_queries_logits=masks)
    (found,) = adapter.task_outputs(outputs, call)
    # Of class 1 on the left; on the right is a mask of no class.
    assert found.shape == (3, 8, 8) and (found.argmax(0)[:, :4] == 1).all()
    assert (found[1, :, 4:] < -8).all()
    near, far = (adapter.task_outputs(dict(predicted_depth=d), call)[0] for d in depths())
    change = bc_gain(near, far)
    assert change[0, 1] > 0.1 and change[0, 0] == 0


def depths():
    depth = torch.full((1, 32, 32), 3.0)
    yield depth
    depth = depth.clone()
    depth[:, :, 16:] = 6.0
    yield depth


def bc_gain(before, after):
    from blockcopy_plugins.policy.information_gain import AutoGain, Geometry

    return AutoGain()(before, after, Geometry((128, 128), (2, 2), 64))


def test_a_model_of_texts_is_refused():
    small = transformers.BertConfig(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    with pytest.raises(ConfigError, match="input_ids"):
        bc.blockcopy_(transformers.BertModel(small).eval())


def half(frame, context):
    """Other blocks in each frame."""
    grid = torch.zeros(context.grid_shape, dtype=torch.bool).flatten()
    seed = int(1e4 * frame.mean().abs())
    grid[torch.randperm(len(grid), generator=torch.Generator().manual_seed(seed))[::2]] = True
    return grid.view(context.grid_shape)


def with_and_without_programs(frames):
    """Replayed frames, and the models."""
    nets = []
    for programs in (True, False):
        options = bc.BlockCopyConfig(block_size=BLOCK, policy=half, programs=programs)
        nets.append(bc.blockcopy_(segformer(), options))
    for t in range(frames):
        found, wanted = (
            net(pixel_values=tensor((128, 192), 2, t), output_hidden_states=True) for net in nets
        )
        maps = [*found.hidden_states, found.logits], [*wanted.hidden_states, wanted.logits]
        assert len(maps[0]) == 5
        for one, other in zip(*maps, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    return bc.report(nets[0]).programs.replayed, nets


def test_hooks_by_which_a_model_collects_its_own_outputs_are_no_obstacle_to_programs():
    replayed, nets = with_and_without_programs(8)
    hooked = [m for m in nets[0].modules() if len(m._forward_hooks) > len(m._forward_pre_hooks)]
    if not hooked:
        pytest.skip("this version of transformers collects outputs without hooks")
    assert replayed >= 4, str(bc.report(nets[0]))


def test_what_a_model_around_collects_is_not_replayed():
    capturing = pytest.importorskip("transformers.utils.output_capturing")
    replayed, (net, _) = with_and_without_programs(8)
    token = capturing._active_collector.set({"hidden_states": []})
    try:
        net(pixel_values=tensor((128, 192), 2, 8), output_hidden_states=True)
    finally:
        capturing._active_collector.reset(token)
    assert bc.report(net).programs.replayed == replayed
    net(pixel_values=tensor((128, 192), 2, 9), output_hidden_states=True)
    assert bc.report(net).programs.replayed == replayed + 1
