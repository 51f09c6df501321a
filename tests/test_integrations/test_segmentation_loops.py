"""The loops through real Runners, on a tiny segmentor with label images of some frames."""

from __future__ import annotations

import json
import warnings

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("mmseg")

from mmengine.runner import Runner  # noqa: E402

from blockcopy_plugins.errors import ConfigError  # noqa: E402
from blockcopy_plugins.evaluation import (  # noqa: E402
    FrameSegmentationMetric,
    TemporalConsistencyMetric,
    optical_flow,
)
from blockcopy_plugins.integrations.mmengine import find_hook, video_config, video_dataloader  # noqa: E402
from tests.test_tools import tiny_segmentor as tiny  # noqa: E402

FRAMES = 7
LABELLED = (0, 2, 5)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seg_loops")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = tiny.write_weights(folder)
    config = tiny.write_config(folder, weights)
    frames, labels = tiny.write_frames(folder / "a", FRAMES, LABELLED)
    return folder, config, str(frames), str(labels)


def make(
    place,
    policy=None,
    training=False,
    edit=None,
    videos=None,
    annotated=True,
    evaluator=None,
    **loop,
):
    folder, path, frames, labels = place
    config = video_config.read_config(str(path))
    if evaluator is not None:
        config.test_evaluator = evaluator
    video_config.set_options(config, policy=policy)
    ann_file = [labels] if annotated and not training else None
    loader = video_dataloader.video_dataloader(config, videos or [frames], ann_file)
    video_config.set_weights(config, None)
    config.work_dir = str(folder / "work")
    config.log_level = "ERROR"
    prepare = video_config.for_policy_training if training else video_config.for_testing
    prepare(config, loader, **loop)
    if edit is not None:
        edit(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Runner.from_cfg(config)


def run_test(place, pairs=None, **arguments):
    """Run a test; ``pairs`` gets the labels of both runs of each frame."""
    runner = make(place, **arguments)
    loop = runner.test_loop
    if pairs is not None:
        compare = loop.task.compare

        def note(sparse, dense):
            pairs.extend(
                (s.pred_sem_seg.data[0].numpy().copy(), d.pred_sem_seg.data[0].numpy().copy())
                for s, d in zip(sparse, dense, strict=True)
            )
            compare(sparse, dense)

        loop.task.compare = note
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner.test()
    return loop


def by_hand(found, truth):
    """Mean IoU, pixel and class accuracy of label maps, from their definitions."""
    found, truth = np.stack(found), np.stack(truth)
    counted = truth != 255
    found, truth = found[counted], truth[counted]
    ious, accuracies = [], []
    for label in range(len(tiny.CLASSES)):
        both = ((found == label) & (truth == label)).sum()
        either = ((found == label) | (truth == label)).sum()
        if either:
            ious.append(both / either)
        if (truth == label).any():
            accuracies.append(both / (truth == label).sum())
    return {
        "mIoU": pytest.approx(np.mean(ious), abs=6e-5),
        "aAcc": pytest.approx((found == truth).mean(), abs=6e-5),
        "mAcc": pytest.approx(np.mean(accuracies), abs=6e-5),
    }


def reduced(labels):
    """As the data set says: 0 is ignored, the classes count from 1."""
    return np.where(labels == 0, 255, labels.astype(int) - 1)


@pytest.fixture(scope="module")
def all_blocks(place):
    return run_test(place, policy="all")


def plain_labels(place):
    """Labels of each frame by the plain model, without a hook, a loop or a pipeline of ours."""
    from mmengine.config import Config
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS

    config = Config.fromfile(str(place[1]))
    config.model.pretrained = None
    with DefaultScope.overwrite_default_scope("mmseg"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MODELS.build(config.model).eval()
    model.load_state_dict(torch.load(config.load_from, weights_only=True)["state_dict"])
    labels = []
    for t in range(FRAMES):
        frame = torch.from_numpy(tiny.picture(t)[0]).permute(2, 0, 1)
        with torch.no_grad():
            inputs = model.data_preprocessor(dict(inputs=[frame], data_samples=None))["inputs"]
            labels.append(model(inputs, mode="predict")[0].pred_sem_seg.data[0].numpy())
    return labels


def test_all_blocks_are_the_dense_model(place, all_blocks):
    summary = all_blocks.summary
    assert summary["frames"] == FRAMES
    assert summary["size"] == list(tiny.SIZE)
    assert summary["executed_rate"] == 1.0
    assert summary["fidelity"] == {"mIoU": 1.0, "aAcc": 1.0}
    assert summary["macs_blockcopy"] == pytest.approx(summary["macs_dense"])
    json.dumps(summary, allow_nan=False)
    dense, sparse = summary["metrics"]["dense"], summary["metrics"]["blockcopy"]
    assert dense == sparse
    assert (dense["video/frames"], dense["video/annotated_frames"]) == (FRAMES, len(LABELLED))
    found = plain_labels(place)
    assert len(np.unique(found)) == 3
    truth = [reduced(tiny.picture(t)[1]) for t in LABELLED]
    wanted = by_hand([found[t] for t in LABELLED], truth)
    assert {name: dense[f"video/{name}"] for name in wanted} == wanted
    assert 0.02 < dense["video/mIoU"] < 0.9


def test_fidelity_is_measured_against_the_dense_labels(place):
    pairs = []
    policy = dict(type="RLPolicy", target=0.3, seed=0)
    summary = run_test(place, pairs, policy=policy).summary
    assert len(pairs) == FRAMES
    assert 0 < summary["executed_rate_after_first"] < 1
    wanted = by_hand(*zip(*pairs, strict=True))
    assert summary["fidelity"] == {name: wanted[name] for name in ("mIoU", "aAcc")}
    assert summary["fidelity"]["aAcc"] < 1
    truth = [reduced(tiny.picture(t)[1]) for t in LABELLED]
    for name, run in (("blockcopy", 0), ("dense", 1)):
        wanted = by_hand([pairs[t][run] for t in LABELLED], truth)
        found = summary["metrics"][name]
        assert {key: found[f"video/{key}"] for key in wanted} == wanted


def test_without_dense_runs_there_is_no_fidelity(place):
    summary = run_test(place, policy="none", dense=False, annotated=False).summary
    assert summary["fidelity"] is None and "not run dense" in summary["fidelity_reason"]
    assert summary["metrics"]["dense"] is None
    found = summary["metrics"]["blockcopy"]
    assert (found.pop("video/frames"), found.pop("video/annotated_frames")) == (7.0, 0.0)
    # Labels that stay where they are; needs no ground truth.
    assert found.pop("video/temporal_pairs") == FRAMES - 1
    assert 0.8 < found.pop("video/temporal_consistency") < 1
    assert 0.8 < found.pop("video/temporal_share") <= 1
    assert not found


def test_temporal_consistency_of_both_runs(place, monkeypatch):
    """From the labels of both runs and the flow of the frames, which is computed once a pair."""
    flows, estimate = [], optical_flow.estimate_flow

    def note(previous, present):
        flows.append((previous, present, estimate(previous, present)))
        return flows[-1][2]

    monkeypatch.setattr(optical_flow, "estimate_flow", note)
    pairs = []
    policy = dict(type="RLPolicy", target=0.3, seed=0)
    loop = run_test(place, pairs, policy=policy)
    assert len(flows) == FRAMES - 1
    for t, (previous, present, _) in enumerate(flows):
        for grey, number in ((previous, t), (present, t + 1)):
            wanted = cv2.cvtColor(tiny.picture(number)[0], cv2.COLOR_BGR2GRAY)
            np.testing.assert_array_equal(grey, wanted)
    rows, columns = np.indices(tiny.SIZE)
    for name, run in (("blockcopy", 0), ("dense", 1)):
        both, either = np.zeros(3), np.zeros(3)
        for t, (_, _, flow) in enumerate(flows):
            there = np.stack(
                [
                    np.floor(rows + flow.displacement[..., 1] + 0.5),
                    np.floor(columns + flow.displacement[..., 0] + 0.5),
                ]
            ).astype(int)
            inside = (there >= 0).all(0) & (there[0] < tiny.SIZE[0]) & (there[1] < tiny.SIZE[1])
            counted = flow.reliable & inside
            before = pairs[t][run][there[0][counted], there[1][counted]]
            now = pairs[t + 1][run][counted]
            for label in range(3):
                both[label] += ((before == label) & (now == label)).sum()
                either[label] += ((before == label) | (now == label)).sum()
        found = loop.summary["metrics"][name]
        assert found["video/temporal_consistency"] == pytest.approx((both / either).mean())
    dense, sparse = (loop.summary["metrics"][name] for name in ("dense", "blockcopy"))
    assert dense["video/temporal_consistency"] != sparse["video/temporal_consistency"]
    assert dense["video/temporal_share"] == sparse["video/temporal_share"]


def test_temporal_consistency_can_be_left_out_or_set(place):
    loop = make(place, temporal_consistency=False).test_loop
    (metric,) = loop.evaluators["dense"].metrics
    assert isinstance(metric, FrameSegmentationMetric)
    asked = dict(type="blockcopy_plugins.TemporalConsistencyMetric", width=64)
    loop = make(place, evaluator=[dict(type="IoUMetric"), asked]).test_loop
    assert loop.evaluators.keys() == {"dense", "blockcopy"}
    for evaluator in loop.evaluators.values():
        segmentation, consistency = evaluator.metrics
        assert isinstance(segmentation, FrameSegmentationMetric)
        assert isinstance(consistency, TemporalConsistencyMetric)
        assert consistency.flows.width == 64


def test_a_run_that_failed_does_not_spoil_the_next(place, monkeypatch):
    runner = make(place, policy="all")
    loop, forward, calls = runner.test_loop, type(runner.model).extract_feat, []

    def fail_once(self, x):
        calls.append(1)
        return 1 / 0 if len(calls) == 6 else forward(self, x)

    monkeypatch.setattr(type(runner.model), "extract_feat", fail_once)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ZeroDivisionError):
            runner.test()
        loop.run()
    assert loop.summary["frames"] == FRAMES
    assert loop.summary["fidelity"] == {"mIoU": 1.0, "aAcc": 1.0}


def test_the_metric_is_added_to_metrics_of_the_user(place):
    def edit(config):
        config.test_evaluator = []

    loop = run_test(place, policy="all", edit=edit)
    metric, consistency = loop.evaluators["dense"].metrics
    assert isinstance(metric, FrameSegmentationMetric)
    assert isinstance(consistency, TemporalConsistencyMetric)
    areas = [result.areas is not None for result in metric.last_results]
    assert areas == [t in LABELLED for t in range(FRAMES)]


def test_windows_are_refused(place):
    def edit(config):
        config.model.test_cfg = dict(mode="slide", crop_size=(64, 64), stride=(32, 32))

    with pytest.raises(ConfigError, match="mode='whole'"):
        run_test(place, edit=edit)


@pytest.mark.parametrize("first", [True, False])
def test_augmentation_is_refused(place, first):
    def edit(config):
        augment = dict(type="PrepareTTAHook", tta_cfg=dict(type="SegTTAModel"))
        hooks = list(config.custom_hooks)
        config.custom_hooks = [augment, *hooks] if first else [*hooks, augment]

    with pytest.raises(ConfigError, match="a SegTTAModel: test-time augmentation"):
        run_test(place, edit=edit)


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_a_wrapped_backbone_alone(place, all_blocks, mode):
    """MMSegmentation hands ``pretrained`` to the backbone; windows are refused here too."""

    def edit(config):
        config.model.backbone = dict(
            type="blockcopy_plugins.BlockCopyBackbone",
            backbone=config.model.backbone,
            block_size=32,
            policy="all",
        )
        config.model.test_cfg = dict(mode=mode, crop_size=(64, 64), stride=(32, 32))

    if mode == "slide":
        with pytest.raises(ConfigError, match="mode='whole'"):
            run_test(place, edit=edit)
        return
    loop = run_test(place, edit=edit)
    assert loop.runner.model.backbone.inner.init_cfg["checkpoint"].startswith("open-mmlab")
    assert loop.summary["fidelity"] == {"mIoU": 1.0, "aAcc": 1.0}
    assert loop.summary["metrics"]["dense"] == all_blocks.summary["metrics"]["dense"]


def test_policy_training_needs_no_labels_and_no_network(place, tmp_path):
    def edit(config):
        config.work_dir = str(tmp_path)

    runner = make(place, training=True, edit=edit, max_epochs=2)
    policy = find_hook(runner).policy
    before = {name: value.clone() for name, value in policy.net.state_dict().items()}
    runner.train()
    after = policy.net.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
    saved = torch.load(place[0] / "seg.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in runner.model.state_dict().items())
    gains = [v for v in runner.message_hub.log_scalars["train/information_gain"].data[0]]
    assert max(gains) > 0
