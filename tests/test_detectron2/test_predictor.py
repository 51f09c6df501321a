"""The predictor against Detectron2's own, config keys, backbone builder and lazy configs."""

from __future__ import annotations

import multiprocessing
import pickle
import types
from dataclasses import fields

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.checkpoint import DetectionCheckpointer  # noqa: E402
from detectron2.config import LazyCall, get_cfg  # noqa: E402
from detectron2.engine import DefaultPredictor  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402

from benchmarks.zoo import detectron2_models as models  # noqa: E402
from blockcopy_plugins.engine.convert import handle  # noqa: E402
from blockcopy_plugins.errors import ConfigError, FrameError, StateError  # noqa: E402
from blockcopy_plugins.integrations.detectron2 import (  # noqa: E402
    BlockCopyBackbone,
    BlockCopyPredictor,
    ModelConfig,
    add_blockcopy_config,
    blockcopy_config,
)
from tests.test_detectron2 import laws  # noqa: E402

ALL = dict(block_size=64, policy="all", pack_whole_frames=True)


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_equals_the_default_predictor_with_all_blocks(cfg, pictures, order):
    cfg.INPUT.FORMAT = order
    cfg.INPUT.MIN_SIZE_TEST = 200  # so that frames are resized
    theirs = DefaultPredictor(cfg)
    with BlockCopyPredictor(cfg, ALL) as ours:
        for picture in pictures[:2]:
            found, wanted = ours(picture), theirs(picture)
            assert found["instances"].image_size == picture.shape[:2]
            assert len(wanted["instances"]) > 2
            assert laws.output_deviation([found], [wanted]) < 2e-4


def test_streams_reset_and_dense(cfg, pictures):
    with BlockCopyPredictor(cfg, dict(block_size=64, policy="none")) as predictor:
        first = predictor(pictures[0])
        assert laws.output_deviation([predictor(pictures[3])], [first]) == 0
        dense = predictor.run_dense(pictures[3])
        assert laws.output_deviation([dense], [first]) > 1e-3
        assert laws.output_deviation([predictor(pictures[3], stream="b")], [dense]) < 2e-4
        predictor.reset()
        assert laws.output_deviation([predictor(pictures[3])], [dense]) < 2e-4
        predictor.reset("never seen")
    assert "forward" not in predictor.model.__dict__
    with pytest.raises(StateError, match="closed"):
        predictor(pictures[0])


def test_the_policy_learns(cfg, pictures):
    cfg.MODEL.BLOCKCOPY.POLICY = "dict(type='RLPolicy', target=0.5)"
    with BlockCopyPredictor(cfg) as predictor:
        for _ in range(2):
            for picture in pictures:
                predictor(picture)
        assert predictor.handle.policy.updates > 0
        assert "information_gain" in predictor.handle.last.scalars


def test_bad_frames(cfg, pictures):
    with BlockCopyPredictor(cfg, ALL) as predictor:
        predictor(pictures[0])
        for bad in (pictures[0].astype(np.float32), pictures[0][..., 0], "frame.png"):
            with pytest.raises(FrameError, match="uint8 array"):
                predictor(bad)
        with pytest.raises((FrameError, StateError), match="reset"):
            predictor(pictures[0][:100])
        predictor(pictures[1])


def test_not_for_several_processes(cfg, pictures, monkeypatch):
    with BlockCopyPredictor(cfg, ALL) as predictor:
        with pytest.raises(StateError, match="another process"):
            pickle.dumps(predictor)
        monkeypatch.setattr("os.getpid", lambda: -1)
        with pytest.raises(StateError, match="whole videos"):
            predictor(pictures[0])
    worker = types.new_class("_PredictWorker")()
    monkeypatch.setattr(multiprocessing, "current_process", lambda: worker)
    with pytest.raises(ConfigError, match="AsyncPredictor deals"):
        BlockCopyPredictor(cfg, ALL)


def test_keys(cfg):
    cfg.MODEL.BLOCKCOPY.POLICY = "dict(type='FrameDifferencePolicy', target=0.2)"
    cfg.merge_from_list(["MODEL.BLOCKCOPY.BLOCK_SIZE", "32", "MODEL.BLOCKCOPY.WINOGRAD", False])
    found = blockcopy_config(cfg)
    assert (found.block_size, found.winograd, found.policy.target) == (32, False, 0.2)
    cfg.merge_from_list(["MODEL.BLOCKCOPY.BLOCK_SIZE", "0"])
    assert blockcopy_config(cfg).block_size == "auto"
    fresh = get_cfg()
    assert blockcopy_config(fresh).block_size == 128
    add_blockcopy_config(fresh)
    assert blockcopy_config(fresh).block_size == 128
    fresh.merge_from_list(["MODEL.BLOCKCOPY.BLOCK_SIZE", "auto"])
    assert blockcopy_config(fresh).block_size == "auto"
    cfg.MODEL.BLOCKCOPY.POLICY = "no such"
    with pytest.raises(ConfigError, match="policy"):
        blockcopy_config(cfg)
    cfg.MODEL.BLOCKCOPY.POLICY = "all"
    cfg.MODEL.BLOCKCOPY.POLICY_CHECKPOINT = "missing.pth"
    with pytest.raises(ConfigError, match="missing.pth"):
        blockcopy_config(cfg)


@pytest.mark.parametrize(
    "guards",
    [
        ["dict(type='MaxAge', frames=2)", "SceneCut"],
        [{"type": "MaxAge", "frames": 2}, {"type": "SceneCut"}],
    ],
)
def test_guards(cfg, guards, pictures):
    cfg.MODEL.BLOCKCOPY.POLICY = "none"
    cfg.merge_from_list(["MODEL.BLOCKCOPY.GUARDS", str(guards)])
    assert [guard.name for guard in blockcopy_config(cfg).guards] == [
        "MaxAge(frames=2)",
        "SceneCut(threshold=0.35, ratio=3)",
    ]
    rates = []
    with BlockCopyPredictor(cfg) as predictor:
        for picture in pictures[:5]:
            predictor(picture)
            rates.append(predictor.handle.last.executed_rate)
    assert rates == [1, 0, 1, 0, 1]
    assert blockcopy_config(cfg, guards=["Hold"]).guards[0].frames == 2
    with pytest.raises(ConfigError, match="no guard 'Hald'"):
        blockcopy_config(cfg, guards=["Hald"])


def test_augmentation_is_refused(cfg):
    cfg.TEST.AUG.ENABLED = True
    with pytest.raises(ConfigError, match="TEST.AUG.ENABLED"):
        BlockCopyPredictor(cfg)


def test_backbone_by_its_builder(cfg, weights, pictures):
    plain = DefaultPredictor(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_blockcopy_backbone"
    cfg.MODEL.BLOCKCOPY.POLICY = "all"
    model = build_model(cfg)
    assert isinstance(model.backbone, BlockCopyBackbone)
    assert list(model.state_dict()) == list(plain.model.state_dict())
    loaded = DetectionCheckpointer(model).load(str(weights))
    assert loaded["iteration"] == 7
    for name, value in model.state_dict().items():
        assert torch.equal(value, plain.model.state_dict()[name])
    assert model.backbone.size_divisibility == plain.model.backbone.size_divisibility
    assert model.backbone.output_shape() == plain.model.backbone.output_shape()
    with BlockCopyPredictor(cfg) as predictor:
        found = predictor(pictures[0])
        assert laws.output_deviation([found], [plain(pictures[0])]) < 2e-4
        assert predictor.handle.last.executed_rate == 1
    model.train()
    images = torch.zeros(1, 3, 64, 64, requires_grad=True)
    assert model.backbone(images)["p2"].requires_grad  # training is as it was


def test_backbone_by_its_builder_needs_the_keys(cfg):
    plain = models.config_of("mask_rcnn_R_50_FPN", small=True)
    plain.MODEL.BACKBONE.NAME = "build_blockcopy_backbone"
    with pytest.raises(ConfigError, match="add_blockcopy_config"):
        build_model(plain)
    add_blockcopy_config(plain)
    plain.MODEL.BLOCKCOPY.BACKBONE = "build_blockcopy_backbone"
    with pytest.raises(ConfigError, match="itself"):
        build_model(plain)


def test_every_option_has_a_key():
    plain = get_cfg()
    add_blockcopy_config(plain)
    options = ["MODEL.BLOCKCOPY.BUCKETS", "[0.5, 1.0]", "MODEL.BLOCKCOPY.GRAPH_MEMORY_MIB", "100"]
    plain.merge_from_list(options)
    found = blockcopy_config(plain)
    assert (found.buckets, found.graph_memory_mib) == ([0.5, 1.0], 100)
    names = {field.name for field in fields(found)} | {"policy_checkpoint", "backbone"}
    assert {name.lower() for name in plain.MODEL.BLOCKCOPY} == names


def test_lazy_config(weights, pictures):
    from detectron2 import model_zoo
    from detectron2.config import instantiate

    lazy = model_zoo.get_config("common/models/retinanet.py")
    lazy.model.num_classes = 5
    lazy.model.backbone.bottom_up.stages.depth = 50
    plain = instantiate(lazy.model).eval()
    lazy.blockcopy = dict(block_size=128, policy="all")
    with BlockCopyPredictor(lazy, model=plain) as predictor:
        found = predictor(pictures[0])
        assert found["instances"].image_size == pictures[0].shape[:2]
        assert predictor.handle.config.block_size == 128
    assert ModelConfig.of(lazy).name == "RetinaNet"

    lazy.model.backbone = LazyCall(BlockCopyBackbone)(
        backbone=lazy.model.backbone,
        block_size=128,
        policy="all",
        guards=[dict(type="Always", mask=[[0, 0], [9, 0], [9, 9]])],
    )
    wrapped = instantiate(lazy.model).eval()
    assert list(wrapped.state_dict()) == list(plain.state_dict())
    assert handle(wrapped.backbone.inner).guards.names == ("Always(1 polygon)",)
    lazy.blockcopy = dict(block=128)
    with pytest.raises(ConfigError, match="no option 'block'"):
        blockcopy_config(lazy)


def test_weights_that_are_not_there(cfg):
    with pytest.raises(ConfigError, match="no checkpoint 'missing.pth'"):
        BlockCopyPredictor(cfg, weights="missing.pth")


def test_without_detectron2_it_says_how_to_install_it(monkeypatch):
    import importlib
    import sys

    for name in list(sys.modules):
        if name.startswith("blockcopy_plugins.integrations.detectron2"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install"):
        importlib.import_module("blockcopy_plugins.integrations.detectron2")
