"""Laws 1 and 3, and how much runs on blocks, on networks that frameworks build by name."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.zoo.families import FAMILIES, NETWORKS
from benchmarks.zoo.named import build_named
from tests.test_zoo.laws import TOLERANCE, check

QUICK = (
    "ultralytics:yolo11n.yaml",
    "torchvision:ssdlite320_mobilenet_v3_large",
    "timm:mobilenetv3_large_100/features",
    "transformers:SegformerForSemanticSegmentation",
    "smp:unet/resnet34",
)
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks/results/zoo_families.json"


def parameters() -> list:
    return [
        pytest.param(n, id=str(n), marks=() if str(n) in QUICK else pytest.mark.weekly)
        for n in NETWORKS
    ]


@pytest.mark.parametrize("network", parameters())
def test_laws_and_share(network):
    package = network.package.replace("smp", "segmentation_models_pytorch")
    pytest.importorskip(package, reason=f"needs {package}")
    found = check(network, build_named(network), 1)
    assert found.law_1 <= TOLERANCE
    assert found.law_3 <= TOLERANCE
    assert found.moved > 0.01, "what is skipped must show, or nothing was tested"
    if network.convolutional:
        assert found.share >= 0.95, found.dense_ops


def test_quick_ones_are_of_every_family():
    assert {name.partition(":")[0] for name in QUICK} == set(FAMILIES)
    assert set(QUICK) <= set(map(str, NETWORKS))


def test_the_committed_table_keeps_the_laws():
    rows = json.loads(RESULTS.read_text())["rows"]
    known = set(map(str, NETWORKS))
    for row in rows:
        assert f"{row['package']}:{row['name']}" in known
        assert max(row["law_1"], row["law_3"]) <= TOLERANCE, row["name"]


@pytest.mark.skipif(find_spec("timm") is None, reason="needs timm")
def test_a_broken_law_would_be_seen(monkeypatch):
    """The check fails where what is skipped is not what the reference keeps."""
    from tests.test_zoo import laws

    (network,) = (n for n in NETWORKS if n.name == "repvgg_a0/features")
    plan = laws.grids(network, 1)
    monkeypatch.setattr(laws, "grids", lambda *_: plan)
    run = laws.run_blocks

    def other_grids(architecture, unit, video, grids, pack=False):
        return run(architecture, unit, video, grids if pack else [g.flip(2) for g in grids], pack)

    monkeypatch.setattr(laws, "run_blocks", other_grids)
    assert check(network, build_named(network), 1).law_3 > TOLERANCE
