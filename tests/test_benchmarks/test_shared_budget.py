"""Two cameras under one budget, by the real command on a tiny detector."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

cv2 = pytest.importorskip("cv2")
pytest.importorskip("mmdet")


def test_the_quiet_camera_gives_to_the_busy_one(tmp_path):
    from benchmarks.shared_budget import main

    place = Path(__file__).parents[1] / "test_integrations/tiny_projects.py"
    spec = importlib.util.spec_from_file_location("tiny_projects", place)
    projects = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(projects)
    frames = 24
    clip = tmp_path / "clip"
    clip.mkdir()
    for number, picture in enumerate(projects.pictures(frames)):
        cv2.imwrite(str(clip / f"{number:02d}.png"), picture)
    config, weights = projects.write_detector(tmp_path)
    file = tmp_path / "out.json"
    main(
        [
            *(str(config), "--weights", str(weights), "--clip", f"a={clip}"),
            *("--shared", "0.3", "--alone", "0.5", "--noise", "1", "--json", str(file)),
        ]
    )
    content = json.loads(file.read_text())
    dense, alone, shared = content["rows"]
    assert content["benchmark"] == "shared_budget" and content["settings"]["noise"] == 1
    assert dense["rates"] == {} and alone["rates"].keys() == {"busy"}
    assert alone["rates"]["busy"] == pytest.approx(0.5, abs=0.06)
    # The mean of both is the budget's, and more of it is the busy one's.
    assert shared["rate"] == pytest.approx(0.3, abs=0.06)
    assert shared["rates"]["busy"] > shared["rates"]["quiet"]
    assert dense["fidelity_AP50"] == 1 and 0 < shared["fidelity_AP50"] < 1
