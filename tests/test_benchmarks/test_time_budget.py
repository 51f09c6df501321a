"""A budget of milliseconds, by the real command on a tiny detector."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
from pathlib import Path

import pytest

cv2 = pytest.importorskip("cv2")
pytest.importorskip("mmdet")


def test_every_part_of_the_clip_is_measured(tmp_path):
    from benchmarks.time_budget import main

    place = Path(__file__).parents[1] / "test_integrations/tiny_projects.py"
    spec = importlib.util.spec_from_file_location("tiny_projects", place)
    projects = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(projects)
    clip = tmp_path / "clip"
    clip.mkdir()
    for number, picture in enumerate(projects.pictures(18)):
        cv2.imwrite(str(clip / f"{number:02d}.png"), picture)
    config, weights = projects.write_detector(tmp_path)
    file = tmp_path / "out.json"
    main(
        [
            *(str(config), "--weights", str(weights), "--clip", f"a={clip}"),
            *("--targets", "100000,1", "--json", str(file)),
        ]
    )
    assert not multiprocessing.active_children()
    content = json.loads(file.read_text())
    assert content["benchmark"] == "time_budget" and content["dense_ms"] > 0
    plenty, nothing = content["rows"]
    assert [row["target_ms"] for row in content["rows"]] == [100000, 1]
    assert set(plenty["parts"]) == {"first third", "with others", "last third", "last two thirds"}
    assert plenty["frames"] == 18
    # A budget without end buys every block, one that pays for nothing none behind the first frame.
    assert all(part["executed_rate"] == 1 for part in plenty["parts"].values())
    assert all(part["executed_rate"] == 0 for part in nothing["parts"].values())
    assert plenty["parts"]["last third"]["ms"] > 0
