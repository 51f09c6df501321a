"""Whole segmentors of MMSegmentation on blocks, against themselves dense and against the oracle."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.adapter import Call
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.policy import Policy

BLOCK = 32
SIZE = (96, 128)
KINDS = ("deeplabv3plus", "pspnet", "danet", "binary", "ocr", "point_rend")


@pytest.fixture()
def adapter_type(tiny_seg):
    from blockcopy_plugins.integrations.mmseg import SegmentorAdapter

    return SegmentorAdapter


class Watching(Policy):
    """Executes grids that are given, and keeps what it is told of the outputs."""

    needs_outputs = True

    def __init__(self, *rates) -> None:
        self.rates, self.seen, self.grids = list(rates), [], []

    def select(self, frame, context):
        rate = self.rates.pop(0)
        self.grids.append(torch.rand(context.grid_shape) < rate)
        return self.grids[-1]

    def feedback(self, frame, grid, outputs, context):
        self.seen.append([output.clone() for output in outputs])
        return {}


def convert(model, policy="all", **options):
    return bc.blockcopy_(model, bc.BlockCopyConfig(block_size=BLOCK, policy=policy, **options))


def same_maps(found, wanted):
    assert len(found) == len(wanted) > 0
    for a, b in zip(found, wanted, strict=True):
        assert type(a.seg_logits.data) is torch.Tensor
        largest = b.seg_logits.data.abs().max()
        assert (a.seg_logits.data - b.seg_logits.data).abs().max() <= 1e-4 * largest
        a, b = a.pred_sem_seg.data, b.pred_sem_seg.data
        assert a.shape == b.shape and len(b.unique()) > 1, "one class alone would say nothing"
        # A pixel where two classes are equal may fall on either side.
        assert (a != b).float().mean() < 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [SIZE, (77, 90)])
def test_all_blocks_give_the_segmentor_itself(tiny_seg, kind, size):
    model = tiny_seg.build(tiny_seg.config(kind))
    batches = [tiny_seg.batch([tiny_seg.picture(size, s)], scale=[0.5]) for s in (1, 2)]
    with torch.no_grad():
        wanted = [model.test_step(copy.deepcopy(batch)) for batch in batches]
    keys = list(model.state_dict())
    convert(model, pack_whole_frames=True)
    for batch, want in zip(batches, wanted, strict=True):
        found = model.test_step(copy.deepcopy(batch))
        assert found[0].pred_sem_seg.shape == found[0].metainfo["ori_shape"]
        same_maps(found, want)
    bc.restore_(model)
    assert list(model.state_dict()) == keys
    with torch.no_grad():
        same_maps(model.test_step(batches[0]), wanted[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [SIZE, (77, 90)])
def test_any_grids_are_the_masked_reference(tiny_seg, adapter_type, kind, size):
    model = tiny_seg.build(tiny_seg.config(kind))
    reference = MaskedReference(copy.deepcopy(model), BLOCK, adapter_type(model))
    policy = Watching(2, 0.5, 0.2, 0.0, 0.4)
    convert(model, policy)
    labels = []
    for seed in range(5):
        pictures = [tiny_seg.picture(size, seed), tiny_seg.picture(size, seed + 50)]
        found = model.test_step(tiny_seg.batch(pictures))
        data = model.data_preprocessor(tiny_seg.batch(pictures), False)
        wanted = reference(policy.grids[-1], data["inputs"], data["data_samples"], "predict")
        same_maps(found, wanted)
        labels.append(found[0].pred_sem_seg.data.clone())
    assert any((a != b).any() for a, b in zip(labels, labels[1:], strict=False))


def test_tensor_mode_is_the_masked_reference(tiny_seg, adapter_type):
    model = tiny_seg.build(tiny_seg.config())
    reference = MaskedReference(copy.deepcopy(model), BLOCK, adapter_type(model))
    policy = Watching(2, 0.5)
    convert(model, policy)
    for _ in range(2):
        frame = torch.randn(1, 3, *SIZE)
        found = model(frame)
        wanted = reference(policy.grids[-1], frame)
        assert type(found) is torch.Tensor
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


@pytest.mark.parametrize("kind", ["deeplabv3plus", "pspnet"])
def test_all_but_global_pooling_runs_on_blocks(tiny_seg, kind):
    model = tiny_seg.build(tiny_seg.config(kind))
    convert(model, Watching(2, 0.5))
    for seed in (1, 2):
        model.test_step(tiny_seg.batch([tiny_seg.picture(SIZE, seed)]))
    macs = sum(op.macs for op in bc.report(model).dense_ops)
    assert all("pool" in op.path or "psp_modules" in op.path for op in bc.report(model).dense_ops)
    assert macs < 0.05 * bc.handle(model).totals.counts.blocks_dense


@pytest.mark.parametrize(
    ("kind", "path", "stride"),
    [
        ("deeplabv3plus", "decode_head", 4),
        ("pspnet", "decode_head", 8),
        ("danet", "decode_head", 8),
        ("binary", "decode_head", 8),
        ("ocr", "decode_head.1", 8),
        ("point_rend", "decode_head.0", 4),
    ],
)
def test_the_policy_gets_the_logits_of_the_decode_head(tiny_seg, kind, path, stride):
    model = tiny_seg.build(tiny_seg.config(kind))
    wanted = []
    classifier = model.get_submodule(f"{path}.conv_seg")
    hook = classifier.register_forward_hook(lambda m, i, out: wanted.append(out.clone()))
    batch = tiny_seg.batch([tiny_seg.picture(SIZE, seed) for seed in (1, 2)])
    with torch.no_grad():
        model.test_step(copy.deepcopy(batch))
    hook.remove()
    policy = Watching(2)
    convert(model, policy)
    model.test_step(batch)
    channels = 1 if kind == "binary" else tiny_seg.classes
    assert len(policy.seen[0]) == 2 and len(wanted) == 1
    for found, want in zip(policy.seen[0], wanted[0], strict=True):
        assert found.shape == (channels, SIZE[0] // stride, SIZE[1] // stride)
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


def test_the_heads_before_the_last_of_a_cascade_stay_on_blocks(tiny_seg, monkeypatch):
    model = tiny_seg.build(tiny_seg.config("ocr"))
    seen, last = [], model.decode_head[-1]
    forward = last.forward
    monkeypatch.setattr(
        last, "forward", lambda inputs, prev: seen.append(type(prev)) or forward(inputs, prev)
    )
    convert(model, Watching(2, 0.5))
    for seed in (1, 2):
        model.test_step(tiny_seg.batch([tiny_seg.picture(SIZE, seed)]))
    assert seen[-1] is bc.BlockTensor


def test_the_learned_policy_is_rewarded_by_the_change_of_classes(tiny_seg):
    """The gain of a frame, against the divergence of the softmax computed by hand."""
    model = tiny_seg.build(tiny_seg.config())
    convert(model, dict(type="RLPolicy", target=0.5, seed=0))
    logits = []
    model.decode_head.conv_seg.register_forward_hook(lambda m, i, out: logits.append(out))
    for seed in (1, 1, 2):
        model.test_step(tiny_seg.batch([tiny_seg.picture(SIZE, seed)]))
    last = bc.handle(model).last
    before, after = (bc.to_dense(x)[0].log_softmax(0) for x in logits[1:])
    change = (after.exp() * (after - before)).sum(0)
    # A block is 8 x 8 logits, its sixteenths are 2 x 2.
    parts = change.unfold(0, 2, 2).unfold(1, 2, 2).mean((2, 3))
    blocks = parts.unfold(0, 4, 4).unfold(1, 4, 4).amax((2, 3)).clamp(0, 1)
    grid = last.grid[0]
    assert 0 < grid.sum() < grid.numel()
    gain = last.scalars["information_gain"]
    assert gain > 0.01
    assert gain == pytest.approx((blocks * grid).sum().item() / grid.sum().item(), rel=0.05)


def test_windows_are_refused_and_nothing_is_converted(tiny_seg):
    model = tiny_seg.build(tiny_seg.config(mode="slide"))
    with pytest.raises(ConfigError, match=r"mode='slide'.*test_cfg=dict\(mode='whole'\)"):
        convert(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert "forward" not in model.__dict__
    with torch.no_grad():
        model.test_step(tiny_seg.batch([tiny_seg.picture(SIZE, 1)]))


def test_streams_are_the_videos_of_the_samples(tiny_seg):
    model = tiny_seg.build(tiny_seg.config("pspnet"))
    convert(model, "none")
    whole = []
    for videos, frames in ((["a", "b"], [0, 0]), (["b", "a"], [1, 1]), (["a", "b"], [0, 2])):
        pictures = [tiny_seg.picture((64, 96), seed) for seed in frames]
        model.test_step(tiny_seg.batch(pictures, video_id=videos, frame_id=frames))
        whole.append(bc.handle(model).last.grid.flatten(1).all(1).tolist())
    assert whole == [[True, True], [False, False], [True, False]]
    assert set(bc.handle(model).states.ids()) == {"a", "b"}


def test_loss_and_training_are_refused(tiny_seg):
    model = convert(tiny_seg.build(tiny_seg.config("pspnet")))
    with pytest.raises(FrameError, match=r"segmentor.*restore_\(model\) before training"):
        model(torch.zeros(1, 3, 64, 96), [tiny_seg.sample((64, 96))], mode="loss")
    with pytest.raises(FrameError, match="segmentor.*data_preprocessor"):
        model([torch.zeros(3, 64, 96)], [tiny_seg.sample((64, 96))], mode="predict")
    model.train()
    with pytest.raises(FrameError, match="eval"):
        model(torch.zeros(1, 3, 64, 96), [tiny_seg.sample((64, 96))], mode="predict")


def predicted(tiny_seg, logits, **info):
    from mmengine.structures import PixelData

    sample = tiny_seg.sample(SIZE)
    sample.set_metainfo(info)
    sample.seg_logits = PixelData(data=logits)
    return sample


def test_logits_of_heads_without_a_map_of_them(tiny_seg, adapter_type):
    """A picture of 40 x 80 px, padded at the right and below to 48 x 96."""
    adapter = adapter_type(nn.Identity())
    logits = torch.arange(2 * 40 * 80.0).reshape(2, 40, 80)
    call = Call(frame=torch.zeros(1, 3, 48, 96), replace=None)
    sample = predicted(tiny_seg, logits, img_padding_size=(0, 16, 0, 8))
    (found,) = adapter.task_outputs([sample], call)
    assert found.shape == (2, 12, 24)
    # The mean of 4 x 4 px.
    assert found[1, 9, 19] == logits[1, 36:40, 76:80].mean()
    assert not found[:, 10:].any() and not found[:, :, 20:].any()

    sample = predicted(tiny_seg, torch.full((1, 96, 192), 0.75))
    (found,) = adapter.task_outputs([sample], call)
    assert found.shape == (1, 12, 24)
    torch.testing.assert_close(found, torch.full((1, 12, 24), 3.0).log())
