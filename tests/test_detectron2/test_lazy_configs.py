"""Lazy configs in the forms in which users have them, and what is wrong with others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("detectron2")
pytest.importorskip("av")

from blockcopy_plugins import info  # noqa: E402
from blockcopy_plugins.errors import ConfigError  # noqa: E402
from blockcopy_plugins.integrations.config_kind import config_kind  # noqa: E402
from blockcopy_plugins.integrations.detectron2 import ModelConfig, blockcopy_config  # noqa: E402
from demo.convert_to_detectron2 import convert  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
NEIGHBOUR = "from .base import model, dataloader, train, metadata, blockcopy\n"
CHANGES = "model.roi_heads.box_predictor.test_score_thresh = 0.25\nblockcopy.block_size = 32\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from detectron2.config import LazyConfig

    found = tmp_path_factory.mktemp("lazy")
    text = (ROOT / "configs/detectron2/mask_rcnn_R_18_thin_vtest.py").read_text()
    (found / "base.py").write_text(text.replace("576, max_size=768", "96, max_size=128"))
    (found / "relative.py").write_text(NEIGHBOUR + CHANGES)
    (found / "below").mkdir()
    (found / "below/again.py").write_text(f"# Größe\n{NEIGHBOUR.replace('.base', '..relative')}")
    changed = LazyConfig.load(str(found / "relative.py"))
    LazyConfig.save(changed, str(found / "saved.yaml"))  # as lazyconfig_train_net.py does
    return found


FORMS = ("relative.py", "below/again.py", "saved.yaml")


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_the_same_model(folder, name):
    path = str(folder / name)
    assert config_kind(path) == "detectron2"
    config = ModelConfig.of(path, ["blockcopy.max_streams=3"])
    assert config.name == "GeneralizedRCNN" and config.classes() == ("person",)
    (resize,) = config.augmentations()
    assert (resize.short_edge_length, resize.max_size) == ((96, 96), 128)
    options = blockcopy_config(config.cfg)
    assert (options.block_size, options.max_streams, options.policy.target) == (32, 3, 0.3)
    model = config.build("")
    assert model.roi_heads.box_predictor.test_score_thresh == 0.25
    plain = ModelConfig.of(str(folder / "base.py")).build("")
    shapes = [{k: tuple(v.shape) for k, v in m.state_dict().items()} for m in (model, plain)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", FORMS)
def test_info_takes_each_form(folder, name):
    told = info.describe(str(folder / name), (96, 128), (32,))
    assert told.startswith("GeneralizedRCNN, one frame of 128x96 px") and "32 px" in told


def test_the_tool_takes_what_was_saved(folder, tmp_path):
    torch.save({"model": convert(ROOT / "demo/maskrcnn_vtest.pth")}, tmp_path / "w.pth")
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "tools/detectron2_video.py", "--frames", "3"),
            *("--config-file", folder / "saved.yaml", "--input", ROOT / "demo/vtest_excerpt.mp4"),
            *("--output", "out.mp4", "--policy", "dict(type='EveryNthFramePolicy', n=3)"),
            *("--opts", "train.init_checkpoint=w.pth"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 frames, executed rate 33.3 %")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import detectron2\nx = 1 / 0\n", "cannot be read: ZeroDivisionError: division by zero"),
        ("import detectron2, sys\nsys.exit(3)\n", "cannot be read: SystemExit: 3"),
        (NEIGHBOUR + "model.nosuch.x = 1\n", "cannot be read: .*Missing key nosuch"),
        ("import detectron2\nfrom .nowhere import model\n", "nowhere.py does not exist"),
        ("import detectron2\ntrain = dict(x=1)\n", "has no model; write model ="),
        ("import detectron2\nmodel = dict(type='MaskRCNN')\n", "expected a LazyCall"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_line(folder, text, said):
    path = folder / "wrong.py"
    path.write_text(text)
    assert config_kind(str(path)) == "detectron2"
    with pytest.raises(ConfigError, match=said) as told:
        ModelConfig.of(str(path))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model.backbone.nosuch = 3\n", "the model of the config.*argument 'nosuch'"),
        ("model.backbone.bottom_up.stages = None\n", "the model of the config cannot be built"),
    ],
)
def test_a_model_that_cannot_be_built_is_not_the_weights_fault(folder, text, said):
    path = folder / "unfit.py"
    path.write_text(NEIGHBOUR + text)
    with pytest.raises(ConfigError, match=said):
        ModelConfig.of(str(path)).build("")


def test_a_damaged_checkpoint_is_named(folder, tmp_path):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>404</html>")
    with pytest.raises(ConfigError, match=r"the checkpoint '.*page.pth' cannot be loaded"):
        ModelConfig.of(str(folder / "base.py")).build(str(tmp_path / "page.pth"))
