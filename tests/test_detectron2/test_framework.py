"""What Detectron2's configs say before there are weights: for info, for estimates."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

import blockcopy_plugins as bc  # noqa: E402
from benchmarks.zoo import detectron2_models as models  # noqa: E402
from blockcopy_plugins.estimate import estimate_config  # noqa: E402
from blockcopy_plugins.integrations.framework import framework_of_config  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["mask_rcnn_R_50_FPN", "retinanet_R_50_FPN", "semantic_fpn_R_50"])
def test_estimate(name):
    model = models.build(models.config_of(name, small=True))
    keys = list(model.state_dict())
    found = bc.estimate(model, (160, 225), 64, budget_s=3.0)
    assert found.size == (160, 225) and found.dense_ms > 0 and found.speedup(0.5) > 0
    assert list(model.state_dict()) == keys and "forward" not in model.__dict__


def test_config(cfg, tmp_path):
    path = tmp_path / "small.yaml"
    cfg.MODEL.WEIGHTS = "nowhere.pth"  # no weights are needed
    path.write_text(cfg.dump())
    model, name, size = framework_of_config(str(path)).model_of_config(str(path))
    assert name == "GeneralizedRCNN" and size == (160, 320) and not model.training
    assert estimate_config(str(path), (128, 192), 64, budget_s=2.0).size == (128, 192)
    command = [sys.executable, "-m", "blockcopy_plugins.info", str(path), "--size", "128", "192"]
    done = subprocess.run(
        [*command, "--block-size", "64"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "GeneralizedRCNN, one frame of 192x128 px" in done.stdout
    assert "64 px" in done.stdout and "backbone" in done.stdout


def test_lazy_config():
    path = str(ROOT / "configs/detectron2/mask_rcnn_R_18_thin_vtest.py")
    _, name, size = framework_of_config(path).model_of_config(path)
    assert name == "GeneralizedRCNN" and len(size) == 2 and min(size) > 100
