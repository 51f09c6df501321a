"""A budget of agreement, by the real command; and its measure of agreement by hand."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fidelity_budget import answer_agreement, main, scored_agreement
from benchmarks.policies.answers import LabelMap


def test_detections_by_hand():
    one, other = [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 6.0]  # IoU 0.6
    far = [50.0, 50.0, 60.0, 60.0]
    assert scored_agreement(([one], [0.5], [1]), ([other], [0.7], [1])) == pytest.approx(1)
    assert scored_agreement(([one], [0.5], [1]), ([other], [0.7], [2])) == 0
    # Of scores 0.5 + 0.7 in a pair and 0.3 + 0.5 alone.
    found = ([one, far], [0.5, 0.3], [1, 1])
    assert scored_agreement(found, ([other, one], [0.5, 0.7], [1, 1])) == pytest.approx(1.2 / 2)
    assert scored_agreement(([], [], []), ([], [], [])) == 1
    assert scored_agreement(([one], [0.5], [1]), ([], [], [])) == 0


def test_labels_by_hand():
    found = LabelMap(np.array([[0, 1], [2, 2]], np.uint8), 3)
    wanted = LabelMap(np.array([[0, 1], [1, 2]], np.uint8), 3)
    assert answer_agreement(found, wanted) == 0.75


def test_what_was_delivered_stands_beside_what_was_told(tmp_path):
    cv2 = pytest.importorskip("cv2")
    pytest.importorskip("mmdet")
    place = Path(__file__).parents[1] / "test_integrations/tiny_projects.py"
    spec = importlib.util.spec_from_file_location("tiny_projects", place)
    projects = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(projects)
    clip = tmp_path / "clip"
    clip.mkdir()
    for number, picture in enumerate(projects.pictures(30)):
        cv2.imwrite(str(clip / f"{number:02d}.png"), picture)
    config, weights = projects.write_detector(tmp_path)
    file = tmp_path / "out.json"
    main(
        [
            *("--model", f"tiny={config},weights={weights},block_size=32"),
            *("--clip", f"a={clip}", "--targets", "0.6,0.99", "--json", str(file)),
        ]
    )
    content = json.loads(file.read_text())
    loose, strict = content["rows"]
    assert (loose["clip"], loose["model"], loose["frames"]) == ("a", "tiny", 30)
    assert strict["agreement"] >= loose["agreement"] >= 0.6
    assert strict["executed_rate"] > loose["executed_rate"] and loose["comparisons"] >= 3
    assert loose["told"]["low"] <= loose["told"]["mean"] <= loose["told"]["high"]
