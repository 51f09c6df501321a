"""A budget of agreement, by the real command; and its measure of agreement by hand."""

from __future__ import annotations

import json

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


def test_what_was_delivered_stands_beside_what_was_told(detector_on_clip):
    made = detector_on_clip(30)
    main(
        [
            *("--model", f"tiny={made.config},weights={made.weights},block_size=32"),
            *("--clip", made.clip, "--targets", "0.6,0.99", "--json", str(made.json)),
        ]
    )
    content = json.loads(made.json.read_text())
    loose, strict = content["rows"]
    assert (loose["clip"], loose["model"], loose["frames"]) == ("a", "tiny", 30)
    assert strict["agreement"] >= loose["agreement"] >= 0.6
    assert strict["executed_rate"] > loose["executed_rate"] and loose["comparisons"] >= 3
    assert loose["told"]["low"] <= loose["told"]["mean"] <= loose["told"]["high"]
