"""Weights of Detectron2's models: found under other names, refused where they do not fit."""

from __future__ import annotations

import logging

import pytest
import torch

pytest.importorskip("detectron2")

from blockcopy_plugins.errors import ConfigError  # noqa: E402
from blockcopy_plugins.integrations.detectron2 import ModelConfig  # noqa: E402


@pytest.fixture
def saved(weights):
    return torch.load(weights, weights_only=False)["model"]


@pytest.mark.parametrize("entry", ["model", "state_dict", "ema", None])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_weights_under_other_names(cfg, saved, tmp_path, entry, prefix):
    content = {prefix + name: value for name, value in saved.items()}
    path = tmp_path / "weights.pth"
    torch.save(content if entry is None else {entry: content, "iteration": 7}, path)
    found = ModelConfig.of(cfg).build(path).state_dict()
    for name, value in saved.items():
        assert torch.equal(found[name], value), name


def test_weights_of_another_model_are_refused(cfg, saved, tmp_path):
    """Detectron2 only logs it, and the model would run with random weights."""
    path = tmp_path / "weights.pth"
    torch.save({"model": {k: v for k, v in saved.items() if k.startswith("backbone.")}}, path)
    with pytest.raises(ConfigError, match=r"weights.pth' does not fit .*: \d+ of \d+ .*none"):
        ModelConfig.of(cfg).build(path)
    name = "roi_heads.box_predictor.cls_score.weight"
    torch.save({"model": {**saved, name: torch.zeros(3, 32)}}, path)
    with pytest.raises(ConfigError, match=r"1 of .*cls_score.weight \(6, 32\) \(found \(3, 32\)\)"):
        ModelConfig.of(cfg).build(path)
    torch.save([1, 2], path)
    with pytest.raises(ConfigError, match="no tensors by name"):
        ModelConfig.of(cfg).build(path)


def test_what_the_config_says_need_not_be_in_the_file(cfg, saved, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": {k: v for k, v in saved.items() if not k.startswith("pixel_")}}, path)
    model = ModelConfig.of(cfg).build(path)
    assert model.pixel_mean.flatten().tolist() == pytest.approx(cfg.MODEL.PIXEL_MEAN)


def test_addresses_are_logged_without_secrets(cfg, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(OSError):
        ModelConfig.of(cfg).build("http://me:sesame@127.0.0.1:9/weights.pth?token=abc")
    said = caplog.text + "".join(capfd.readouterr())
    assert "127.0.0.1:9/weights.pth" in said  # there is something to hide
    assert "sesame" not in said and "abc" not in said
