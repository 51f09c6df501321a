"""The table of outputs that were copied beside moved ones."""

from __future__ import annotations

import pytest

from benchmarks.policies.pictures import overview_figure
from benchmarks.policies.propagation_table import propagation_tables


def run(policy, config, rate, value, ms):
    windows = {"all": {"executed_rate": rate, "AP50": value}}
    return {"policy": policy, "config": config, "windows": windows, "cpu_ms": ms}


@pytest.fixture
def report():
    moved = dict(type="EveryNthFramePolicy", n=3, propagate="move")
    runs = [
        run("EveryNthFramePolicy", dict(type="EveryNthFramePolicy", n=3), 0.33, 0.6, 20.0),
        run("EveryNthFramePolicy, moved", moved, 0.33, 0.75, 24.5),
        # One that has no counterpart, and one that could not run.
        run("GainPolicy", dict(type="GainPolicy", target=0.2), 0.2, 0.5, 18.0),
        {"policy": "GainPolicy, moved", "config": dict(target=0.2), "reason": "it broke"},
    ]
    dense = {"cpu_ms": 60.0, "windows": {"all": {"executed_rate": 1.0, "AP50": 0.8}}}
    result = dict(model="net", clip="street", frames=[0, 30], figures=["AP50"], dense=dense)
    return {"results": [{**result, "runs": runs}]}


def test_what_moving_wins_back_of_the_loss(report):
    text = propagation_tables(report)
    assert "**net on street** (AP50, frames 0 to 30; dense 0.800, 60.0 CPU ms a frame)" in text
    row = "| EveryNthFramePolicy(3) | 33.0% | 0.600 | **0.750** | 75% | 20.0 | 24.5 |"
    assert row in text and "GainPolicy" not in text


def test_curves_may_be_over_the_time_of_a_frame(report):
    (axes, *_) = overview_figure(report["results"], times=True).axes
    assert axes.get_xlabel() == "CPU ms a frame"
    points = {line.get_label(): line.get_xdata().tolist() for line in axes.lines[1:]}
    assert points == {
        "EveryNthFramePolicy": [20.0],
        "EveryNthFramePolicy, moved": [24.5],
        "GainPolicy": [18.0],
    }
