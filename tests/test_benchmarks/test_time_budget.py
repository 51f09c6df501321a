"""A budget of milliseconds, by the real command on a tiny detector."""

from __future__ import annotations

import json
import subprocess

from benchmarks import time_budget


def test_every_part_of_the_clip_is_measured(detector_on_clip, monkeypatch):
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(time_budget.subprocess, "Popen", Recorded)
    made = detector_on_clip(18)
    time_budget.main(
        [
            *(made.config, "--weights", made.weights, "--clip", made.clip),
            *("--targets", "100000,1", "--json", str(made.json)),
        ]
    )
    # One for each target, and none is left.
    busy = [process for process in started if process.args[-1] == "while True: pass"]
    assert len(busy) == 2 and all(process.poll() is not None for process in busy)
    content = json.loads(made.json.read_text())
    assert content["benchmark"] == "time_budget" and content["dense_ms"] > 0
    plenty, nothing = content["rows"]
    assert [row["target_ms"] for row in content["rows"]] == [100000, 1]
    assert set(plenty["parts"]) == {"first third", "with others", "last third", "last two thirds"}
    assert plenty["frames"] == 18
    # A budget without end buys every block, one that pays for nothing none behind the first frame.
    assert all(part["executed_rate"] == 1 for part in plenty["parts"].values())
    assert all(part["executed_rate"] == 0 for part in nothing["parts"].values())
    assert plenty["parts"]["last third"]["ms"] > 0
