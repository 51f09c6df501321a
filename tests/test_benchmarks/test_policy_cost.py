"""The policy's cost: its multiply-accumulates, and figures that follow from times."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]

from benchmarks import policy_cost  # noqa: E402
from blockcopy_plugins.policy import GainPolicy, RLPolicy  # noqa: E402

# Published for one frame of 1024x2048 px.
SWIFTNET_RN18_MACS = 104e9


@pytest.fixture(autouse=True)
def _same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("block_size", [64, 80, 96, 128, 160, 192, 256])
def test_macs_are_at_most_two_percent_of_swiftnet(block_size):
    counted = RLPolicy(seed=0).macs((1, 3, 1024, 2048), block_size)
    assert counted["forward"] > 0 and counted["update"] > 0
    assert counted["total"] == counted["forward"] + counted["update"]
    assert counted["total"] <= 0.02 * SWIFTNET_RN18_MACS


def test_row_follows_from_its_times():
    case = policy_cost.Case((64, 128), 32, "float32", "contiguous", "boxes", 1)
    macs = {"forward": 10**9, "update": 3 * 10**9, "total": 4 * 10**9}
    row = policy_cost.cost_row(
        case, [1.0, 2.0, 9.0], [0.5, 0.7], [8.0], 4, macs, dense_gmacs=400, dense_ms=460
    )
    assert row["select_ms"] == 2.0 and row["feedback_ms"] == 0.6 and row["update_ms"] == 8.0
    assert row["frame_ms"] == pytest.approx(2.0 + 0.6 + 2.0)
    assert row["macs_share"] == pytest.approx(0.01) and row["time_share"] == pytest.approx(0.01)
    row = policy_cost.cost_row(case, [1.0], [1.0], [1.0], 1, macs)
    assert row["macs_share"] is None and row["time_share"] is None and row["frame_ms"] == 3.0


@pytest.mark.parametrize("kind", policy_cost.OUTPUTS)
def test_outputs_of_a_scene_fit_the_frame(kind):
    first, second, *_ = policy_cost.make_outputs(kind, (64, 96), classes=5, stride=8, count=7)
    if kind == "semantic":
        assert first.shape == second.shape == (5, 8, 12) and not torch.equal(first, second)
        return
    assert len(first) == 7 and not torch.equal(first.boxes, second.boxes)
    assert (first.masks is None) == (kind == "boxes")
    if kind == "masks":
        assert first.masks.shape == (7, 16, 24) and first.masks.any()


def test_command(tmp_path, capsys):
    target = tmp_path / "cost.json"
    arguments = "--sizes 64x128 --block-sizes 32,64 --dtypes float32,bfloat16 --threads 1"
    arguments += " --outputs semantic,masks --detections 3 --layouts channels_last,contiguous"
    arguments += " --gain-boxes 3,5 --gain-masks 2"
    arguments += f" --update-every 2 --frames 6 --warmup 3 --dense-gmacs 2 --json {target}"
    policy_cost.main(arguments.split())
    results = json.loads(target.read_text())
    assert set(results["machine"]) >= {"cpu", "threads", "torch", "extension", "commit"}
    rows = results["rows"]
    cases = {tuple(row[key] for key in ("block_size", "dtype", "layout", "output")) for row in rows}
    assert len(rows) == len(cases) == 16
    for row in rows:
        times = row["times"]
        assert {name: len(values) for name, values in times.items()} == {
            "select": 6,
            "feedback": 6,
            "update": 3,
        }
        assert all(value > 0 for values in times.values() for value in values)
        medians = [statistics.median(times[name]) for name in ("select", "feedback", "update")]
        assert row["frame_ms"] == pytest.approx(medians[0] + medians[1] + medians[2] / 2)
        counted = RLPolicy(seed=0).macs((1, 3, 64, 128), row["block_size"])
        assert row["macs"] == counted
        assert row["macs_share"] == pytest.approx(counted["total"] / 2e9)
    lines = capsys.readouterr().out.splitlines()
    assert "of dense MACs" in lines[0] and "of dense time" not in lines[0]
    gains = results["gain"]
    keys = ("block_size", "output", "count")
    assert [tuple(row[key] for key in keys) for row in gains] == [
        (size, kind, count)
        for kind, count in (("boxes", 3), ("boxes", 5), ("masks", 2))
        for size in (32, 64)
    ]
    for row in gains:
        steps = ("summarise", "output_map", "compare")
        assert all(len(row["times"][step]) == 6 for step in steps)
        medians = [statistics.median(row["times"][step]) for step in steps]
        assert [row[f"{step}_ms"] for step in steps] == medians
        assert row["gain_ms"] == pytest.approx(sum(medians)) and row["gain_ms"] > 0
    assert "information gain of" in lines[17] and len(lines) == 17 + 1 + len(gains)


def test_the_default_policy_is_driven_too(tmp_path):
    target = tmp_path / "cost.json"
    arguments = "--policies GainPolicy,RLPolicy --sizes 64x128 --block-sizes 32 --dtypes float32"
    arguments += " --outputs semantic,boxes --detections 3 --gain-boxes 3 --gain-masks 2"
    policy_cost.main(f"{arguments} --threads 1 --frames 4 --json {target}".split())
    rows = json.loads(target.read_text())["rows"]
    policies = ["GainPolicy", "RLPolicy", "GainPolicy", "RLPolicy"]
    assert [row["policy"] for row in rows] == policies
    for row in rows[::2]:
        assert row["times"]["update"] == [] and row["update_ms"] == 0
        assert row["macs"] == GainPolicy().macs((1, 3, 64, 128), 32)


@pytest.mark.parametrize(
    "arguments", ["--outputs logits", "--layouts nhwc", "--frames 2", "--dtypes int8"]
)
def test_wrong_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        policy_cost.parse_arguments(arguments.split())
    assert arguments.split()[0] in capsys.readouterr().err
