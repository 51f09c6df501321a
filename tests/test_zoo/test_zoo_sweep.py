"""The sweep's command and the table that is made of what it writes."""

from __future__ import annotations

import json

from benchmarks.tables import zoo
from benchmarks.zoo.__main__ import main
from tests.test_zoo.laws import TOLERANCE

ROW = {
    "name": "Net",
    "package": "mmdet",
    "covers": "all",
    "convolutional": True,
    "macs": 1.5e9,
    "share": 0.987,
    "law_1": 2e-6,
    "law_3": 3e-6,
    "dense_ops": [
        ["neck.0.gn", "aten.native_group_norm.default", "statistics", 0.0],
        ["neck.1.gn", "aten.native_group_norm.default", "statistics", 0.0],
        ["head", "DeformConv2d", "compiled", 0.0],
    ],
}


def test_table():
    other = {**ROW, "name": "Seg", "package": "mmseg", "convolutional": False, "dense_ops": []}
    text = zoo({"rows": [ROW, other], "skipped": [{"name": "Absent", "needs": "mmother"}]})
    detectors, segmentors = text.split("### Segmentors (1)")
    assert (
        "| Net † | all | 1.50 | 98.7 % | 2e-06 | 3e-06 | native_group_norm (2), DeformConv2d |"
        in detectors
    )
    assert "| Seg | all | 1.50 | 98.7 % | 2e-06 | 3e-06 |  |" in segmentors
    assert "Absent (mmother)" in text


def test_sweep_of_one(tmp_path, capsys):
    out = tmp_path / "zoo.json"
    assert main(["--only", "yolox nano", "--json", str(out)]) == 0
    assert "YOLOX nano" in capsys.readouterr().out
    results = json.loads(out.read_text())
    (row,) = results["rows"]
    assert row["name"] == "YOLOX nano" and row["macs"] > 1e7
    assert 0 < row["law_1"] < TOLERANCE and 0 < row["law_3"] < TOLERANCE
    assert row["share"] >= 0.95
    assert "YOLOX nano †" in zoo(results)
