"""Which framework a config file is for, and who reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.integrations import framework
from blockcopy_plugins.integrations.config_kind import config_kind

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_yaml_and_what_imports_detectron2_is_detectron2s(tmp_path):
    lazy = CONFIGS / "detectron2/mask_rcnn_R_18_thin_vtest.py"
    neighbour = tmp_path / "neighbour.py"
    neighbour.write_text("from .base import model\n")
    (tmp_path / "base.py").write_text("from detectron2.config import LazyCall\n")
    for path in ("anything.yaml", "upper.YML", lazy, neighbour):
        assert config_kind(str(path)) == "detectron2"


def test_everything_else_is_mmengines(tmp_path):
    (tmp_path / "base.py").write_text("model = dict(type='MaskRCNN')\n")
    circle = "with read_base():\n    from .base import *\n    from .circle import *\n"
    (tmp_path / "circle.py").write_text("from mmengine.config import read_base\n" + circle)
    (tmp_path / "broken.py").write_text("import detectron2 as\n")
    names = ("base.py", "circle.py", "broken.py", "missing.py")
    for path in (*(tmp_path / name for name in names), CONFIGS / "maskrcnn_blockcopy.py"):
        assert config_kind(str(path)) == "mmengine"


@pytest.mark.parametrize(
    "path, told", [("a.yaml", "facebookresearch/detectron2"), ("a.py", "[mm]")]
)
def test_a_framework_that_is_missing_is_named_with_the_way_to_it(monkeypatch, path, told):
    monkeypatch.setattr(framework, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        framework.framework_of_config(path)
    assert "is not installed: pip install" in str(error.value) and told in str(error.value)
