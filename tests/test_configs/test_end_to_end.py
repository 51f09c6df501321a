"""Every config's full path on the look-alike: clips, warm-up of the policy, evaluation, results.

By the real tool in real processes, with random weights. Models are narrow here (a config's own
widths are run by the tests marked weekly), frames 256x512, clips short. What the figures have to be
for a model that is right is checked in test_ground_truth.py.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import pytest
import torch

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402

from tests.tool_process import run_tool  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 4
CLIPS = 2

BOXES = {"video/bbox_AP", "video/bbox_AP50"}
MASKS = {"video/segm_AP", "video/segm_AP50"}
RATES = {f"video/MR_{name}" for name in ("Reasonable", "Reasonable_small", "Heavy", "All")}
LABELS = {"video/mIoU", "video/mAcc", "video/aAcc", "video/temporal_consistency"}


@dataclass(frozen=True)
class Case:
    """A config, and how it is run.

    Args:
        config: Its path in configs/.
        metrics: What results.json has to have.
        target: The paper's executed rate.
        narrow: Options that make the model a small one.
        few: Options that leave fewer boxes to look at, for any width.
        biases: Parameters that are set, so that random weights find something.
        dense_ops: Modules that need the whole map, by the paper's networks: pooled over the image.
        with_all: Whether all blocks are run too, in tests that are not weekly ones.
    """

    config: str
    metrics: set[str]
    target: float
    narrow: dict = field(default_factory=dict)
    few: dict = field(default_factory=dict)
    biases: dict = field(default_factory=dict)
    dense_ops: frozenset = frozenset()
    with_all: bool = False


_CHANNELS_OF_FPN = (
    "model.neck.out_channels",
    "model.rpn_head.in_channels",
    "model.rpn_head.feat_channels",
    *(f"model.roi_head.{part}_roi_extractor.out_channels" for part in ("bbox", "mask")),
    *(f"model.roi_head.{part}_head.in_channels" for part in ("bbox", "mask")),
    "model.roi_head.mask_head.conv_out_channels",
)
CASES = {
    "csp": Case(
        "csp_blockcopy.py",
        BOXES | RATES,
        0.3,
        {
            "model.backbone.depth": 18,
            "model.backbone.base_channels": 32,
            "model.neck.in_channels": [64, 128, 256],
            "model.neck.out_channels": 16,
            "model.bbox_head.in_channels": 48,
            "model.bbox_head.feat_channels": 32,  # a multiple of the groups of its norm
        },
        # Boxes of some 60 px.
        biases={"bbox_head.center_pred.bias": 0.0, "bbox_head.scale_pred.bias": math.log(15)},
        with_all=True,
    ),
    "mgan": Case(
        "mgan_blockcopy.py",
        BOXES | RATES,
        0.3,
        {
            "model.backbone.base_channels": 16,
            "model.rpn_head.in_channels": 128,
            "model.rpn_head.feat_channels": 128,
            "model.roi_head.bbox_roi_extractor.out_channels": 128,
            "model.roi_head.mgan_head.in_channels": 128,
            "model.roi_head.mgan_head.conv_out_channels": 128,
            "model.roi_head.bbox_head.in_channels": 128,
            "model.roi_head.bbox_head.fc_out_channels": 128,
        },
        {"model.test_cfg.rpn.max_per_img": 50},
    ),
    "swiftnet_r18": Case(
        "swiftnet_r18_blockcopy.py",
        LABELS,
        0.5,
        {
            "model.backbone.stem_channels": 32,
            "model.backbone.base_channels": 32,
            "model.neck.in_channels": [32, 64, 128, 256],
            "model.neck.channels": 64,
            "model.decode_head.in_channels": 64,
        },
        dense_ops=frozenset({"neck.spp"}),
        with_all=True,
    ),
    "swiftnet_r50": Case(
        "swiftnet_r50_blockcopy.py", LABELS, 0.5, dense_ops=frozenset({"neck.spp"})
    ),
    "maskrcnn": Case(
        "cityscapes/maskrcnn_blockcopy.py",
        BOXES | MASKS,
        0.3,
        {
            "model.backbone.depth": 18,
            "model.neck.in_channels": [64, 128, 256, 512],
            **dict.fromkeys(_CHANNELS_OF_FPN, 64),
            "model.roi_head.bbox_head.fc_out_channels": 128,
        },
        {"model.test_cfg.rpn.max_per_img": 50, "model.test_cfg.rcnn.max_per_img": 20},
        # Persons, of 8 classes and the background.
        {"roi_head.bbox_head.fc_cls.bias": [3.0, *[0.0] * 8]},
    ),
    "deeplabv3plus": Case(
        "cityscapes/deeplabv3plus_blockcopy.py",
        LABELS,
        0.5,
        {
            "model.backbone.depth": 18,
            "model.decode_head.in_channels": 512,
            "model.decode_head.c1_in_channels": 64,
            "model.decode_head.channels": 64,
            "model.auxiliary_head.in_channels": 256,
        },
    ),
}


def write_weights(case, options, root, path):
    config = Config.fromfile(ROOT / "configs" / case.config)
    config.merge_from_dict(options)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(config.model).eval()
    weights = model.state_dict()
    for name, value in case.biases.items():
        weights[name].copy_(torch.as_tensor(value))
    if "decode_head.conv_seg.bias" in weights:
        # Random features have one class that wins everywhere; none does if their means are equal.
        frame = next((root / "leftImg8bit/val").rglob("*.png"))
        image = torch.from_numpy(cv2.imread(str(frame))).permute(2, 0, 1)
        with torch.no_grad():
            data = model.data_preprocessor({"inputs": [image]}, False)
            logits = model(data["inputs"])
        weights["decode_head.conv_seg.bias"].sub_(logits.mean((0, 2, 3)))
    torch.save({"state_dict": weights}, path)


@dataclass(frozen=True)
class Run:
    """What the tool said and wrote."""

    words: str
    results: dict
    frames: list[dict]


def run(folder, case, options, root, name, *arguments):
    options = {
        **options,
        "custom_hooks.0.block_size": 64,
        "custom_hooks.0.policy.seed": 0,
    }
    for dataset in ("test_dataloader.dataset", "policy_warm_up.dataset"):
        options[f"{dataset}.data_root"] = str(root)
        options[f"{dataset}.clip"] = (1 - FRAMES, 0)
        options[f"{dataset}.pipeline.1.scale"] = (512, 256)
    command = [ROOT / "tools/test_video.py", ROOT / "configs" / case.config]
    command += ["weights.pth", "--out", f"{name}.json", "--work-dir", f"work_{name}", *arguments]
    command += ["--cfg-options", *(f"{key}={value!r}" for key, value in options.items())]
    done = run_tool(command, folder, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]

    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    lines = (folder / f"{name}_frames.jsonl").read_text().splitlines()
    return Run(
        done.stdout,
        json.loads((folder / f"{name}.json").read_text(), parse_constant=refuse),
        [json.loads(line, parse_constant=refuse) for line in lines],
    )


def check_results(case, run):
    results = run.results
    assert results["frames"] == CLIPS * FRAMES
    assert results["size"] == [256, 512] and results["block_size"] == 64
    names = ["frankfurt_000000_000294", "munster_000000_000019"]
    assert [video["name"] for video in results["videos"]] == names
    for name in ("dense", "blockcopy"):
        metrics = results["metrics"][name]
        assert case.metrics <= set(metrics)
        assert metrics["video/frames"] == CLIPS * FRAMES
        assert metrics["video/annotated_frames"] == CLIPS
        for metric in case.metrics:
            assert metrics[metric] is not None and 0 <= metrics[metric] <= 1, metric
    assert results["macs_dense"] > 1e9 and results["macs_blockcopy"] > 0
    assert results["ms_dense"] > 0 and results["ms_blockcopy"] > 0
    fidelity = {k: v for k, v in results["fidelity"].items() if k != "score_threshold"}
    expected = {name.rpartition("/")[2] for name in case.metrics & (BOXES | MASKS)}
    assert set(fidelity) >= (expected or {"mIoU", "aAcc"})
    assert all(0 <= fidelity[name] <= 1 for name in expected or ("mIoU", "aAcc"))


def check_learned(case, run, folder):
    results = run.results
    check_results(case, run)
    # The paper's protocol: warmed up on clips of train, and learning on from clip to clip.
    assert (results["policy"], results["target"]) == ("RLPolicy", case.target)
    warm_up = {"clips": CLIPS, "frames": CLIPS * FRAMES, "file": "warm_up/policy.pth"}
    assert results["policy_warm_up"] == warm_up
    assert results["policy_over_videos"] == "carried"
    assert f"warmed up on {CLIPS} clips" in run.words
    log = json.loads((folder / "work_learned/warm_up/policy_log.json").read_text())
    assert len(log["frames"]) == CLIPS * FRAMES
    assert any(frame.get("information_gain", 0) > 0 for frame in log["frames"])
    assert any(frame.get("loss") is not None for frame in log["frames"])
    # Each clip begins with a whole frame, and goes on with some of the blocks.
    rates = [frame["executed_rate"] for frame in run.frames]
    assert [frame["frame_id"] for frame in run.frames] == CLIPS * list(range(FRAMES))
    for first in range(0, CLIPS * FRAMES, FRAMES):
        assert rates[first] == 1.0
        assert any(rate < 1 for rate in rates[first + 1 : first + FRAMES])
    # Blocks that are not executed cost nothing. CSP's transposed convolution of stride 2, 6 % of
    # its MACs, reads a ring around blocks that are 8 pixels wide there: 100 for 64.
    for frame in run.frames:
        share = frame["macs_blocks"] / frame["macs_blocks_dense"]
        assert share == pytest.approx(frame["executed_rate"], rel=0.05, abs=0.005)
    assert results["executed_rate"] == pytest.approx(sum(rates) / len(rates))
    assert 0.05 < results["executed_rate_after_first"] < 0.95
    assert results["macs_blockcopy"] < results["macs_dense"]
    assert {op["path"] for op in results["dense_ops"]} == case.dense_ops


def check_all(case, run, learned):
    results = run.results
    check_results(case, run)
    assert results["policy_warm_up"] is None
    assert all(frame["executed_rate"] == 1.0 for frame in run.frames)
    # But for rounding, which turns a label of a pixel or two.
    assert results["metrics"]["dense"] == pytest.approx(results["metrics"]["blockcopy"], abs=2e-4)
    fidelity = [v for k, v in results["fidelity"].items() if k != "score_threshold"]
    # MGAN's random scores are all but ties, which rounding puts in another order.
    if case.config != "mgan_blockcopy.py":
        assert fidelity and all(value == pytest.approx(1.0, abs=1e-3) for value in fidelity)
    # The dense model knows nothing of policies.
    assert results["metrics"]["dense"] == learned.results["metrics"]["dense"]
    assert results["macs_dense"] == learned.results["macs_dense"]


def check(case, options, root, folder, with_all):
    """The config as it is and, if asked for, with all blocks executed."""
    write_weights(case, options, root, folder / "weights.pth")
    learned = run(folder, case, options, root, "learned", "--warm-up-clips", CLIPS)
    check_learned(case, learned, folder)
    if with_all:
        found = run(folder, case, options, root, "all", "--policy", "all")
        check_all(case, found, learned)


# The others differ from these in their networks alone.
QUICK = ("csp", "swiftnet_r18", "maskrcnn")


@pytest.mark.parametrize(
    "name",
    [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in CASES if n not in QUICK)],
)
def test_config_from_clips_to_metrics(name, cityscapes, tmp_path):
    case = CASES[name]
    check(case, {**case.narrow, **case.few}, cityscapes, tmp_path, case.with_all)


@pytest.mark.weekly
@pytest.mark.parametrize("name", CASES)
def test_config_at_its_own_width(name, cityscapes, tmp_path):
    check(CASES[name], CASES[name].few, cityscapes, tmp_path, with_all=True)
