"""MGAN against the modules of Pedestron, on the same weights.

``data/mgan_pedestron.npz`` was recorded by running Pedestron's own ``mmdet`` (its repository
hasanirtiza/Pedestron at a8ce101, ``configs/elephant/cityperson/mgan_vgg.py``) on the weights, the
image and the meta information below, on a CPU, with torch 2.13. What it compiles was replaced by
plain loops that follow its sources: ``ops/nms/src/nms_cpu.cpp`` and
``ops/roi_align/src/roi_align_kernel.cu``. To make it small, the RPN keeps 300 boxes before and 30
after NMS. Of large maps a value at every so many places is kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet")

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from blockcopy_plugins.checkpoints import CheckpointError, convert_state
from blockcopy_plugins.models.mgan.checkpoint import PEDESTRON_MGAN

ROOT = Path(__file__).resolve().parents[2]
META = {
    "img_shape": (120, 150),
    "ori_shape": (240, 300),
    "pad_shape": (128, 160),
    "batch_input_shape": (128, 160),
    "scale_factor": (0.5, 0.5),
}


def source_shapes() -> dict[str, tuple[int, ...]]:
    """Parameters of Pedestron's MGAN."""
    convs = {"rpn_head.rpn_conv": (512, 512, 3, 3)}
    plan = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256}
    plan |= {17: 512, 19: 512, 21: 512, 24: 512, 26: 512, 28: 512}
    before = 3
    for index, channels in plan.items():
        convs[f"backbone.features.{index}"] = (channels, before, 3, 3)
        before = channels
    convs["rpn_head.rpn_cls"] = (11, 512, 1, 1)
    convs["rpn_head.rpn_reg"] = (44, 512, 1, 1)
    convs["mgan_head.convs.0.conv"] = convs["mgan_head.convs.1.conv"] = (512, 512, 3, 3)
    convs["mgan_head.conv_logits"] = (1, 512, 1, 1)
    convs["bbox_head.shared_fcs.0"] = (1024, 25088)
    convs["bbox_head.shared_fcs.1"] = (1024, 1024)
    convs["bbox_head.fc_cls"] = (2, 1024)
    convs["bbox_head.fc_reg"] = (8, 1024)
    shapes = {f"{name}.weight": shape for name, shape in convs.items()}
    return shapes | {f"{name}.bias": shape[:1] for name, shape in convs.items()}


def source_weights() -> dict[str, torch.Tensor]:
    """As they were drawn for the recording."""
    draw = torch.Generator().manual_seed(5)
    state = {}
    for key, shape in sorted(source_shapes().items()):
        value = torch.randn(shape, generator=draw)
        value *= 0.05 if len(shape) == 1 else (2 / value[0].numel()) ** 0.5
        if "rpn_reg.weight" in key:
            value *= 0.3
        state[key] = value
    return state


def thin(x: torch.Tensor) -> np.ndarray:
    return x.flatten()[:: max(1, x.numel() // 97)].numpy()


def close(found, wanted, tolerance=2e-5):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.fixture(scope="module")
def recorded():
    with np.load(Path(__file__).parent / "data" / "mgan_pedestron.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def model():
    with DefaultScope.overwrite_default_scope("mmdet"):
        config = Config.fromfile(ROOT / "configs/_base_/models/mgan_vgg16.py")
        config.merge_from_dict({"model.test_cfg.rpn": {"nms_pre": 300, "max_per_img": 30}})
        model = MODELS.build(config.model).eval()
    model.load_state_dict(convert_state(source_weights(), PEDESTRON_MGAN, model.state_dict()))
    return model


@pytest.fixture(scope="module")
def features(model):
    image = torch.randn(1, 3, 128, 160, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        return model.extract_feat(image)


def sample() -> DetDataSample:
    return DetDataSample(metainfo=META)


def test_vgg_at_stride_8(features, recorded):
    assert [tuple(x.shape) for x in features] == [(1, 512, 16, 20)]
    close(thin(features[0]), recorded["features"])


def test_proposals(model, features, recorded):
    with torch.no_grad():
        scores, deltas = model.rpn_head(features)
        found = model.rpn_head.predict(features, [sample()])[0]
    close(thin(scores[0]), recorded["rpn_scores"])
    close(thin(deltas[0]), recorded["rpn_deltas"])
    close(torch.cat([found.bboxes, found.scores[:, None]], 1).numpy(), recorded["proposals"])


def test_attention_and_box_head(model, features, recorded):
    boxes = torch.from_numpy(recorded["proposals"][:, :4])
    widths = boxes[:, 2] - boxes[:, 0]
    assert (widths < 7).sum() >= 3, "some boxes must be narrower than a cell of the map"
    rois = bbox2roi([boxes])
    with torch.no_grad():
        extracted = model.roi_head.bbox_roi_extractor(features, rois)
        found = model.roi_head._bbox_forward(features, rois)
    close(thin(extracted), recorded["roi_features"])
    close(thin(found["bbox_feats"]), recorded["attended"])
    # Background comes first there and last here, and has no deltas here.
    close(found["cls_score"].numpy(), recorded["cls"][:, ::-1])
    close(found["bbox_pred"].numpy(), recorded["reg"][:, 4:])


def same_detections(found: InstanceData, wanted: np.ndarray):
    wanted = wanted[wanted[:, 4].argsort()[::-1]]
    assert len(found.scores) == len(wanted) >= 20
    assert (found.labels == 0).all()
    close(found.scores.numpy(), wanted[:, 4])
    close(found.bboxes.numpy(), wanted[:, :4])


def test_detections_from_the_same_proposals(model, features, recorded):
    proposals = InstanceData(bboxes=torch.from_numpy(recorded["proposals"][:, :4]))
    with torch.no_grad():
        found = model.roi_head.predict(features, [proposals], [sample()], rescale=True)[0]
    same_detections(found, recorded["detections"])


def test_detections_end_to_end(model, recorded):
    image = torch.randn(1, 3, 128, 160, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        found = model.predict(image, [sample()], rescale=True)[0]
    same_detections(found.pred_instances, recorded["detections"])


def test_a_checkpoint_of_another_model_is_an_error(model):
    state = source_weights()
    state["backbone.layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    with pytest.raises(CheckpointError, match="layer1"):
        convert_state(state, PEDESTRON_MGAN, model.state_dict())
