"""The benchmark's figures follow from its times. How fast anything is, is not tested."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.efficiency import efficiency_row  # noqa: E402
from benchmarks.grids import draw_grid, executed_blocks  # noqa: E402


def test_row_is_computed_from_its_times():
    row = efficiency_row(
        executed=32,
        blocks=128,
        dense=[1000.0, 1200.0, 5000.0],
        sparse=[260.0, 290.0, 280.0, 900.0],
        policy=[1.0, 1.0, 1.0, 13.0],
    )
    assert row["dense_ms"] == 1200.0 and row["model_ms"] == 285.0
    assert row["policy_ms"] == 4.0, "an update in one of four frames is a quarter of an update each"
    assert row["sparse_ms"] == 289.0
    assert row["speedup"] == pytest.approx(1200.0 / 289.0)
    assert row["efficiency"] == pytest.approx(1200.0 / 289.0 * 0.25)


@pytest.mark.parametrize("pattern", ["random", "clustered"])
@pytest.mark.parametrize("count", [0, 1, 5, 24])
def test_grid_has_the_exact_count(pattern, count):
    draw = torch.Generator().manual_seed(1)
    grid = draw_grid(count, (4, 6), draw, pattern)
    assert grid.shape == (1, 4, 6) and grid.dtype == torch.bool and int(grid.sum()) == count


def test_clustered_grid_is_one_patch():
    grid = draw_grid(6, (20, 20), torch.Generator().manual_seed(3), "clustered")[0]
    spread = grid.nonzero().float().std(0).max().item()
    assert spread < 2.5, "6 blocks around one point, not over 20 x 20"


def test_count_of_a_rate():
    assert [executed_blocks(r, 128) for r in (1.0, 0.5, 0.25, 0.125, 0.001)] == [128, 64, 32, 16, 1]


def test_command_writes_consistent_json(tmp_path):
    pytest.importorskip("mmdet")
    target = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks.efficiency", "--size", "64x128"]
    command += ["--block-size", "64", "--rates", "1,0.5", "--dtypes", "float32", "--threads", "1"]
    command += ["--repeats", "2", "--warmup", "1", "--json", str(target)]
    run = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
    )
    assert run.returncode == 0, run.stderr
    results = json.loads(target.read_text())
    assert set(results["machine"]) >= {"cpu", "cores", "threads", "torch", "allocator", "commit"}
    assert results["machine"]["threads"] == 1
    assert [row["executed"] for row in results["rows"]] == [2, 1]
    for row in results["rows"]:
        times = row["times"]
        assert {len(times[name]) for name in ("dense", "sparse", "policy")} == {2}
        dense = statistics.median(times["dense"])
        sparse = statistics.median(times["sparse"]) + statistics.fmean(times["policy"])
        assert row["policy_ms"] > 0 and row["state_bytes"] > 0 and row["blocks"] == 2
        assert row["speedup"] == pytest.approx(dense / sparse)
        assert row["efficiency"] == pytest.approx(dense / sparse * row["executed"] / 2)
    assert "100.0%" in run.stdout and "50.0%" in run.stdout
