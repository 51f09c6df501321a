"""Configs with clips of their own: the policy is warmed up and evaluated in one command."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from blockcopy_plugins.errors import ConfigError  # noqa: E402
from blockcopy_plugins.integrations.mmengine import video_config, video_dataloader  # noqa: E402
from examples.tiny_cityscapes import make_tiny_cityscapes  # noqa: E402
from tests.tool_process import run_tool  # noqa: E402

_HERE = Path(__file__).resolve().parent
CONFIGS = _HERE.parents[1] / "configs"
TOOLS = _HERE.parents[1] / "tools"
FRAMES = 6

_CLIPS = """
_base_ = {base!r}
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(192, 96), keep_ratio=True),
    {pack}]
clips = dict(type={kind!r}, data_root={root!r}, clip=(-5, 0), pipeline=pipeline)
test_dataloader = dict(dataset=dict(_delete_=True, split='val', **clips))
test_evaluator = dict(_delete_=True, type={metric!r})
policy_warm_up = dict(dataset=dict(split='train', labels=False, seed=0, **clips))
test_cfg = dict(type='blockcopy_plugins.BlockCopyTestLoop', restart_policy=False, warmup=1)
"""
_PACK_BOXES = (
    "dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor'))"
)
_PACK_LABELS = "dict(type='LoadAnnotations'), dict(type='PackSegInputs')"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("warm_up")
    root = make_tiny_cityscapes(
        folder / "cityscapes",
        clips={"train": 2, "val": 2},
        size=(96, 192),
        frames=(FRAMES - 1, 0),
        overview=False,
    )
    for name, tiny, kind, metric, pack in (
        ("boxes", "tiny_detector", "CityPersonsVideoDataset", "CityPersonsMetric", _PACK_BOXES),
        (
            "labels",
            "tiny_segmentor",
            "CityscapesVideoDataset",
            "FrameSegmentationMetric",
            _PACK_LABELS,
        ),
    ):
        tiny = importlib.import_module(f"tests.test_tools.{tiny}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weights = tiny.write_weights(folder)
        base = tiny.write_config(folder, weights, f"{name}_base.py")
        text = _CLIPS.format(
            base=str(base),
            root=str(root),
            kind=f"blockcopy_plugins.{kind}",
            metric=f"blockcopy_plugins.{metric}",
            pack=pack,
        )
        (folder / f"{name}.py").write_text(text)
    return folder


def tool(folder, name, *arguments):
    """Run a tool in another folder than the clone's, on one thread."""
    return run_tool([TOOLS / name, *arguments], folder)


def results_of(folder):
    results = json.loads((folder / "results.json").read_text())
    lines = (folder / "results_frames.jsonl").read_text().splitlines()
    return results, [json.loads(line) for line in lines]


def learned(path):
    """What is in a policy file, as numbers that can be compared."""
    saved = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return {k: v for k, v in _flat(saved).items() if not k.startswith("/generator")}


def _flat(value, name=""):
    if isinstance(value, dict):
        return {
            k: v for key, item in value.items() for k, v in _flat(item, f"{name}/{key}").items()
        }
    if isinstance(value, (list, tuple)):
        return _flat(dict(enumerate(value)), name)
    return {name: value.tolist() if isinstance(value, torch.Tensor) else value}


def decisions(frames, video):
    return [(f["executed_rate"], f["scalars"]) for f in frames if f["video_id"] == video]


@pytest.fixture(scope="module")
def detector(place):
    """The one command, on a detector of pedestrians."""
    done = tool(place, "test_video.py", "boxes.py", "--work-dir", "boxes")
    assert done.returncode == 0, done.stderr
    return done, *results_of(place / "boxes")


def test_one_command_warms_up_and_evaluates(place, detector):
    done, results, frames = detector
    assert results["policy_warm_up"] == {
        "clips": 2,
        "frames": 2 * FRAMES,
        "file": "warm_up/policy.pth",
    }
    assert results["policy_file"] == "policy.pth" and results["policy_over_videos"] == "carried"
    assert results["frames"] == 2 * FRAMES == len(frames)
    assert [video["name"] for video in results["videos"]] == [
        "frankfurt_000000_000294",
        "munster_000000_000019",
    ]
    assert results["timing"]["frames"] > 0
    # The first frame of each clip is executed fully.
    assert [f["executed_rate"] for f in frames if f["frame_id"] == 0] == [1, 1]
    for run in ("dense", "blockcopy"):
        metrics = results["metrics"][run]
        assert metrics["video/annotated_frames"] == 2
        assert "video/bbox_AP50" in metrics and "video/MR_Reasonable" in metrics
    assert "warmed up on 2 clips, 12 frames" in done.stdout
    assert "MR^-2 Reasonable, lower is better" in done.stdout
    log = json.loads((place / "boxes/warm_up/policy_log.json").read_text())
    assert len(log["frames"]) == 2 * FRAMES
    assert (place / "boxes/warm_up/policy_curve.png").stat().st_size > 0


@pytest.mark.slow
def test_the_evaluation_starts_with_what_was_learned(place, detector):
    _, results, frames = detector
    policy = place / "boxes/warm_up/policy.pth"
    again = tool(
        place, "test_video.py", "boxes.py", "--policy-checkpoint", policy, "--work-dir", "again"
    )
    assert again.returncode == 0, again.stderr
    given, given_frames = results_of(place / "again")
    assert given["policy_warm_up"] is None and given["policy_file"] == "policy.pth"
    assert given["metrics"] == results["metrics"]
    for video in range(2):
        assert decisions(given_frames, video) == decisions(frames, video)
    # One that has learned nothing does something else.
    cold = tool(place, "test_video.py", "boxes.py", "--warm-up-clips", "0", "--work-dir", "cold")
    assert cold.returncode == 0, cold.stderr
    cold_results, cold_frames = results_of(place / "cold")
    assert cold_results["policy_warm_up"] is None and cold_results["policy_file"] is None
    assert not (place / "cold/warm_up").exists()
    assert decisions(cold_frames, 0) != decisions(frames, 0)


@pytest.mark.slow
def test_training_a_policy_without_videos_is_the_warm_up(place, detector):
    done = tool(place, "train_policy.py", "boxes.py", "--work-dir", "trained")
    assert done.returncode == 0, done.stderr
    assert learned(place / "trained/policy.pth") == learned(place / "boxes/warm_up/policy.pth")
    fewer = tool(place, "train_policy.py", "boxes.py", "--clips", "1", "--work-dir", "fewer")
    assert fewer.returncode == 0, fewer.stderr
    log = json.loads((place / "fewer/policy_log.json").read_text())
    assert len(log["frames"]) == FRAMES
    assert learned(place / "fewer/policy.pth") != learned(place / "boxes/warm_up/policy.pth")


@pytest.mark.slow
def test_a_segmentor_and_whether_the_policy_is_carried(place):
    done = tool(place, "test_video.py", "labels.py", "--warm-up-clips", "1", "--work-dir", "seg")
    assert done.returncode == 0, done.stderr
    results, frames = results_of(place / "seg")
    assert results["policy_warm_up"]["clips"] == 1
    assert results["policy_warm_up"]["frames"] == FRAMES
    metrics = results["metrics"]["blockcopy"]
    assert metrics["video/annotated_frames"] == 2 and 0 <= metrics["video/mIoU"] <= 1
    assert "temporal consistency" in done.stdout
    policy = ("--policy-checkpoint", place / "seg/warm_up/policy.pth", "--no-carry-policy")
    restarted = tool(place, "test_video.py", "labels.py", *policy, "--work-dir", "restarted")
    assert restarted.returncode == 0, restarted.stderr
    restarted_results, restarted_frames = results_of(place / "restarted")
    assert restarted_results["policy_over_videos"] == "restarted"
    assert decisions(restarted_frames, 0) == decisions(frames, 0)
    assert decisions(restarted_frames, 1) != decisions(frames, 1)
    alone = tool(
        place,
        "test_video.py",
        "labels.py",
        *policy,
        *("--no-temporal-consistency", "--work-dir", "alone"),
        *("--cfg-options", "test_dataloader.dataset.cities=['munster']"),
    )
    assert alone.returncode == 0, alone.stderr
    alone_results, alone_frames = results_of(place / "alone")
    assert decisions(alone_frames, 0) == decisions(restarted_frames, 1)
    assert "video/temporal_consistency" not in alone_results["metrics"]["blockcopy"]


@pytest.mark.slow
def test_fewer_clips_and_a_policy_that_does_not_learn(place):
    done = tool(
        place,
        "test_video.py",
        "boxes.py",
        *("--clips", "1", "--policy", "all", "--work-dir", "few", "--show-dir", "shown"),
    )
    assert done.returncode == 0, done.stderr
    results, _ = results_of(place / "few")
    assert results["frames"] == FRAMES and results["policy_warm_up"] is None
    assert "does not learn, so it is not warmed up" in done.stderr
    assert (place / "shown/frankfurt_000000_000294_blockcopy.mp4").stat().st_size > 0


def test_missing_clips_are_said_before_the_warm_up(place, tmp_path):
    make_tiny_cityscapes(
        tmp_path / "half", clips={"train": 1}, size=(32, 64), frames=(5, 0), overview=False
    )
    done = tool(
        place, "test_video.py", "boxes.py", "--data-root", tmp_path / "half", "--work-dir", "none"
    )
    assert done.returncode == 2
    assert "gtBboxCityPersons" in done.stderr and "contains no val, only train" in done.stderr
    assert "Traceback" not in done.stderr and not (place / "none").exists()


# ------------------------------------------------------------------------------------- in process


def config_of(place, name="boxes.py", **options):
    return video_config.read_config(str(place / name), options or None)


def test_warm_up_needs_to_be_said_of_what(place):
    config = config_of(place)
    config.policy_warm_up = None
    assert video_dataloader.warm_up_dataloader(config) is None
    assert video_dataloader.warm_up_dataloader(config, 0) is None
    with pytest.raises(ConfigError, match="3 clips of warm-up are asked for"):
        video_dataloader.warm_up_dataloader(config, 3)
    config.policy_warm_up = dict(videos="a.mp4")
    with pytest.raises(ConfigError, match=r"keys \['videos'\], expected dataset"):
        video_dataloader.warm_up_dataloader(config)


def test_number_of_clips(place):
    config = config_of(place)
    assert "clips" not in video_dataloader.warm_up_dataloader(config)["dataset"]
    assert video_dataloader.warm_up_dataloader(config, 7)["dataset"]["clips"] == 7
    assert video_dataloader.warm_up_dataloader(config, 0) is None
    assert video_dataloader.video_dataloader(config, clips=2)["dataset"]["clips"] == 2
    for call in (video_dataloader.warm_up_dataloader, video_dataloader.video_dataloader):
        with pytest.raises(ConfigError, match="expected at least 1"):
            call(config, clips=-1)
    with pytest.raises(ConfigError, match="--clips N takes N clips of a data set of clips"):
        video_dataloader.video_dataloader(config, ["a.mp4"], clips=2)
    with pytest.raises(ConfigError, match="--ann is the ground truth of --video"):
        video_dataloader.video_dataloader(config, ann_file=["a.json"])


def test_a_video_in_place_of_the_clips(place):
    config = config_of(place, "labels.py")
    dataset = video_dataloader.video_dataloader(config, [str(place)])["dataset"]
    assert dataset["type"] == "blockcopy_plugins.VideoFrameDataset"
    assert not {"data_root", "split", "clip", "task"} & set(dataset)
    assert len(dataset["metainfo"]["classes"]) == 19
    config.test_dataloader.dataset.task = "instance"
    dataset = video_dataloader.video_dataloader(config, [str(place)])["dataset"]
    assert dataset["metainfo"]["classes"][-1] == "bicycle"
    assert len(dataset["metainfo"]["classes"]) == 8


def test_the_loop_of_the_config_and_its_metrics_stay(place):
    config = config_of(place)
    loader = video_dataloader.video_dataloader(config)
    video_config.for_testing(config, loader, dense=False, restart_policy=None)
    assert config.test_cfg == dict(
        type="blockcopy_plugins.BlockCopyTestLoop", restart_policy=False, warmup=1, dense=False
    )
    assert config.test_evaluator.type == "blockcopy_plugins.CityPersonsMetric"
    config = config_of(place)
    video_config.for_testing(config, loader, restart_policy=True)
    assert config.test_cfg.restart_policy is True
    config = config_of(place)
    config.test_cfg = dict(type="TestLoop", fp16=True)
    video_config.for_testing(config, loader)
    assert config.test_cfg == dict(type="blockcopy_plugins.BlockCopyTestLoop")


def test_a_data_root_for_both(place):
    config = config_of(place)
    video_dataloader.set_data_root(config, "elsewhere")
    assert config.test_dataloader.dataset.data_root == "elsewhere"
    assert config.policy_warm_up.dataset.data_root == "elsewhere"
    del config.test_dataloader.dataset["data_root"]
    with pytest.raises(ConfigError, match="no data_root that --data-root could change"):
        video_dataloader.set_data_root(config, "elsewhere")


@pytest.mark.parametrize(
    ("policy", "learns"),
    [
        (dict(type="RLPolicy", target=0.3), True),
        (dict(type="RLPolicy", target=0.3, online=False), False),
        ("all", False),
    ],
)
def test_which_policies_learn(place, policy, learns):
    config = config_of(place)
    video_config.set_options(config, policy=policy)
    assert video_config.policy_learns(config) is learns


# The paper's settings: target, frames between two updates, clips of warm-up.
@pytest.mark.parametrize(
    ("name", "target", "update_every", "clips", "dataset", "metric"),
    [
        ("csp_blockcopy", 0.3, 4, 400, "CityPersonsVideoDataset", "CityPersonsMetric"),
        ("mgan_blockcopy", 0.3, 4, 400, "CityPersonsVideoDataset", "CityPersonsMetric"),
        (
            "cityscapes/maskrcnn_blockcopy",
            *(0.3, 4, 400, "CityscapesVideoDataset", "FrameDetectionMetric"),
        ),
        (
            "swiftnet_r18_blockcopy",
            *(0.5, 3, 500, "CityscapesVideoDataset", "FrameSegmentationMetric"),
        ),
        (
            "swiftnet_r50_blockcopy",
            *(0.5, 3, 500, "CityscapesVideoDataset", "FrameSegmentationMetric"),
        ),
        (
            "cityscapes/deeplabv3plus_blockcopy",
            *(0.5, 3, 500, "CityscapesVideoDataset", "FrameSegmentationMetric"),
        ),
    ],
)
def test_the_papers_protocol_is_in_the_configs(name, target, update_every, clips, dataset, metric):
    config = video_config.read_config(str(CONFIGS / f"{name}.py"))
    hook = video_config.hook_of(config)
    assert hook.block_size == 128
    assert (hook.policy.target, hook.policy.update_every) == (target, update_every)
    tested = video_dataloader.video_dataloader(config)["dataset"]
    warm_up = video_dataloader.warm_up_dataloader(config)["dataset"]
    assert tested["type"] == warm_up["type"] == f"blockcopy_plugins.{dataset}"
    assert (tested["split"], warm_up["split"]) == ("val", "train")
    assert "clips" not in tested and warm_up["clips"] == clips
    assert warm_up["labels"] is False
    resize = next(step for step in tested["pipeline"] if step["type"] == "Resize")
    assert resize["scale"] == (2048, 1024)
    video_config.for_testing(config, dict(dataset=tested), restart_policy=None)
    assert config.test_cfg.restart_policy is False
    assert config.test_evaluator.type == f"blockcopy_plugins.{metric}"
