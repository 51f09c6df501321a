"""Configs that inherit from MMSegmentation, in processes of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mmseg")

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def run(folder, code, *arguments):
    """Run code in a fresh process that knows nothing of the clone."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_our_configs_in_the_project_of_somebody_else(tmp_path):
    """Read by MMEngine alone: what a user's own script has when it reads the config."""
    names = ["deeplabv3plus_blockcopy.py", "pspnet_blockcopy.py"]
    for name in names:
        shutil.copy(CONFIGS / name, tmp_path / name)
    (tmp_path / "mine.py").write_text(
        "_base_ = './deeplabv3plus_blockcopy.py'\nmodel = dict(backbone=dict(depth=101))\n"
    )
    code = """
import sys
from mmengine.config import Config
for name in sys.argv[1:]:
    config = Config.fromfile(name)
    (hook,) = config.custom_hooks
    print(config.default_scope, config.model.type, config.model.test_cfg.mode,
          config.model.decode_head.type, config.model.backbone.depth,
          config.test_dataloader.dataset.type, hook.type, config.load_from.rpartition('/')[2])
    again = Config.fromstring(config.pretty_text, '.py')  # as a Runner dumps it
    assert again.model == config.model
assert 'blockcopy_plugins' not in sys.modules
"""
    done = run(tmp_path, code, *names, "mine.py")
    assert done.returncode == 0, done.stderr
    common = "CityscapesDataset blockcopy_plugins.BlockCopyHook"
    lines = done.stdout.strip().splitlines()[-3:]
    assert lines[0].startswith(
        f"mmseg EncoderDecoder whole DepthwiseSeparableASPPHead 50 {common} deeplabv3plus_r50-d8"
    )
    assert lines[1].startswith(f"mmseg EncoderDecoder whole PSPHead 50 {common} pspnet_r50-d8")
    assert " 101 " in lines[2]


@pytest.mark.parametrize(
    "base",
    ["pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py", "_base_/models/pspnet_r50-d8.py"],
)
def test_the_scope_itself_works_where_we_are_imported(tmp_path, base):
    (tmp_path / "mine.py").write_text(f"_base_ = 'mmseg::{base}'\n")
    code = """
import blockcopy_plugins.integrations.mmengine
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
print(Config.fromfile('mine.py').model.decode_head.type)
assert MODULE2PACKAGE['mmdet'] == 'mmdet' and MODULE2PACKAGE['mmaction'] == 'mmaction2'
"""
    done = run(tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "PSPHead"


def test_an_original_package_keeps_its_name(monkeypatch):
    from mmengine.config.utils import MODULE2PACKAGE

    from blockcopy_plugins.integrations.mmengine import config_names

    monkeypatch.setitem(MODULE2PACKAGE, "mmseg", "mmsegmentation")
    monkeypatch.setattr(config_names, "distribution", lambda name: object())
    config_names.find_mmseg_configs()
    assert MODULE2PACKAGE["mmseg"] == "mmsegmentation"
    monkeypatch.undo()
    monkeypatch.setitem(MODULE2PACKAGE, "mmseg", "mmsegmentation")
    monkeypatch.setattr(config_names, "find_spec", lambda name: None)
    config_names.find_mmseg_configs()
    assert MODULE2PACKAGE["mmseg"] == "mmsegmentation"  # so that the error names what to install
