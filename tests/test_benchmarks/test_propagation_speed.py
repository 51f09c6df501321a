"""Times of copied and moved frames, by the real command, and their table."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from benchmarks import propagation_speed


@pytest.fixture
def clip(tmp_path):
    """A picture of many sizes of texture that moves by three pixels a frame."""
    noise = np.random.default_rng(0)
    world = sum(
        cv2.resize(noise.random((n, 2 * n, 3)), (400, 200), interpolation=cv2.INTER_CUBIC)
        for n in (10, 30, 60)
    )
    folder = tmp_path / "pan"
    folder.mkdir()
    for index in range(7):
        part = world[20:148, 3 * index + 50 : 3 * index + 242]
        cv2.imwrite(str(folder / f"{index:03d}.png"), (part / 3 * 255).clip(0, 255))
    return folder


def test_each_way_is_timed_and_shown(clip, tmp_path, capsys):
    path = tmp_path / "speed.json"
    command = ["--network", "light_segmentor", "--size", "128x192", "--clip", f"pan={clip}"]
    command += ["--periods", "3", "--rounds", "1", "--json", str(path)]
    propagation_speed.main(command)
    assert "every 3, move" in capsys.readouterr().out
    propagation_speed.main([*command, "--add"])
    content = json.loads(path.read_text())
    # The same network on the same clip takes the place of the earlier figures.
    (result,) = content["results"]
    assert (result["network"], result["clip"]) == ("light_segmentor", "pan")
    rows = {row["propagate"]: row for row in result["rows"]}
    assert set(rows) == {"copy", "move", "auto"}
    for row in rows.values():
        assert row["mean_ms"] == pytest.approx((row["whole_ms"] + 2 * row["between_ms"]) / 3)
        assert row["speedup"] == pytest.approx(result["dense_ms"] / row["mean_ms"])
        assert row["between_ms"] < row["whole_ms"]
    assert rows["copy"]["moved_frames"] == 0
    text = propagation_speed.propagation_speed_table(content)
    assert f"| {rows['move']['mean_ms']:.1f} | **{rows['move']['speedup']:.2f}×** |" in text
