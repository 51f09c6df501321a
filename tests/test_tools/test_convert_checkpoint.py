"""tools/convert_checkpoint.py as a user runs it; the formats are tested in test_checkpoints."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "convert_checkpoint.py"


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


from tests.test_checkpoints import source_states as sources  # noqa: E402
from tests.tool_process import run_tool  # noqa: E402


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(TOOL.parent))
    try:
        return _load(TOOL)
    finally:
        sys.path.remove(str(TOOL.parent))


@pytest.fixture
def swiftnet(tmp_path):
    """A file as of the BlockCopy paper's SwiftNet-RN18, of a model in DataParallel."""
    state = sources.state_of(sources.source_shapes("swiftnet-blockcopy-rn18"))
    state["logits.conv.bias"] = torch.arange(19.0)
    file = tmp_path / "swiftnet.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, file)
    return file


def process(folder, *arguments):
    """Start the tool from nothing, in another folder than the clone's."""
    return subprocess.run(
        [sys.executable, str(TOOL), *(str(argument) for argument in arguments)],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )


def inside(tool, *arguments):
    """Run the tool in this process, which has imported the frameworks already."""
    tool.main(tool.parse_args([str(argument) for argument in arguments]))


def test_help_and_list_explain(tmp_path):
    done = process(tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    assert "SOURCE_FORMAT IN OUT" in done.stdout and "auto" in done.stdout
    done = process(tmp_path, "--list")
    assert done.returncode == 0, done.stderr
    for name in ("pedestron-csp", "pedestron-mgan", "swiftnet-orsic-rn18", "torchvision-vgg16_bn"):
        assert f"{name}\n    " in done.stdout
    assert done.stdout.count("https://") >= 9


def test_what_is_written_loads_into_the_model(tool, swiftnet, tmp_path):
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope
    from mmengine.runner import load_checkpoint

    done = run_tool([TOOL, "auto", swiftnet.name, "new/out.pth"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "swiftnet-blockcopy-rn18" in done.stdout and "193 of the model's 193" in done.stdout
    out = tmp_path / "new" / "out.pth"
    config = Config.fromfile(ROOT / "configs/_base_/models/swiftnet_r18.py")
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(config.model)
    meta = load_checkpoint(model, str(out), strict=True)["meta"]
    assert meta["converted_from"] == "swiftnet-blockcopy-rn18"
    assert model.decode_head.conv_seg.bias.tolist() == list(range(19))
    assert not any(model.state_dict()["neck.spp.fuse.conv.weight"].flatten())


def test_a_damaged_file_ends_it_with_a_message(swiftnet, tmp_path):
    state = torch.load(swiftnet)["state_dict"]
    del state["module.spp.spp.spp0.conv.weight"]
    torch.save(state | {"module.surplus": torch.zeros(1)}, swiftnet)
    done = run_tool([TOOL, "swiftnet-blockcopy-rn18", swiftnet.name, "out.pth"], tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert "surplus" in done.stderr and "neck.spp.levels.0.conv.weight" in done.stderr
    assert not (tmp_path / "out.pth").exists()


def test_a_file_that_is_not_there_ends_it_with_a_message(tmp_path):
    done = run_tool([TOOL, "pedestron-csp", "nowhere.pth", "out.pth"], tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "nowhere.pth" in done.stderr


def write(tmp_path, name):
    torch.save(sources.state_of(sources.source_shapes(name)), tmp_path / "in.pth")
    return tmp_path / "in.pth", tmp_path / "out.pth"


def test_another_model_takes_the_weights(tool, tmp_path):
    """A stock detector's backbone; "auto" looks at the formats' own models all the same."""
    import mmdet

    config = Path(mmdet.__path__[0]) / ".mim/configs/retinanet/retinanet_r50_fpn_1x_coco.py"
    source, out = write(tmp_path, "torchvision-resnet50")
    inside(tool, "auto", source, out, "--model", config)
    found = torch.load(out)
    assert found["meta"] == {"converted_from": "torchvision-resnet50", "source_file": "in.pth"}
    keys = set(sources.resnet_shapes(50)) - {"fc.weight", "fc.bias"}
    assert set(found["state_dict"]) == {f"backbone.{key}" for key in keys}


def test_options_change_the_model(tool, swiftnet, tmp_path):
    state = torch.load(swiftnet)["state_dict"]
    state["module.logits.conv.weight"] = torch.zeros(11, 128, 1, 1)
    state["module.logits.conv.bias"] = torch.zeros(11)
    torch.save(state, swiftnet)
    out = tmp_path / "out.pth"
    from blockcopy_plugins.errors import BlockCopyError

    for name in ("auto", "swiftnet-blockcopy-rn18"):
        with pytest.raises(BlockCopyError, match=r"\(11, 128, 1, 1\)"):
            inside(tool, name, swiftnet, out)
    inside(
        tool,
        *("swiftnet-blockcopy-rn18", swiftnet, out),
        *("--cfg-options", "model.decode_head.num_classes=11"),
    )
    assert torch.load(out)["state_dict"]["decode_head.conv_seg.weight"].shape == (11, 128, 1, 1)


def test_a_deep_stem_is_no_torchvision_resnet(tool, tmp_path):
    import mmseg

    config = (
        Path(mmseg.__path__[0])
        / ".mim/configs/pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py"
    )
    source, out = write(tmp_path, "torchvision-resnet50")
    from blockcopy_plugins.checkpoints import CheckpointError

    with pytest.raises(CheckpointError, match=r"backbone.conv1.weight \(from conv1.weight\)") as e:
        inside(tool, "torchvision-resnet50", source, out, "--model", config)
    assert "backbone.stem.0.weight" in str(e.value) and not out.exists()


def test_mistakes_of_the_command_line(tool, swiftnet, tmp_path):
    from blockcopy_plugins.errors import BlockCopyError

    with pytest.raises(BlockCopyError, match="same file"):
        inside(tool, "auto", swiftnet, swiftnet)
    with pytest.raises(BlockCopyError, match="'pedestron'.*pedestron-csp"):
        inside(tool, "pedestron", swiftnet, tmp_path / "out.pth")
    with pytest.raises(BlockCopyError, match="no config file 'gone.py'"):
        inside(tool, "swiftnet-blockcopy-rn18", swiftnet, "out.pth", "--model", "gone.py")
    with pytest.raises(BlockCopyError, match="is a folder"):
        inside(tool, "swiftnet-blockcopy-rn18", swiftnet, tmp_path)
