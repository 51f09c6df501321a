"""Every format: all keys of the source find their place, damage is told, and it is recognised.

What the sources have is in ``data/*.txt``, listed by the code bases' own models; for torchvision it
is written down after its public source. That the values are used as there is tested beside the
networks (``tests/test_models/test_*_pedestron.py`` and the like), for ResNets here.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from blockcopy_plugins.checkpoints import (
    FORMATS,
    CheckpointError,
    convert_state,
    detect_format,
    find_format,
)

ROOT = Path(__file__).resolve().parents[2]
NAMES = [found.name for found in FORMATS]


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


from tests.test_checkpoints import source_states as sources  # noqa: E402


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return _load(ROOT / "tools" / "convert_checkpoint.py")
    finally:
        sys.path.remove(str(ROOT / "tools"))


@pytest.fixture(scope="module")
def target_of(tool):
    """The state dict of a format's model, without memory; each is built once."""
    built = {}

    def target(found, rules):
        if found not in built:
            with torch.device("meta"):
                built[found] = tool.own_target(found, rules)
        return built[found]

    return target


def left_out(name: str, key: str) -> bool:
    """What no model of ours has a place for."""
    if name.startswith("torchvision"):
        return key.startswith(("fc.", "classifier."))
    return key in ("backbone.img_mean", "backbone.img_std", "backbone.img_scale")


@pytest.mark.parametrize("name", NAMES)
def test_no_key_is_lost_and_all_are_filled(name, target_of):
    found = find_format(name)
    rules = found.rules()
    assert rules.name == name
    target = target_of(found, rules)
    state = sources.state_of(sources.source_shapes(name))
    converted = convert_state(state, rules, target)
    kept = [key for key in state if not left_out(name, key)]
    assert len(converted) == len(kept) > 25
    wanted = set(target)
    if name.startswith("torchvision"):
        wanted = {key for key in target if key.startswith("backbone.")}
    assert set(converted) == wanted
    assert all(converted[key].shape == target[key].shape for key in converted)


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_told(name, target_of):
    found = find_format(name)
    rules = found.rules()
    target = target_of(found, rules)
    good = sources.state_of(sources.source_shapes(name))
    (victim, *_) = [key for key in good if key.endswith("weight") and not left_out(name, key)]
    goal = rules.target_of(victim)

    def told(state):
        with pytest.raises(CheckpointError) as error:
            convert_state(state, rules, target)
        return str(error.value)

    without = {key: value for key, value in good.items() if key != victim}
    assert f"keys of the model that nothing fills (1):\n    {goal}\n" in told(without)
    assert "unknown keys in the checkpoint (1):\n    surplus.weight\n" in told(
        good | {"surplus.weight": torch.zeros(1)}
    )
    text = told(good | {victim: torch.zeros(5, 7)})
    assert f"shapes that differ (1):\n    {goal}: (5, 7) (from {victim})" in text
    assert str(tuple(target[goal].shape)) in text


@pytest.mark.parametrize("name", NAMES)
def test_each_is_recognised(name, target_of):
    state = sources.state_of(sources.source_shapes(name))
    assert detect_format(state, FORMATS, target_of).name == name


def test_files_from_before_batches_were_counted(target_of):
    state = sources.state_of(sources.resnet_shapes(18, counted=False))
    found = detect_format(state, FORMATS, target_of)
    assert found.name == "torchvision-resnet18"
    rules = found.rules()
    converted = convert_state(state, rules, target_of(found, rules))
    assert len(converted) == len(state) - 2


def test_what_is_not_recognised_is_told(target_of):
    state = sources.state_of(sources.source_shapes("swiftnet-blockcopy-rn18"))
    with pytest.raises(CheckpointError) as error:
        detect_format(
            {**state, "logits.conv.weight": torch.zeros(11, 128, 1, 1)}, FORMATS, target_of
        )
    text = str(error.value)
    assert "swiftnet-blockcopy-rn18 (1)" in text and "decode_head.conv_seg.weight" in text
    assert "(11, 128, 1, 1)" in text and "(19, 128, 1, 1)" in text
    with pytest.raises(CheckpointError, match="surplus") as error:
        detect_format({**state, "surplus": torch.zeros(1)}, FORMATS, target_of)
    assert "swiftnet-blockcopy-rn18 (1)" in str(error.value)
    with pytest.raises(CheckpointError, match="knows any of the checkpoint's 2 keys.*cls, pos"):
        detect_format({"pos": torch.zeros(1), "cls": torch.zeros(1)}, FORMATS, target_of)


@pytest.mark.parametrize("depth", [18, 50])
def test_the_nearest_is_told_first(depth, target_of):
    """Both formats know all of these keys; only one model has them."""
    built = []

    def target(found, rules):
        built.append(found.name)
        return target_of(found, rules)

    names = [f"swiftnet-blockcopy-rn{d}" for d in (depth, 68 - depth)]
    state = sources.state_of(sources.source_shapes(names[0]))
    del state["backbone.conv1.weight"]
    with pytest.raises(CheckpointError) as error:
        detect_format(state, FORMATS, target)
    assert f"nearest, and how many of its keys or the model's do not fit: {names[0]} (1), " in str(
        error.value
    )
    assert f"With {names[0]}:\n  keys of the model that nothing fills (1)" in str(error.value)
    assert sorted(built) == sorted(names), "no other model need be built"


def test_an_unknown_name_lists_the_known():
    with pytest.raises(CheckpointError, match="'pedestron'.*auto.*pedestron-csp.*vgg16_bn"):
        find_format("pedestron")


def torchvision_resnet(state, depth: int, x):
    """Forward of torchvision's ResNet (models/resnet.py) up to its last stage."""

    def norm(name, x):
        p = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *p)

    blocks, kernels, _ = sources.RESNETS[depth]
    x = F.relu(norm("bn1", F.conv2d(x, state["conv1.weight"], stride=2, padding=3)))
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, count in enumerate(blocks):
        for block in range(count):
            name, stride = f"layer{stage + 1}.{block}", 2 if stage > 0 and block == 0 else 1
            skip, out = x, x
            for i, kernel in enumerate(kernels, 1):
                # The stride is in the first convolution with a kernel of 3.
                here = stride if i == kernels.index(3) + 1 else 1
                weight = state[f"{name}.conv{i}.weight"]
                out = norm(f"{name}.bn{i}", F.conv2d(out, weight, None, here, kernel // 2))
                out = F.relu(out) if i < len(kernels) else out
            if f"{name}.downsample.0.weight" in state:
                skip = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
                skip = norm(f"{name}.downsample.1", skip)
            x = F.relu(out + skip)
    return x


@torch.no_grad()
@pytest.mark.parametrize(
    ("depth", "kind"), [(18, "blockcopy_plugins.SwiftNetResNet"), (50, "mmdet.ResNet")]
)
def test_resnets_give_what_torchvision_gives(depth, kind):
    from mmengine.registry import MODELS

    draw = torch.Generator().manual_seed(depth)
    state = {}
    for key, shape in sources.resnet_shapes(depth).items():
        value = torch.randn(shape, generator=draw)
        if len(shape) == 4:
            value *= (2 / value[0].numel()) ** 0.5
        if key.endswith("running_var"):
            value = value.abs() + 0.5
        state[key] = value if shape else torch.tensor(0)
    found = find_format(f"torchvision-resnet{depth}")
    model = MODELS.build({"type": kind, "depth": depth})
    model.eval()
    target = {f"backbone.{key}": value for key, value in model.state_dict().items()}
    converted = convert_state(state, found.rules(), target)
    model.load_state_dict(
        {key.removeprefix("backbone."): value for key, value in converted.items()}, strict=True
    )
    frame = torch.randn(1, 3, 64, 96, generator=draw)
    wanted = torchvision_resnet(state, depth, frame)
    assert wanted.std() > 1e-3
    torch.testing.assert_close(
        model(frame)[-1], wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item()
    )
