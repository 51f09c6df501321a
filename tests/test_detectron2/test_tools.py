"""The tools with configs of Detectron2, and the demo's detector as one of its models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")
av = pytest.importorskip("av")

from benchmarks.zoo import detectron2_models as models  # noqa: E402
from blockcopy_plugins.datasets import VideoReader  # noqa: E402
from blockcopy_plugins.errors import ConfigError  # noqa: E402
from blockcopy_plugins.integrations.detectron2 import (  # noqa: E402
    BlockCopyPredictor,
    ModelConfig,
    blockcopy_config,
)
from demo.convert_to_detectron2 import convert  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
LAZY = ROOT / "configs/detectron2/mask_rcnn_R_18_thin_vtest.py"
CLIP = ROOT / "demo/vtest_excerpt.mp4"

# Boxes, scores and mask pixels of score 0.3 and more that MMDetection 3.5.1 (onedl, torch 2.13)
# finds in the clip's first frame: inference_detector(init_detector(configs/demo/
# mask-rcnn_r18-thin_vtest.py, demo/maskrcnn_vtest.pth), frame).
OF_MMDETECTION = [
    [265.133, 200.52, 299.205, 277.207, 0.99958, 1643],
    [679.597, 294.467, 721.846, 406.543, 0.99943, 2753],
    [586.075, 136.596, 615.282, 205.216, 0.99884, 1216],
    [411.871, 190.508, 447.258, 244.8, 0.7097, 880],
    [743.602, 148.338, 767.702, 200.843, 0.59026, 764],
]


@pytest.fixture(scope="module")
def demo_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "weights.pth"
    torch.save({"model": convert(ROOT / "demo/maskrcnn_vtest.pth")}, path)
    return path


def run_tool(name, *arguments, cwd):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / name), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_demo_detector_finds_what_it_finds_in_mmdetection(demo_weights):
    frame = VideoReader(CLIP).read(0)
    with BlockCopyPredictor(str(LAZY), weights=demo_weights) as predictor:
        for outputs in (predictor.run_dense(frame), predictor(frame)):
            found = outputs["instances"]
            found = found[found.scores > 0.3]
            wanted = np.array(OF_MMDETECTION)
            assert len(found) == len(wanted)
            assert np.abs(found.pred_boxes.tensor.numpy() - wanted[:, :4]).max() < 0.01
            assert np.abs(found.scores.numpy() - wanted[:, 4]).max() < 1e-4
            # The two frameworks paste masks by rules of their own.
            pixels = found.pred_masks.sum((1, 2)).numpy()
            assert (np.abs(pixels - wanted[:, 5]) < 0.03 * wanted[:, 5]).all()


@pytest.mark.parametrize("path", sorted((ROOT / "configs/detectron2").iterdir()), ids=str)
def test_shipped_configs_can_be_read(path):
    if path.suffix not in (".yaml", ".py"):
        pytest.skip("no config")
    config = ModelConfig.of(str(path))
    assert config.name in ("GeneralizedRCNN", "RetinaNet", "SemanticSegmentor")
    assert len(config.augmentations()) == 1 and config.input_format in ("BGR", "RGB")


def test_options_of_the_command_line():
    path = str(ROOT / "configs/detectron2/mask_rcnn_R_50_FPN_blockcopy.yaml")
    policy = "dict(type='FrameDifferencePolicy', target=0.2)"
    for given in (
        ["MODEL.BLOCKCOPY.BLOCK_SIZE", "64", "MODEL.BLOCKCOPY.POLICY", policy],
        ["MODEL.BLOCKCOPY.BLOCK_SIZE=64", f"MODEL.BLOCKCOPY.POLICY={policy}"],
    ):
        config = blockcopy_config(ModelConfig.of(path, given).cfg)
        assert config.block_size == 64 and config.policy.target == 0.2
    with pytest.raises(ConfigError, match="Non-existent key: MODEL.BLOCKCOPY.BLOCK"):
        ModelConfig.of(path, ["MODEL.BLOCKCOPY.BLOCK", "64"])
    lazy = ModelConfig.of(str(LAZY), ["blockcopy.block_size=32"])
    assert blockcopy_config(lazy.cfg).block_size == 32


@pytest.mark.parametrize(
    ("ours", "zoos"),
    [
        ("mask_rcnn_R_50_FPN_blockcopy.yaml", "mask_rcnn_R_50_FPN"),
        ("retinanet_R_50_FPN_blockcopy.yaml", "retinanet_R_50_FPN"),
        ("mask_rcnn_R_50_FPN_blockcopy.py", "mask_rcnn_R_50_FPN"),
    ],
)
def test_shipped_configs_are_the_zoos_models(ours, zoos):
    """The same parameters, of the same shapes, under the same names."""
    from detectron2.modeling import build_model

    built = ModelConfig.of(str(ROOT / "configs/detectron2" / ours)).build("")
    wanted = build_model(models.config_of(zoos))
    shapes = [{k: tuple(v.shape) for k, v in m.state_dict().items()} for m in (built, wanted)]
    assert shapes[0] == shapes[1]
    anchors = [[v for k, v in m.named_buffers() if "cell_anchors" in k] for m in (built, wanted)]
    assert len(anchors[0]) == 5
    for a, b in zip(*anchors, strict=True):
        assert torch.equal(a, b)


def test_test_video_and_train_policy(demo_weights, tmp_path):
    status, out, err = run_tool(
        "train_policy.py",
        *(LAZY, "--checkpoint", demo_weights, "--video", CLIP, "--frames", 5),
        *("--work-dir", tmp_path / "policy"),
        cwd=tmp_path,
    )
    assert status == 0, err
    assert {p.name for p in (tmp_path / "policy").iterdir()} == {
        *("policy.pth", "policy_log.json", "policy_curve.png")
    }
    frames = json.loads((tmp_path / "policy/policy_log.json").read_text())["frames"]
    assert len(frames) == 5 and "information_gain" in frames[3]
    status, out, err = run_tool(
        "test_video.py",
        *(LAZY, demo_weights, "--video", CLIP, "--frames", 4, "--show-dir", tmp_path / "show"),
        *("--policy-checkpoint", tmp_path / "policy/policy.pth", "--work-dir", tmp_path / "out"),
        *("--cfg-options", "blockcopy.block_size=128"),
        cwd=tmp_path,
    )
    assert status == 0, err
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["model"] == "GeneralizedRCNN" and results["frames"] == 4
    assert results["block_size"] == 128 and results["size"] == [576, 768]
    assert 0 < results["macs_blockcopy"] < results["macs_dense"]
    assert results["fidelity"]["bbox_AP50"] > 0.5
    assert results["policy_file"] == "policy.pth" and results["policy_over_videos"] == "restarted"
    assert len((tmp_path / "out/results_frames.jsonl").read_text().splitlines()) == 4
    assert "executed rate" in out and "speed-up" in out
    assert len(list(VideoReader(tmp_path / "show/vtest_excerpt.mp4"))) == 4


def test_a_video_is_written(demo_weights, tmp_path):
    status, out, err = run_tool(
        "detectron2_video.py",
        *("--config-file", LAZY, "--input", CLIP, "--output", tmp_path / "out.mp4"),
        *("--frames", 3, "--dense-too", "--policy", "dict(type='EveryNthFramePolicy', n=3)"),
        *("--opts", f"train.init_checkpoint={demo_weights}", "blockcopy.block_size=64"),
        cwd=tmp_path,
    )
    assert status == 0, err
    assert "3 frames, executed rate 33.3 %" in out and "speed-up" in out
    written, plain = list(VideoReader(tmp_path / "out.mp4")), VideoReader(CLIP)
    assert len(written) == 3
    # The first frame was executed fully and is as bright as it was; the second is dark.
    height = plain.shape[0]
    assert abs(float(written[0][:height].mean()) - float(plain.read(0).mean())) < 4
    assert written[1][:height].mean() < 0.8 * plain.read(1).mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config-file", "missing.yaml"), "no config file 'missing.yaml'"),
        (("--config-file", LAZY, "--weights", "missing.pth"), "no checkpoint 'missing.pth'"),
        (("--config-file", LAZY, "--policy", "nosuch"), "no policy 'nosuch'"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments, message, tmp_path):
    status, _, err = run_tool(
        "detectron2_video.py", *arguments, "--input", CLIP, "--output", "out.mp4", cwd=tmp_path
    )
    assert status == 2 and message in err and "Traceback" not in err
