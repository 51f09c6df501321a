"""The backbone wrapper: keys, checkpoints, modes and results are those of the plain backbone."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

pytest.importorskip("mmdet")

from mmengine.runner.checkpoint import load_state_dict  # noqa: E402

import blockcopy_plugins as bc  # noqa: E402
from blockcopy_plugins.errors import ConfigError  # noqa: E402
from blockcopy_plugins.integrations.mmengine import BlockCopyBackbone  # noqa: E402


def wrapped(tiny, policy="all", **options):
    return dict(
        type="blockcopy_plugins.BlockCopyBackbone",
        backbone=tiny.backbone(),
        block_size=32,
        policy=policy,
        **options,
    )


@pytest.fixture()
def pair(tiny):
    """A plain Mask R-CNN and one with a wrapped backbone, of the same weights."""
    plain = tiny.build(tiny.mask_rcnn())
    other = tiny.build(tiny.mask_rcnn(backbone=wrapped(tiny)), seed=9)
    other.load_state_dict(plain.state_dict(), strict=True)
    return plain, other


def test_keys_and_parameters_are_those_of_the_plain_model(pair):
    plain, other = pair
    assert isinstance(other.backbone, BlockCopyBackbone)
    assert list(plain.state_dict()) == list(other.state_dict())
    for kind in ("named_parameters", "named_buffers"):
        assert [n for n, _ in getattr(plain, kind)()] == [n for n, _ in getattr(other, kind)()]
    own = dict(other.backbone.inner.named_parameters())
    assert all(own[name] is value for name, value in other.backbone.named_parameters())


def test_checkpoints_go_both_ways(pair, tiny, tmp_path):
    plain, other = pair
    for source, target in ((plain, other), (other, tiny.build(tiny.mask_rcnn(), seed=4))):
        torch.save(source.state_dict(), tmp_path / "w.pth")
        state = torch.load(tmp_path / "w.pth", weights_only=True)
        found = target.load_state_dict(state, strict=True)
        assert not found.missing_keys and not found.unexpected_keys
        load_state_dict(target, state, strict=True)  # MMEngine's own, which Runner uses.
        for key, value in target.state_dict().items():
            assert torch.equal(value, source.state_dict()[key])


def test_results_with_all_blocks_are_those_of_the_plain_model(pair, tiny):
    plain, other = pair
    frame = torch.randn(2, 3, 77, 90)
    with torch.no_grad():
        for found, want in zip(other.backbone(frame), plain.backbone(frame), strict=True):
            assert type(found) is torch.Tensor
            torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
        bc.reset_(other.backbone.inner)
        batch = tiny.batch([tiny.picture((77, 90), 1)])
        (found,), (want,) = other.test_step(copy.deepcopy(batch)), plain.test_step(batch)
    assert len(want.pred_instances) >= 3
    torch.testing.assert_close(
        found.pred_instances.bboxes, want.pred_instances.bboxes, rtol=1e-3, atol=2e-2
    )
    assert bc.report(other.backbone.inner).frames == 3


def test_training_runs_dense_with_gradients(pair):
    plain, other = pair
    plain.train(), other.train()
    assert other.backbone.inner.training and other.backbone.training
    frame = torch.randn(2, 3, 64, 96)
    found, want = other.backbone(frame), plain.backbone(frame)
    for a, b in zip(found, want, strict=True):
        assert torch.equal(a, b) and a.requires_grad
    sum(x.sum() for x in found).backward()
    assert other.backbone.conv1.weight.grad is not None
    assert bc.report(other.backbone.inner).frames == 0
    other.eval()
    assert not other.backbone.inner.training and not other.backbone.layer1[0].training
    with torch.no_grad():
        other.backbone(frame)
    assert bc.report(other.backbone.inner).frames == 2


def test_frozen_stages_stay_frozen(tiny):
    config = wrapped(tiny)
    config["backbone"]["frozen_stages"] = 1
    model = tiny.build(tiny.mask_rcnn(backbone=config)).train()
    assert not model.backbone.bn1.training and not model.backbone.layer1[0].bn1.training
    assert not model.backbone.conv1.weight.requires_grad
    assert model.backbone.layer2[0].conv1.weight.requires_grad


def test_guards(tiny):
    guards = [dict(type="MaxAge", frames=2)]
    model = tiny.build(tiny.mask_rcnn(backbone=wrapped(tiny, "none", guards=guards)))
    rates = []
    for _ in range(5):
        with torch.no_grad():
            model.backbone(torch.randn(1, 3, 64, 96))
        rates.append(bc.handle(model.backbone.inner).last.executed_rate)
    assert rates == [1, 0, 1, 0, 1]


def test_attributes_of_the_backbone_are_seen(pair):
    backbone = pair[1].backbone
    assert backbone.depth == 18 and backbone.inner.norm1 is backbone.norm1
    assert "ResNet, block_size=32" in repr(pair[1])
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = backbone.no_such_thing


def test_a_module_instead_of_a_config(tiny):
    inner = tiny.build(tiny.mask_rcnn()).backbone
    frame = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        want = inner(frame)
    made = BlockCopyBackbone(inner, block_size=32, policy="all").eval()
    for a, b in zip(made(frame), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="block_size=0"):
        BlockCopyBackbone(tiny.build(tiny.mask_rcnn()).backbone, block_size=0)


def test_a_deep_copy_and_a_move_to_another_dtype(pair):
    twin = copy.deepcopy(pair[1]).double()
    frame = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        want = pair[0].backbone(frame)
        found = twin.backbone(frame.double())
    assert pair[1].backbone.conv1.weight.dtype == torch.float32
    assert twin.backbone.inner.conv1.weight is twin.backbone.conv1.weight
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a.float(), b, rtol=1e-4, atol=1e-4)
    assert bc.report(pair[1].backbone.inner).frames == 0


def test_init_weights_reaches_the_backbone(tiny):
    model = tiny.build(tiny.mask_rcnn(backbone=wrapped(tiny)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = model.backbone.conv1.weight.clone()
        model.init_weights()
    assert not torch.equal(before, model.backbone.conv1.weight)
    assert torch.equal(model.backbone.conv1.weight, model.backbone.inner.conv1.weight)


def test_the_hook_names_the_streams_for_the_wrapper(tiny, tmp_path):
    """Frames of two videos in turns: without the hook they would be one stream."""
    from mmengine.config import ConfigDict
    from mmengine.evaluator import BaseMetric
    from mmengine.runner import Runner
    from torch.utils.data import Dataset

    frames = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2)]

    class Frames(Dataset):
        metainfo = dict(classes=("a", "b", "c"))

        def __len__(self):
            return len(frames)

        def __getitem__(self, i):
            return dict(
                inputs=tiny.picture((64, 96), i),
                data_samples=tiny.sample((64, 96), *frames[i]),
            )

    seen = []

    class Look(BaseMetric):
        default_prefix = "look"

        def process(self, data_batch, data_samples):
            last = bc.handle(runner.model.backbone.inner).last
            seen.append((last.streams, last.executed_rate))
            self.results.append(0)

        def compute_metrics(self, results):
            return {}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner = Runner(
            model=ConfigDict(tiny.mask_rcnn(backbone=wrapped(tiny, policy="none"))),
            test_dataloader=dict(
                batch_size=1,
                num_workers=0,
                dataset=Frames(),
                sampler=dict(type="DefaultSampler", shuffle=False),
                collate_fn=dict(type="pseudo_collate"),
            ),
            test_cfg={},
            test_evaluator=Look(),
            custom_hooks=[dict(type="blockcopy_plugins.BlockCopyHook", block_size=32)],
            default_scope="mmdet",
            work_dir=str(tmp_path),
            experiment_name=tmp_path.name,
            log_level="ERROR",
        )
        tiny.with_weights(runner.model)
        runner.test()
    assert seen == [((0,), 1.0), ((0,), 0.0), ((1,), 1.0), ((1,), 0.0), ((0,), 1.0)]
    handle = bc.handle(runner.model.backbone.inner)
    assert handle.states.ids() == [] and handle._named.get() is None
    assert "_blockcopy" not in runner.model.__dict__
