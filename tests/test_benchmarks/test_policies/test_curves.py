"""Curves, areas, tables and pictures of figures that are given."""

from __future__ import annotations

import pytest

from benchmarks.policies.comparison import compare
from benchmarks.policies.curves import GRID, Curve, curves_of
from benchmarks.policies.tables import policies_tables


def test_the_grid():
    assert len(GRID) == 61 and GRID[0] == 0.1 and GRID[-1] == 0.7


def test_areas_are_trapezoids():
    # From 0.1 to 0.3 the mean of 0.2 and 0.6, from there on 0.6.
    curve = Curve([(0.7, 0.6), (0.1, 0.2), (0.3, 0.6)])
    assert curve.area() == pytest.approx((0.2 * 0.4 + 0.4 * 0.6) / 0.6)
    assert curve.at([0.1, 0.2, 0.65]) == pytest.approx([0.2, 0.4, 0.6])
    # A corner between two rates of the grid costs less than half of one step.
    curve = Curve([(0.0, 0.0), (0.405, 0.81), (1.0, 0.81)])
    wanted = ((0.2 + 0.81) / 2 * 0.305 + 0.81 * 0.295) / 0.6
    assert curve.area() == pytest.approx(wanted, abs=1e-4)


def test_the_ends_are_of_all_policies():
    ends = [(0.05, 0.1), (1.0, 1.0)]
    curve = Curve([(0.25, 0.5), (0.55, 0.7)], ends)
    assert curve.measured == (0.25, 0.55)
    assert curve.at([0.15, 0.4, 0.7]) == pytest.approx([0.3, 0.6, 0.8])
    before, between, after = 0.15 * (0.2 + 0.5) / 2, 0.3 * 0.6, 0.15 * (0.7 + 0.8) / 2
    assert curve.area() == pytest.approx((before + between + after) / 0.6)
    # Of runs at the same rate the mean counts, and a policy's own run more than an end.
    assert Curve([(0.3, 0.2), (0.3, 0.4), (0.05, 0.0)], ends).at([0.3, 0.05]) == pytest.approx(
        [0.3, 0.0]
    )


def test_no_area_where_a_curve_ends_before():
    curve = Curve([(0.2, 0.5), (1.0, 1.0)])
    assert curve.area() is None and curve.at([0.1, 0.2]) == [None, 0.5]
    assert Curve([]).summary() == {
        "area": None,
        "measured": None,
        "at": dict.fromkeys(["0.1", "0.2", "0.3", "0.5", "0.7"]),
    }


def test_margins_and_the_way_to_the_oracle():
    curves = {
        "a": Curve([(0.1, 0.5), (0.5, 0.9)]),
        "b": Curve([(0.1, 0.6), (0.3, 0.6), (1.0, 0.6)]),
        "c": Curve([(0.2, 0.1)]),
        "o": Curve([(0.1, 0.8), (0.3, 0.8), (0.301, 0.6), (1.0, 0.6)]),
    }
    found = compare("a", curves, {"o"})
    # 0.1 below b at 10 %, half of the way down that leads up to the oracle.
    assert found["least_margin"] == pytest.approx(-0.1) and found["rate"] == 0.1
    assert found["way_to_oracle"] == pytest.approx(-0.5)
    # b is best up to 20 %, then a, which is 0.3 above it at 50 %; beyond that a has no runs.
    found = compare("b", curves, {"o"})
    assert found["least_margin"] == pytest.approx(-0.3) and found["rate"] == 0.5
    found = compare("b", {name: curves[name] for name in "bo"}, {"o"})
    assert found == {"least_margin": None, "rate": None, "way_to_oracle": None}, "no rivals"
    assert compare("a", {**curves, "o": curves["c"]}, {"o"})["way_to_oracle"] is None
    near = Curve([(0.1, 0.604), (0.2, 0.604), (0.21, 0.0), (0.5, 0.0)])
    assert compare("a", {**curves, "o": near}, {"o"})["way_to_oracle"] is None


def one_result():
    def windows(rate, value):
        return {"all": {"executed_rate": rate, "agreement": value, "fidelity_mIoU": None}}

    def run(policy, config, rate, value):
        return dict(policy=policy, config=config, policy_ms=1.25, windows=windows(rate, value))

    result = dict(clip="street", model="net", frames=[10, 40], block_size=64)
    result |= dict(figures=["agreement", "fidelity_mIoU"], nothing=dict(windows=windows(0.03, 0.2)))
    result |= dict(dense=dict(ms=12.4, windows=windows(1.0, 1.0)))
    result["runs"] = [
        run("Good", dict(type="Good", target=0.2), 0.2, 0.9),
        run("Good", dict(type="Good", target=0.5), 0.5, 0.95),
        run("Bad", dict(type="Bad", target=0.5), 0.5, 0.5),
        dict(policy="Bad", config=dict(type="Bad", target=0.1), reason="ConfigError: no"),
        run("oracle", dict(type="oracle", target=0.1), 0.1, 0.99),
    ]
    return result


def test_table(tmp_path):
    from benchmarks.policies.report import ReportFile

    report = ReportFile(tmp_path / "a.json", {}, resume=False)
    report.content["results"].append(one_result())
    report.write()
    text = policies_tables(report.content)
    assert (
        "**net on street** (pixels with the dense label, frames 10 to 40, blocks of 64 px" in text
    )
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [line[0] for line in lines[2:]] == ["| *oracle*", "| Good", "| Bad"], "best first"
    good = lines[3]
    low = 0.2 + 0.7 * (0.1 - 0.03) / 0.17
    at = [f"({low:.3f})", "0.900", f"{0.9 + 0.05 / 3:.3f}", "0.950", "(0.970) "]
    assert good[2:7] == [*at[:-1], "(0.970)"] and good[9] == "1.2 |"
    # Bad's line rises from the first frame alone to its only run, and is nearest there; at 20 % it
    # is at 0.309, and the oracle's at 0.991.
    assert good[7] == "+0.450 at 50 %" and good[8] == "87 %"
    area = 0.1 * (low + 0.9) / 2 + 0.3 * 0.925 + 0.2 * 0.96
    assert float(good[1]) == pytest.approx(area / 0.6, abs=6e-4)
    assert lines[4][8] == "none"
    assert lines[2][7:] == ["", "", " |"], "what the oracle costs says nothing"
    curves = curves_of(one_result())
    assert curves["Bad"]["all"]["agreement"].measured == (0.5, 0.5)
    assert curves["Bad"]["all"]["fidelity_mIoU"].area() is None


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks.policies.pictures import clip_figure, draw, overview_figure

    result = one_result()
    figure = clip_figure(result)
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert list(lines["Good"].get_xdata()) == [0.2, 0.5]
    assert list(lines["Good"].get_ydata()) == [0.9, 0.95]
    assert list(lines["Bad"].get_xdata()) == [0.5]
    assert lines["oracle"].get_linestyle() == "--" and lines["Good"].get_linestyle() == "-"
    assert len({lines[name].get_color() for name in ("Good", "Bad", "oracle")}) == 3
    assert figure.axes[0].get_xlabel() == "executed blocks"
    assert 0.5 < figure.axes[0].get_xlim()[1] < 0.6, "with room for the last marker"
    assert figure.axes[1].get_xlim() == (0, 1), "a figure that says nothing"
    assert figure.axes[0].get_ylabel() == "pixels with the dense label"
    (legend,) = figure.legends
    names = {text.get_text() for text in legend.get_texts()}
    assert names == {"dense", "Good", "Bad", "oracle"}
    other = {**one_result(), "clip": "other: clip/2"}
    titles = [axes.get_title() for axes in overview_figure([result, other]).axes]
    assert titles == ["net on street, 30 frames", "net on other: clip/2, 30 frames"]
    paths = draw({"results": [result, other, {**one_result(), "runs": []}]}, tmp_path)
    assert [p.name for p in paths] == ["net_street.png", "net_other_clip_2.png", "overview.png"]
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in paths)
    assert draw({"results": []}, tmp_path) == []
