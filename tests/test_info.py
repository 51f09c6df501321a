"""``python -m blockcopy_plugins.info`` as a user runs it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import blockcopy_plugins

# Strides 2 and 3, then a maximum that needs the whole map and a layer behind it.
CONFIG = """
default_scope = 'mmdet'
custom_imports = dict(imports=['striding'], allow_failed_imports=False)
model = dict(type='mmdet.Striding', init_cfg=dict(type='Pretrained', checkpoint='nowhere.pth'))
test_pipeline = [dict(type='Resize', scale=(96, 48), keep_ratio=True)]
"""
MODULE = """
import torch
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import MODELS
from torch import nn

@MODELS.register_module()
class Striding(BaseDetector):
    def __init__(self, init_cfg=None):
        super().__init__(data_preprocessor=dict(type='DetDataPreprocessor'), init_cfg=init_cfg)
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 6, 3, 3))
        self.bbox_head = nn.Linear(6, 5)
    def extract_feat(self, x):
        return self.backbone(x)
    def predict(self, x, samples, rescale=True):
        self.bbox_head(self.extract_feat(x).flatten(2).median(2).values)
        return samples
    def loss(self, x, samples):
        raise NotImplementedError
    def _forward(self, x, samples=None):
        raise NotImplementedError
"""


def info(folder, *arguments):
    command = [sys.executable, "-m", "blockcopy_plugins.info", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)


def test_environment(tmp_path):
    found = info(tmp_path)
    assert found.returncode == 0
    assert blockcopy_plugins.__version__ in found.stdout and "native kernels" in found.stdout


def test_mistakes_get_one_line(tmp_path):
    found = info(tmp_path, "nowhere.py")
    assert found.returncode == 2
    assert "nowhere.py" in found.stderr and "Traceback" not in found.stderr


def test_a_model_with_strides_of_six(tmp_path):
    pytest.importorskip("mmdet")
    # A copy of the module lies where Python finds it: in the folder that it is run from.
    (tmp_path / "striding.py").write_text(MODULE)
    (tmp_path / "config.py").write_text(CONFIG)
    found = info(tmp_path, "config.py", "--block-size", 32, 48)
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert "Striding" in lines[0] and "96x48 px" in lines[0]
    # Pixels times weights: 24 x 48 x 48 of the first layer, 8 x 16 x 216 of the second, 30 behind.
    first, second, behind = 24 * 48 * 48, 8 * 16 * 216, 30
    whole = first + second + behind
    sizes = {int(m[1]): m[2] for m in re.finditer(r"(\d+) px +([\d.]+%)", found.stdout)}
    assert sizes == {32: f"{first / whole:.1%}", 48: f"{(first + second) / whole:.1%}"}
    assert "With blocks of 48 px" in found.stdout
    assert "block sizes that suit the strides: 36, 72, 144 px" in found.stdout
    (middle,) = [line for line in lines if "aten.median" in line]
    assert "(root)" in middle
    shares = {line.split()[0]: line.split()[2:] for line in lines if line.startswith("  b")}
    assert shares["bbox_head"] == ["0.0%", "0.0%", "100.0%"]
    assert shares["backbone.1"] == ["100.0%", "0.0%", "0.0%"]


def test_a_missing_progress_bar_stops_nothing(tmp_path, monkeypatch):
    pytest.importorskip("mmdet")
    (tmp_path / "striding.py").write_text(MODULE)
    (tmp_path / "config.py").write_text(CONFIG)
    (tmp_path / "tqdm.py").write_text("raise ModuleNotFoundError('tqdm')")
    found = info(tmp_path, "config.py", "--block-size", 48)
    assert found.returncode == 0 and "MACs on blocks" in found.stdout, found.stderr


@pytest.mark.parametrize(
    "name, share",
    [
        ("ultralytics:yolov8n.yaml", 95),
        ("torchvision:retinanet_resnet50_fpn", 95),
        ("timm:resnet18/features", 99),
        ("smp:unet/resnet18", 99),
        ("transformers:SegformerForSemanticSegmentation", 95),
    ],
)
def test_a_model_by_name(tmp_path, name, share):
    package = name.partition(":")[0].replace("smp", "segmentation_models_pytorch")
    pytest.importorskip(package, reason=f"needs {package}")
    found = info(tmp_path, name, "--size", "128", "128", "--block-size", "64")
    assert found.returncode == 0, found.stderr[-2000:]
    (row,) = re.findall(r"64 px +([\d.]+)%", found.stdout)
    assert float(row) >= share, found.stdout


def test_names_that_lead_nowhere_get_one_line(tmp_path):
    for name, told in (("nowhere:resnet", "known are"), ("torchvision:resnet49", "list_models")):
        if name.startswith("torchvision"):
            pytest.importorskip("torchvision", reason="needs torchvision")
        found = info(tmp_path, name)
        assert found.returncode == 2 and told in found.stderr and "Traceback" not in found.stderr
