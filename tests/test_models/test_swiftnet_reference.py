"""SwiftNet against the public codes of its authors and of BlockCopy's, on the same weights.

``data/swiftnet_reference.npz`` was recorded by running orsic/swiftnet (commit 3ece731,
``models/semseg.py`` on ``models/resnet/resnet_single_scale.py``) and the segmentation of
thomasverelst/blockcopy-video-processing-pytorch (commit 9d7a462, ``lib/models/swiftnet``, without
its profiler and ``blockcopy_noblocks``) on the weights and the image below, on a CPU, with torch
2.13, in evaluation mode. Of each network: the names and shapes of its state dict, in its order, and
every fifth row and seventh column of its logits at a quarter of the image's resolution. Once more
of the authors' with ``inplace=False`` in its blocks' ReLUs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("mmseg")

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

from blockcopy_plugins.checkpoints import CheckpointError, KeyRules, convert_state
from blockcopy_plugins.models.swiftnet import checkpoint

ROOT = Path(__file__).resolve().parents[2]
RULES = {
    "orsic_rn18": checkpoint.SWIFTNET_ORSIC_RN18,
    "blockcopy_rn18": checkpoint.SWIFTNET_BLOCKCOPY_RN18,
    "blockcopy_rn50": checkpoint.SWIFTNET_BLOCKCOPY_RN50,
}


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "data" / "swiftnet_reference.npz") as file:
        return dict(file)


def source_weights(keys: np.ndarray) -> dict[str, Tensor]:
    """As they were drawn for the recording."""
    draw = torch.Generator().manual_seed(3)
    state = {}
    for line in keys.tobytes().decode().splitlines():
        key, _, sides = line.partition(" ")
        shape = [int(side) for side in sides.split("x") if side]
        if key.endswith("num_batches_tracked") or "img_" in key:
            state[key] = torch.zeros(shape)
            continue
        value = torch.randn(shape, generator=draw)
        if value.dim() == 4:
            value *= (1 / value[0].numel()) ** 0.5
        elif key.endswith("running_var"):
            value = 0.5 + value.abs()
        else:
            value = value * 0.1 + float(key.endswith("weight"))
        state[key] = value
    return state


def image() -> Tensor:
    """RGB, from 0 to 255."""
    draw = torch.Generator().manual_seed(4)
    return torch.randint(0, 256, (1, 3, 160, 288), generator=draw)


def build(name: str, **changes) -> nn.Module:
    config = Config.fromfile(ROOT / f"configs/_base_/models/{name}.py")
    config.merge_from_dict({f"model.{key}": value for key, value in changes.items()})
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build(config.model).eval()


@torch.no_grad()
def logits(model: nn.Module, state: dict[str, Tensor], rules: KeyRules) -> Tensor:
    """Of the image, in BGR through the model's own preprocessing."""
    model.load_state_dict(convert_state(state, rules, model.state_dict()), strict=True)
    data = model.data_preprocessor({"inputs": [image()[0].flip(0).byte()]}, False)
    return model(data["inputs"], mode="tensor")


def close(found: Tensor, wanted: np.ndarray) -> None:
    found = found[0, :, ::5, ::7].numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", RULES)
def test_same_weights_same_logits(name, recorded):
    rules = RULES[name]
    found = logits(build(rules.model), source_weights(recorded[f"{name}_keys"]), rules)
    assert found.shape == (1, 19, 40, 72)
    close(found, recorded[f"{name}_logits"])


def test_skips_before_the_relu(recorded):
    """What the authors' code would give if its ReLUs did not overwrite the skips."""
    rules = RULES["orsic_rn18"]
    model = build(rules.model, **{"backbone.skips_before_relu": True})
    found = logits(model, source_weights(recorded["orsic_rn18_keys"]), rules)
    close(found, recorded["orsic_rn18_not_in_place_logits"])


def test_weights_of_a_wrapped_model(recorded):
    model = build("swiftnet_r18")
    state = source_weights(recorded["blockcopy_rn18_keys"])
    wanted = convert_state(state, RULES["blockcopy_rn18"], model.state_dict())
    wrapped = {f"module.{key}": value for key, value in state.items()}
    found = convert_state(wrapped, RULES["blockcopy_rn18"], model.state_dict())
    assert found.keys() == wanted.keys() == model.state_dict().keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda s: s.pop("spp.spp.spp1.conv.weight"), r"neck\.spp\.levels\.1\.conv\.weight"),
        (lambda s: s.update({"spp.spp.spp3.conv.weight": s["spp.spp.spp2.conv.weight"]}), "spp3"),
        (lambda s: s.update({"upsample.1.gate": torch.zeros(1)}), r"upsample\.1\.gate"),
    ],
)
def test_other_weights_are_an_error(spoil, says, recorded):
    state = source_weights(recorded["blockcopy_rn18_keys"])
    spoil(state)
    with pytest.raises(CheckpointError, match=says):
        convert_state(state, RULES["blockcopy_rn18"], build("swiftnet_r18").state_dict())
