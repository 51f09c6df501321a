"""CSP against the modules of Pedestron: weights, maps, boxes, targets and losses.

``data/csp_pedestron.json`` was recorded with torch 2.13 on a CPU by running the Pedestron that the
BlockCopy paper is evaluated with (thomasverelst/blockcopy-video-processing-pytorch, its folder
``Pedestron``): ``CSP`` as ``configs/elephant/cityperson/csp_r50.py`` describes it, with the weights
and the frame below. Its files ran as they are, the CPU code of its NMS too, but for calls that
today's torch has renamed. In place of what it imports from an old MMCV stood the like of today's.

* ``shapes``: of its state dict.
* ``maps``: every eighth row and column of what its head gives.
* ``boxes``, ``scores``: of ``get_bboxes(..., rescale=True)`` with its ``test_cfg``, but for
  ``nms_pre=300`` and ``max_per_img=40``, so that both leave something out.
* ``targets``: of ``CocoCSPORIDataset.calc_gt_center`` for the boxes below.
* ``losses``: of its head's ``loss`` with these targets and the maps of ``predictions()``.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet")

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor

from blockcopy_plugins.checkpoints import CheckpointError, convert_state
from blockcopy_plugins.models.csp.checkpoint import PEDESTRON_CSP
from blockcopy_plugins.models.csp.targets import make_targets

ROOT = Path(__file__).resolve().parents[2]
META = {"img_shape": (120, 250), "ori_shape": (150, 312), "scale_factor": (0.8, 0.8)}

# Of the targets and losses: pixels, stride 4, maps of 16 x 18.
BOXES = [[10.0, 8.0, 22.3, 38.0], [30.5, 12.25, 45.0, 47.5]]
BOXES += [[36.0, 14.0, 44.0, 33.0], [12.0, 20.0, 28.0, 58.9]]
IGNORED = [[40.0, 5.0, 62.5, 50.2]]
SIZE = (16, 18)


@pytest.fixture(scope="module")
def recorded():
    return json.loads((Path(__file__).parent / "data" / "csp_pedestron.json").read_text())


def draw(key: str, shape: list[int]) -> Tensor:
    """A weight of Pedestron's, as it was drawn for the recording."""
    value = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    if key.endswith("running_var"):
        value = 1 + 0.5 * np.abs(value)
    elif len(shape) == 4:
        value *= (1.5 / np.prod(shape[1:])) ** 0.5 * (3 if "csp_cls" in key else 1)
    elif key == "bbox_head.csp_cls.bias":
        value = -2 + 0 * value
    elif key == "bbox_head.csp_reg.bias":
        value = 2.5 + 0 * value
    elif key.endswith("bn3.weight"):
        value = 0.3 + 0.03 * value
    elif not shape or key.endswith("weight"):
        value = 1 + 0.1 * value
    else:
        value = 0.1 * value
    return torch.tensor(value, dtype=torch.float32)


@pytest.fixture(scope="module")
def source(recorded):
    return {key: draw(key, shape) for key, shape in recorded["shapes"].items()}


def build():
    config = Config.fromfile(ROOT / "configs/_base_/models/csp_r50.py")
    config.merge_from_dict({"model.test_cfg.nms_pre": 300, "model.test_cfg.max_per_img": 40})
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(config.model).eval()


@pytest.fixture(scope="module")
def model(source):
    model = build()
    model.load_state_dict(convert_state(source, PEDESTRON_CSP, model.state_dict()))
    return model


@pytest.fixture(scope="module")
def frame():
    drawn = np.random.RandomState(0).standard_normal((1, 3, 128, 256))
    return torch.tensor(drawn, dtype=torch.float32)


def close(found: Tensor, wanted, tolerance: float = 2e-5) -> None:
    wanted = torch.tensor(wanted, dtype=torch.float32)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()


@torch.no_grad()
def test_same_maps(model, frame, recorded):
    maps = dict(zip(("center", "scale", "offset"), model(frame, mode="tensor"), strict=True))
    for name, wanted in recorded["maps"].items():
        close(maps[name][0, :, ::8, ::8], wanted)


@torch.no_grad()
def test_same_boxes_and_scores(model, frame, recorded):
    (sample,) = model(frame, [DetDataSample(metainfo=META)], mode="predict")
    found = sample.pred_instances
    assert len(found) == 40
    close(found.scores, recorded["scores"])
    close(found.bboxes, recorded["boxes"])
    assert not found.labels.any()


def test_same_targets(recorded):
    found = make_targets(torch.tensor(BOXES), torch.tensor(IGNORED), SIZE, 4, min_height=8)
    wanted = {name: torch.tensor(maps) for name, maps in recorded["targets"].items()}
    torch.testing.assert_close(found.gaussian[0], wanted["positions"][0])
    assert torch.equal(found.valid[0], wanted["positions"][1])
    assert torch.equal(found.centers[0], wanted["positions"][2])
    torch.testing.assert_close(found.scale[0], wanted["scale"][0])
    assert torch.equal(found.scale_known[0], wanted["scale"][1])
    torch.testing.assert_close(found.offset, wanted["offset"][:2])
    assert torch.equal(found.centers[0], wanted["offset"][2])
    # Some cell of a person lies in the ignored region, and some cell of that is left out.
    assert 0 < found.valid.sum() < found.valid.numel()


def predictions() -> list[Tensor]:
    draw = np.random.RandomState(1)
    center = draw.standard_normal((1, 1, *SIZE)) - 2
    scale = draw.standard_normal((1, 1, *SIZE)) + 2
    offset = 0.5 * draw.standard_normal((1, 2, *SIZE))
    return [torch.tensor(x, dtype=torch.float32) for x in (center, scale, offset)]


def test_same_losses(model, recorded):
    persons = InstanceData(bboxes=torch.tensor(BOXES), labels=torch.zeros(4, dtype=torch.long))
    ignored = InstanceData(bboxes=torch.tensor(IGNORED))
    found = model.bbox_head.loss_by_feat(*predictions(), [persons], [{}], [ignored])
    names = {"loss_center": "loss_cls", "loss_scale": "loss_bbox", "loss_offset": "loss_offset"}
    assert set(found) == set(names)
    for ours, theirs in names.items():
        assert found[ours].item() == pytest.approx(recorded["losses"][theirs], rel=1e-5)


def test_files_of_a_wrapped_model_and_of_the_mean_teacher(source):
    # The mean teacher's file has the keys of the model itself, those of old PyTorch no counters.
    model = build()
    wrapped = {f"module.{key}": value for key, value in source.items()}
    uncounted = {key: value for key, value in source.items() if "num_batches" not in key}
    plain = convert_state(source, PEDESTRON_CSP, model.state_dict())
    assert set(plain) == set(model.state_dict())
    for state in (wrapped, uncounted):
        found = convert_state(state, PEDESTRON_CSP, model.state_dict())
        assert all(torch.equal(found[key], plain[key]) for key in found)
        assert all("num_batches" in key for key in set(plain) - set(found))


def test_a_checkpoint_of_another_model_is_an_error(source):
    model = build()
    state = {key: value for key, value in source.items() if key != "neck.p4_l2.weight"}
    state["bbox_head.csp_reg.weight"] = torch.zeros(2, 256, 3, 3)
    state["mgan_head.conv_logits.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        convert_state(state, PEDESTRON_CSP, model.state_dict())
    for part in ("neck.norms.1.weight", "bbox_head.scale_pred.weight", "mgan_head.conv_logits"):
        assert part in str(error.value)
