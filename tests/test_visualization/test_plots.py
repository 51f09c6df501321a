"""Plots: the figures hold the data, the files are PNGs, pyplot knows of none."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from blockcopy_plugins.errors import ConfigError  # noqa: E402
from blockcopy_plugins.visualization import (  # noqa: E402
    plot_policy_curve,
    plot_rate_accuracy,
    plot_speedup,
    policy_curve_figure,
    rate_accuracy_figure,
    speedup_figure,
)
from blockcopy_plugins.visualization.policy_curve import running_mean  # noqa: E402

RATES = {
    "RLPolicy": [(0.5, 0.78), (0.1, 0.7), (0.3, 0.76)],
    "random": [(0.3, 0.55), (0.5, 0.65)],
}
SPEEDS = {"float32": [(1.0, 0.97), (0.25, 3.6), (0.5, 1.95)], "bfloat16": [(0.125, 5.3)]}


def make_records(count: int = 60) -> list[dict]:
    rng = np.random.default_rng(0)
    records = []
    for i in range(count):
        record = {"executed_rate": float(rng.random()), "reward": float(rng.normal())}
        record["information_gain"] = None if i == 0 else float(rng.random())
        if i % 4 == 3:
            record["loss"] = float(rng.normal())
        records.append(record)
    return records


def png_size(path: Path) -> tuple[int, int]:
    """Width and height from the file's own header."""
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n" and head[12:16] == b"IHDR"
    return struct.unpack(">II", head[16:24])


def lines_by_label(axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        line.get_label(): (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.get_lines()
    }


def test_running_mean_is_the_mean_of_what_is_there():
    values = np.array([1.0, np.nan, 3.0, 5.0, np.nan, np.nan, np.nan, np.nan, 2.0])
    for window in (1, 2, 3, 4, 20):
        for i, got in enumerate(running_mean(values, window)):
            near = values[max(0, i - (window - 1) // 2) : i + window // 2 + 1]
            near = near[~np.isnan(near)]
            if len(near):
                assert got == pytest.approx(sum(near) / len(near))
            else:
                assert math.isnan(got)
    with pytest.raises(ConfigError, match="window"):
        running_mean(values, 0)


def test_policy_curve_holds_the_records():
    records = make_records()
    figure = policy_curve_figure(records, target=0.3, window=5)
    names = ["executed_rate", "information_gain", "reward", "loss"]
    assert [axes.get_ylabel() for axes in figure.axes] == [n.replace("_", " ") for n in names]
    for axes, name in zip(figure.axes, names, strict=True):
        frames = [i for i, record in enumerate(records) if record.get(name) is not None]
        lines = lines_by_label(axes)
        assert lines["raw"] == (frames, [records[i][name] for i in frames])
        assert lines["mean of 5 frames"][0] == frames
        raw, mean = axes.get_lines()[:2]
        assert raw.get_alpha() < 0.5 and raw.get_color() == mean.get_color()
    assert lines_by_label(figure.axes[0])["target 0.3"][1] == [0.3, 0.3]
    rates = [record["executed_rate"] for record in records]
    smooth = lines_by_label(figure.axes[0])["mean of 5 frames"][1]
    assert smooth[10] == pytest.approx(sum(rates[8:13]) / 5)
    # A window is counted in frames: five hold one or two of the losses, which come every fourth.
    losses = {i: record["loss"] for i, record in enumerate(records) if "loss" in record}
    for frame, got in zip(*lines_by_label(figure.axes[3])["mean of 5 frames"], strict=True):
        near = [loss for i, loss in losses.items() if frame - 2 <= i <= frame + 2]
        assert got == pytest.approx(sum(near) / len(near))


def test_policy_curve_takes_frame_numbers_and_leaves_empty_panels_out():
    records = [{"frame": 10 * i, "executed_rate": i / 4, "loss": float("nan")} for i in range(5)]
    figure = policy_curve_figure(records)
    assert len(figure.axes) == 1
    assert lines_by_label(figure.axes[0])["raw"][0] == [0, 10, 20, 30, 40]
    assert not any("target" in label for label in lines_by_label(figure.axes[0]))


@pytest.mark.parametrize("records", [[], [{"something": 1.0}], [{"loss": None}]])
def test_policy_curve_without_data_is_an_error(records):
    with pytest.raises(ConfigError, match=f"none of {len(records)} records"):
        policy_curve_figure(records)


def test_rate_accuracy_holds_the_points_in_order_of_rate():
    (axes,) = rate_accuracy_figure(RATES, dense=0.783).axes
    lines = lines_by_label(axes)
    assert lines["RLPolicy"] == ([0.1, 0.3, 0.5], [0.7, 0.76, 0.78])
    assert lines["random"] == ([0.3, 0.5], [0.55, 0.65])
    assert lines["dense, AP50 0.783"][1] == [0.783, 0.783]
    colours = {line.get_color() for line in axes.get_lines()}
    assert len(colours) == 3
    assert axes.get_ylabel() == "AP50"


def test_speedup_holds_the_points_and_the_ideal():
    (axes,) = speedup_figure(SPEEDS).axes
    lines = lines_by_label(axes)
    assert lines["float32"] == ([0.25, 0.5, 1.0], [3.6, 1.95, 0.97])
    assert lines["bfloat16"] == ([0.125], [5.3])
    rates, values = lines["ideal, 1 / rate"]
    assert min(rates) == 0.125 and max(rates) == 1.0
    assert [rate * value for rate, value in zip(rates, values, strict=True)] == [1.0] * len(rates)
    # A straight line between two points is 1 / rate only where both axes are logarithmic.
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "100 %",
        "50 %",
        "25 %",
        "12.5 %",
    ]


def test_speedup_over_the_fastest_engine_is_dotted_in_the_same_colour():
    figure = speedup_figure(SPEEDS, fastest={"float32": [(0.5, 1.2), (0.25, 2.1)]})
    (axes,) = figure.axes
    (dotted,) = [line for line in axes.get_lines() if "fastest" in line.get_label()][:1]
    assert (list(dotted.get_xdata()), list(dotted.get_ydata())) == ([0.25, 0.5], [2.1, 1.2])
    (solid,) = [line for line in axes.get_lines() if line.get_label() == "float32"]
    assert dotted.get_color() == solid.get_color() and dotted.get_linestyle() == ":"
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert shown == ["ideal, 1 / rate", "float32", "bfloat16", "over the fastest dense engine"]
    with pytest.raises(ConfigError, match="names of series"):
        speedup_figure(SPEEDS, fastest={"nonesuch": [(0.5, 1.2)]})


def test_names_of_many_series_stand_beside_the_axes():
    many = {f"model {i}": [(1.0, 1.0), (0.5, 1.5 + i / 10)] for i in range(6)}
    figure = speedup_figure(many)
    assert figure.axes[0].get_legend() is None and len(figure.legends) == 1
    assert len(figure.legends[0].get_texts()) == 7


@pytest.mark.parametrize(
    ("draw", "bad"),
    [
        (rate_accuracy_figure, {}),
        (rate_accuracy_figure, {"a": []}),
        (rate_accuracy_figure, {"a": [(30.0, 0.5)]}),
        (speedup_figure, {}),
        (speedup_figure, {"a": []}),
        (speedup_figure, {"a": [(0.0, 2.0)]}),
        (speedup_figure, {"a": [(0.5, 0.0)]}),
        (speedup_figure, {"a": [(0.5, float("nan"))]}),
    ],
)
def test_points_out_of_range_are_errors(draw, bad):
    with pytest.raises(ConfigError):
        draw(bad)


def test_files_are_pngs_of_the_expected_size_and_the_same_each_time(tmp_path):
    sizes = {}
    for run in ("a", "b"):
        folder = tmp_path / run / "plots"
        sizes["policy"] = png_size(plot_policy_curve(make_records(), folder / "policy.png", 0.3))
        sizes["rate"] = png_size(plot_rate_accuracy(RATES, folder / "rate.png", 0.783))
        sizes["speed"] = png_size(plot_speedup(SPEEDS, folder / "speed.png", title="2 cores"))
        assert sorted(path.name for path in folder.iterdir()) == [
            "policy.png",
            "rate.png",
            "speed.png",
        ]
    assert sizes == {"policy": (900, 800), "rate": (700, 460), "speed": (700, 460)}
    for path in (tmp_path / "a" / "plots").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "plots" / path.name).read_bytes()


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def fail(self, path, **kwargs):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot_speedup(SPEEDS, tmp_path / "speed.png")
    assert list(tmp_path.iterdir()) == []


def test_another_suffix_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="ends in .png"):
        plot_speedup(SPEEDS, tmp_path / "speed.pdf")


def test_names_load_their_library_alone_and_plotting_leaves_pyplot_out(tmp_path):
    code = (
        "import sys\n"
        "from blockcopy_plugins import visualization\n"
        "early = {'av', 'matplotlib'} & set(sys.modules)\n"
        f"visualization.plot_speedup({SPEEDS!r}, {str(tmp_path / 'speed.png')!r})\n"
        "late = {'av', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "print(sorted(early | late))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"
    assert png_size(tmp_path / "speed.png") == (700, 460)
