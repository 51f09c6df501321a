"""The loops through real Runners, on a tiny detector."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet")

from mmengine.runner import Runner  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import blockcopy_plugins as bc  # noqa: E402
from benchmarks.gpu import recording_backend as recording  # noqa: E402
from blockcopy_plugins.errors import ConfigError  # noqa: E402
from blockcopy_plugins.evaluation import (  # noqa: E402
    CityPersonsMetric,
    FrameDetectionMetric,
)
from blockcopy_plugins.integrations.common.comparison import summarise  # noqa: E402
from blockcopy_plugins.integrations.common.frame_entry import FrameEntry  # noqa: E402
from blockcopy_plugins.integrations.mmengine import (  # noqa: E402
    PolicyCurveHook,
    find_hook,
    load_policy,
    video_config,
    video_dataloader,
)
from blockcopy_plugins.policy import RLPolicy  # noqa: E402
from tests.test_tools import tiny_detector as tiny  # noqa: E402

FRAMES = 9


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loops")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = tiny.write_weights(folder)
    config = tiny.write_config(folder, weights)
    clip = tiny.write_clip(folder / "a.mp4", FRAMES, seed=1)
    return folder, config, str(clip)


def make(
    place, videos=None, policy=None, training=False, edit=None, ann=None, evaluator=None, **loop
):
    folder, path, clip = place
    config = video_config.read_config(str(path))
    if evaluator is not None:
        config.test_evaluator = evaluator
    video_config.set_options(config, policy=policy)
    loader = video_dataloader.video_dataloader(config, videos or [clip], ann)
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


def run_test(place, **arguments):
    runner = make(place, **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runner.test()
    return runner.test_loop


def results(loop, name="blockcopy"):
    return loop.evaluators[name].metrics[0].last_results


@pytest.fixture(scope="module")
def all_blocks(place):
    return run_test(place, policy="all")


def test_all_blocks_are_the_dense_model(all_blocks):
    summary = all_blocks.summary

    assert summary["frames"] == FRAMES
    assert summary["size"] == list(tiny.SIZE)
    assert summary["executed_rate"] == 1.0
    # With empty frames this would say nothing.
    assert all(len(result.predictions) >= 3 for result in results(all_blocks, "dense"))
    assert summary["fidelity"]["bbox_AP"] > 0.99
    assert summary["fidelity"]["segm_AP"] > 0.99
    assert summary["macs_blockcopy"] == pytest.approx(summary["macs_dense"])
    assert summary["macs_policy"] == 0
    json.dumps(summary, allow_nan=False)


def test_agreement_and_block_size_stand_in_the_results(place):
    def edit(config):
        config.custom_hooks[-1].block_size = "auto"

    loop = run_test(place, policy=dict(type="GainPolicy", target_fidelity=0.9), edit=edit)
    told = loop.summary["agreement"]
    assert loop.summary["block_size"] == 64
    assert told["target"] == 0.9 and 0 <= told["low"] <= told["mean"] <= told["high"] <= 1
    assert told["comparisons"] == loop.entries[-1].scalars["comparisons"] >= 1
    # Frames that ran on some blocks, and then whole: what is delivered is dense.
    twice = [i for i, entry in enumerate(loop.entries) if entry.executed_rate > 1]
    assert twice
    for index in twice:
        got, dense = (results(loop, name)[index].predictions for name in ("blockcopy", "dense"))
        assert len(got) == len(dense) >= 3
        torch.testing.assert_close(got.boxes, dense.boxes, atol=0.05, rtol=1e-3)
        torch.testing.assert_close(got.scores, dense.scores, atol=1e-3, rtol=1e-3)
    assert 0 <= told["compared_rate"] <= told["comparisons"] / (FRAMES - 1)
    json.dumps(loop.summary, allow_nan=False)


def test_dense_macs_are_those_of_torch(place, all_blocks):
    """Of each counted frame, against torch's counter on a model that was never converted."""
    counted = [e for e in all_blocks.entries if e.macs_outside_dense is not None]
    assert len(counted) == all_blocks.summary["mac_frames"] >= 3
    runner = make(place)
    runner.load_or_resume()
    model = runner.model.eval()
    batches = list(runner.test_dataloader)
    for entry in counted:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.test_step(batches[entry.frame_id])
        total = entry.macs_blocks_dense + entry.macs_densified + entry.macs_outside_dense
        assert total == counter.get_total_flops() // 2


def test_times_are_of_frames_without_a_counter(all_blocks):
    for index, entry in enumerate(all_blocks.entries):
        assert entry.timed == (index >= 3 and entry.macs_outside is None)
    timed = [e for e in all_blocks.entries if e.timed]
    assert all_blocks.summary["timing"]["frames"] == len(timed) > 0
    total = sum(e.ms_dense for e in timed), sum(e.ms_blockcopy for e in timed)
    assert all_blocks.summary["speedup"] == pytest.approx(total[0] / total[1])


def test_macs_of_a_backbone_whose_frames_are_graphs(place):
    """A counted frame runs without its graph, on the blocks that it would have had."""

    def edit(config):
        config.model.backbone = dict(
            type="blockcopy_plugins.BlockCopyBackbone",
            backbone=config.model.backbone,
            block_size=tiny.BLOCK,
            policy=dict(type="FrameDifferencePolicy", target=0.3),
        )
        # As many proposals and detections in each frame, so that all frames cost the same.
        config.model.test_cfg.rpn.nms.iou_threshold = 1.0
        config.model.test_cfg.rcnn.update(score_thr=0.0, nms=dict(type="nms", iou_threshold=1.0))

    loops, backends = [], []
    for samples in (8, 0):
        runner = make(place, edit=edit, dense=False, mac_samples=samples)
        backends.append(recording.with_graphs(runner.model.backbone.inner))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runner.test()
        loops.append(runner.test_loop)
        assert not bc.report(runner.model.backbone.inner).graphs.eager_calls
    with_counter, without = loops
    assert 0 < backends[0].replays < backends[1].replays
    rates = [entry.executed_rate for entry in with_counter.entries]
    assert rates == [entry.executed_rate for entry in without.entries]
    assert 0 < min(rates[1:]) and max(rates[1:]) < 1
    for first, second in zip(*map(results, loops), strict=True):
        assert np.allclose(first.predictions.boxes, second.predictions.boxes, atol=1e-3)

    def plain(config):
        edit(config)
        config.model.backbone = config.model.backbone.backbone

    runner = make(place, edit=plain)
    runner.load_or_resume()
    model = runner.model.eval()
    batches = list(runner.test_dataloader)
    counted = [entry for entry in with_counter.entries if entry.macs_outside is not None]
    assert len(counted) >= 3
    for entry in counted:
        with torch.no_grad(), FlopCounterMode(display=False) as whole:
            model.test_step(batches[entry.frame_id])
        with torch.no_grad(), FlopCounterMode(display=False) as backbone:
            model.backbone(torch.zeros(1, 3, *entry.size))
        wanted = whole.get_total_flops() // 2 - backbone.get_total_flops() // 2
        assert entry.macs_outside == wanted > 0


def test_dense_runs_leave_the_sparse_ones_alone(place):
    """State, policy and learning are the same whether frames also run dense or not."""
    with_dense, without = (run_test(place, dense=dense) for dense in (True, False))

    assert 0 < with_dense.summary["executed_rate_after_first"] < 1
    assert [e.executed_rate for e in with_dense.entries] == [
        e.executed_rate for e in without.entries
    ]
    for first, second in zip(results(with_dense), results(without), strict=True):
        assert (first.predictions.boxes == second.predictions.boxes).all()
        assert (first.predictions.scores == second.predictions.scores).all()
    assert without.summary["fidelity"] is None
    assert "not run dense" in without.summary["fidelity_reason"]
    assert without.summary["ms_dense"] is None and without.summary["speedup"] is None
    assert without.summary["macs_dense"] > without.summary["macs_blockcopy"]


@pytest.mark.parametrize("restart", [True, False])
def test_each_video_starts_with_the_first_policy(place, restart):
    clip = place[2]
    # No seed: the runs of the two streams can only be equal where the policy starts again.
    policy = dict(type="RLPolicy", target=0.5)
    loop = run_test(
        place,
        videos=[clip, clip],
        policy=policy,
        dense=False,
        restart_policy=restart,
        mac_samples=0,
    )

    rates = [[e.executed_rate for e in loop.entries if e.video_id == v] for v in (0, 1)]
    assert rates[0][0] == rates[1][0] == 1.0
    assert (rates[0] == rates[1]) == restart


def test_a_runner_without_the_hook_is_told_what_to_add(place):
    runner = make(place, edit=lambda config: config.update(custom_hooks=[]))

    with pytest.raises(ConfigError, match="custom_hooks"):
        runner.test()


def test_restarting_needs_single_images(place):
    def edit(config):
        config.test_dataloader.batch_size = 2
        config.test_dataloader.batch_sampler = dict(type="blockcopy_plugins.VideoBatchSampler")

    clip = place[2]
    with pytest.raises(ConfigError, match="restart_policy=False"):
        run_test(place, videos=[clip, clip], edit=edit)

    loop = run_test(place, videos=[clip, clip], policy="all", edit=edit, restart_policy=False)
    assert loop.summary["frames"] == 2 * FRAMES
    assert loop.summary["fidelity"]["bbox_AP"] > 0.99


def test_miss_rates_of_both_runs(place):
    """A config's own metric of frames is kept; one that needs its data set's files is not."""
    truth = tiny.write_coco(place[0] / "a.json", "a", FRAMES)  # a square of 32 px
    evaluator = [
        dict(type="CocoMetric", ann_file="nowhere/missing.json"),
        dict(type="blockcopy_plugins.CityPersonsMetric", pedestrian_classes="thing"),
    ]
    loop = run_test(place, policy="all", ann=[str(truth)], evaluator=evaluator)

    (metric,) = loop.evaluators["dense"].metrics
    assert isinstance(metric, CityPersonsMetric)
    dense, sparse = (loop.summary["metrics"][name] for name in ("dense", "blockcopy"))
    assert sparse == dense
    assert dense["video/annotated_frames"] == FRAMES and "video/bbox_AP50" in dense
    # Too small for the other subsets.
    assert [dense[f"video/MR_{name}"] for name in ("Reasonable", "Reasonable_small", "Heavy")] == [
        None
    ] * 3
    frames = [(r.ground_truth, r.predictions) for r in metric.last_results]
    hits = sum(_overlaps(t.boxes[0], p.boxes).any() for t, p in frames)
    assert dense["video/MR_All"] >= 1 - hits / FRAMES
    assert (dense["video/MR_All"] < 1) or not hits


def _overlaps(box, boxes):
    """Which boxes have an intersection over union of at least a half with the first."""
    shared = np.clip(
        np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]), 0, None
    ).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return 2 * shared >= (box[2:] - box[:2]).prod() + areas - shared


def test_a_metric_of_frames_is_added_where_none_is_asked_for(place):
    (metric,) = make(place).test_loop.evaluators["dense"].metrics
    assert type(metric) is FrameDetectionMetric


def entry(frame_id, rate, ms=(10.0, 5.0), timed=True, outside=None):
    return FrameEntry(
        video_id=0,
        frame_id=frame_id,
        video_name="v",
        size=(64, 96),
        grid=(2, 3),
        executed_rate=rate,
        macs_blocks=rate * 100,
        macs_blocks_dense=100.0,
        macs_densified=7.0,
        macs_outside=outside,
        macs_outside_dense=None if outside is None else outside + 1,
        ms_dense=ms[0],
        ms_blockcopy=ms[1],
        ms_policy=1.0,
        timed=timed,
    )


def test_summary_of_known_frames():
    found = summarise(
        [
            entry(2, 0.5, (12.0, 4.0)),
            entry(0, 1.0, (99.0, 99.0), timed=False),
            entry(1, 0.0, timed=False, outside=20.0),
            entry(3, 0.5, (8.0, 6.0), outside=None),
        ]
    )

    assert found["executed_rate"] == 0.5
    assert found["executed_rate_after_first"] == pytest.approx(1 / 3)
    assert found["macs_blockcopy"] == 50 + 7 + 20
    assert found["macs_dense"] == 100 + 7 + 21
    assert (found["ms_dense"], found["ms_blockcopy"], found["speedup"]) == (10.0, 5.0, 2.0)
    assert found["size"] == [64, 96]
    assert found["mac_frames"] == 1


def test_policy_training_changes_the_policy_alone(place, tmp_path):
    def edit(config):
        config.work_dir = str(tmp_path)
        config.default_hooks["logger"] = dict(type="LoggerHook", interval=4)
        config.custom_hooks = [
            *config.custom_hooks,
            dict(type="blockcopy_plugins.PolicyCheckpointHook", keep_epochs=True),
            dict(type="blockcopy_plugins.PolicyCurveHook"),
        ]

    runner = make(place, training=True, edit=edit, max_epochs=2)
    policy = find_hook(runner).policy
    before = {name: value.clone() for name, value in policy.net.state_dict().items()}
    runner.train()

    saved = torch.load(place[0] / "tiny.pth", weights_only=True)["state_dict"]
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, saved[name]), name
    after = policy.net.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in after.items())
    assert policy.updates >= 3
    assert runner.iter == 2 * FRAMES and runner.epoch == 2

    logged = runner.message_hub.log_scalars
    assert len(logged["train/executed_rate"].data[0]) == 2 * FRAMES
    assert {"train/information_gain", "train/reward", "train/loss"} <= set(logged)
    curve = next(hook for hook in runner.hooks if isinstance(hook, PolicyCurveHook))
    rates = [record["executed_rate"] for record in curve.records]
    assert rates[0] == rates[FRAMES] == 1.0 and min(rates) < 1

    # The policy alone, complete, and of a use without the Runner.
    assert not list(tmp_path.glob("**/epoch_*.pth")) and not list(tmp_path.glob("last_checkpoint"))
    assert (tmp_path / "policy_epoch_1.pth").is_file()
    assert (tmp_path / "policy.pth").stat().st_size < 2_000_000
    loaded = RLPolicy(target=0.3)
    load_policy(loaded, tmp_path / "policy.pth")
    for name, value in loaded.net.state_dict().items():
        assert torch.equal(value, policy.net.state_dict()[name])
    log = json.loads((tmp_path / "policy_log.json").read_text())
    assert len(log["frames"]) == 2 * FRAMES
    assert (tmp_path / "policy_curve.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("policy", "words"),
    [("all", "learns nothing"), (dict(type="RLPolicy", online=False), "online=True")],
)
def test_a_policy_that_does_not_learn_is_refused(place, policy, words):
    runner = make(place, training=True, policy=policy)

    with pytest.raises(ConfigError, match=words):
        runner.train()


def test_a_model_that_is_trained_itself_is_left_alone(place):
    """The hook in an ordinary training run: it converts for testing only."""
    hook = find_hook(make(place))

    hook.before_train_iter(None, 0, {"data_samples": []})
    hook.after_train_iter(None, 0, {"data_samples": []}, {})


LOAD, RESIZE = (
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=tiny.SIZE[::-1], keep_ratio=True),
)
KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
FAULTY = {
    "packs nothing": ([LOAD, RESIZE], "end with PackDetInputs"),
    "loads nothing": ([dict(type="PackDetInputs", meta_keys=("img_id",))], "begin with LoadImage"),
    "augments": (
        [
            LOAD,
            dict(
                type="TestTimeAug",
                transforms=[[RESIZE], [dict(type="PackDetInputs", meta_keys=KEYS)]],
            ),
        ],
        "test-time augmentation",
    ),
    "keeps no sizes": (
        [LOAD, RESIZE, dict(type="PackDetInputs", meta_keys=("img_id",))],
        "img_shape.*into meta_keys",
    ),
    "resizes nothing": ([LOAD, dict(type="PackDetInputs", meta_keys=KEYS[:4])], "a Resize before"),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", list(FAULTY))
def test_a_pipeline_that_does_not_fit_the_model_says_what_to_put_into_it(place, name, training):
    pipeline, wanted = FAULTY[name]

    def edit(config):
        part = config.train_dataloader if training else config.test_dataloader
        part.dataset.pipeline = pipeline

    with pytest.raises(ConfigError, match=wanted):
        runner = make(place, training=training, edit=edit)
        runner.train() if training else runner.test()


def test_an_error_of_the_models_own_is_not_taken_for_one_of_the_pipeline(place):
    def fail(*args, **kwargs):
        raise KeyError("weights of a class")

    runner = make(place)
    runner.model.rpn_head.predict = fail
    with pytest.raises(KeyError, match="weights of a class"):
        runner.test()
