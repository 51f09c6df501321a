"""Laws 1 and 3, and how much runs on blocks, on architectures of both zoos."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest

from benchmarks.zoo.architectures import DETECTORS, SEGMENTORS
from benchmarks.zoo.build import build
from tests.test_zoo.laws import TOLERANCE, check, share_on_blocks

ALL = DETECTORS + SEGMENTORS
BY_NAME = {architecture.name: architecture for architecture in ALL}
# Layers that are there several times, all alike.
FEWER_LAYERS = {"DETR R18": {"model.encoder.num_layers": 2, "model.decoder.num_layers": 2}}


def available(architectures) -> list:
    return [a for a in architectures if a.needs is None or find_spec(a.needs) is not None]


def parameters() -> list:
    return [
        pytest.param(
            architecture,
            id=architecture.name,
            marks=() if architecture.quick else pytest.mark.weekly,
        )
        for architecture in ALL
    ]


@pytest.fixture(scope="module", params=parameters())
def seen(request):
    """An architecture and what was found of it with batches of one and of two."""
    architecture = request.param
    if architecture.needs is not None:
        pytest.importorskip(architecture.needs)
    unit = build(
        replace(architecture, options=FEWER_LAYERS.get(architecture.name, architecture.options))
    )
    return architecture, [check(architecture, unit, images) for images in (1, 2)]


def test_law_1_all_executed_is_dense(seen):
    assert [f.law_1 for f in seen[1]] <= [TOLERANCE] * 2, seen[0].name


def test_law_3_any_grid_is_the_masked_reference(seen):
    for found in seen[1]:
        assert found.law_3 <= TOLERANCE
        assert found.moved > 0.1, "what is skipped must show, or nothing was tested"


def test_enough_runs_on_blocks(seen):
    architecture, both = seen
    for found in both:
        if architecture.convolutional:
            assert found.share >= 0.95, found.dense_ops
        assert found.share > 0, "not even the first convolution ran on blocks"


def test_the_report_accounts_for_all_that_runs(seen):
    for found in seen[1]:
        assert found.reported_share == pytest.approx(found.share, abs=0.01)
        if found.share < 0.999:
            assert found.dense_ops, "something runs on whole maps, and the report names nothing"


@pytest.mark.parametrize("name", ["DeepLabV3+ R50", "PSPNet R50"])
def test_dilated_segmentors_are_on_blocks(name):
    architecture = BY_NAME[name]
    assert architecture.convolutional
    assert share_on_blocks(architecture, build(architecture)) >= 0.95


def test_what_is_tried():
    assert len(BY_NAME) == len(ALL)
    assert len(available(DETECTORS)) >= 28
    assert len(available(SEGMENTORS)) >= 20
    assert sum(a.convolutional for a in ALL) >= 40
    quick = [a for a in ALL if a.quick]
    assert 0.08 <= len(quick) / len(ALL) <= 0.15
    assert {a.package for a in quick} == {"mmdet", "mmseg"}
    cut = [a for a in ALL if a.size[0] % a.block or a.size[1] % a.block]
    assert len(cut) >= 0.9 * len(ALL), "blocks that the image's edge cuts must be the rule"
    assert all(max(a.size) > a.block for a in ALL)
