"""Two cameras under one budget, by the real command on a tiny detector."""

from __future__ import annotations

import json

import pytest

from benchmarks.shared_budget import main


def test_the_quiet_camera_gives_to_the_busy_one(detector_on_clip):
    made = detector_on_clip(24)
    main(
        [
            *(made.config, "--weights", made.weights, "--clip", made.clip),
            *("--shared", "0.3", "--alone", "0.5", "--noise", "1", "--json", str(made.json)),
        ]
    )
    content = json.loads(made.json.read_text())
    dense, alone, shared = content["rows"]
    assert content["benchmark"] == "shared_budget" and content["settings"]["noise"] == 1
    assert dense["rates"] == {} and alone["rates"].keys() == {"busy"}
    assert alone["rates"]["busy"] == pytest.approx(0.5, abs=0.06)
    # The mean of both is the budget's, and more of it is the busy one's.
    assert shared["rate"] == pytest.approx(0.3, abs=0.06)
    assert shared["rates"]["busy"] > shared["rates"]["quiet"]
    assert dense["fidelity_AP50"] == 1 and 0 < shared["fidelity_AP50"] < 1
