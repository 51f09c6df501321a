"""The curves as pictures: one for each clip and model, and an overview."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from blockcopy_plugins.visualization._figure import (
    REFERENCE_COLOUR,
    line_style,
    new_figure,
    save_png,
    style_axes,
)

from .curves import TITLES

_ORACLES = ("#000000", "#888888")


def draw(content: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Draw what has been measured so far.

    Args:
        content: Of the JSON file.
        folder: Where the PNGs go: ``MODEL_CLIP.png`` and ``overview.png``.

    Returns:
        The files.
    """
    results = [result for result in content["results"] if _policies([result])]
    styles = _styles(results)
    paths = []
    for result in results:
        name = re.sub(r"[^\w.-]+", "_", f"{result['model']}_{result['clip']}.png")
        paths.append(save_png(clip_figure(result, styles), Path(folder) / name))
    if results:
        paths.append(save_png(overview_figure(results, styles), Path(folder) / "overview.png"))
    return paths


def clip_figure(result: Mapping[str, Any], styles: Mapping[str, Mapping] | None = None) -> Figure:
    """Draw all figures of a model on a clip, a panel for each.

    Args:
        result: An entry of ``results`` of the JSON file.
        styles: Of the lines, by policy; None makes some.
    """
    styles = styles or _styles([result])
    figures = result["figures"]
    figure = new_figure(5.2 * len(figures) + 2.6, 4.6)
    panels = figure.subplots(1, len(figures), squeeze=False)[0]
    for axes, name in zip(panels, figures, strict=True):
        _panel(axes, result, name, styles)
        axes.set_xlabel("executed blocks")
    figure.suptitle(_title(result))
    _legend(figure, panels)
    return figure


def overview_figure(
    results: Sequence[Mapping[str, Any]],
    styles: Mapping[str, Mapping] | None = None,
    times: bool = False,
) -> Figure:
    """Draw the first figure of each model on each clip, a panel for each.

    Args:
        results: The ``results`` of the JSON file.
        styles: Of the lines, by policy; None makes some.
        times: Draw it against the CPU time of a frame, not against the executed rate.
    """
    styles = styles or _styles(results)
    columns = 2 if len(results) == 4 else min(3, len(results))
    rows = math.ceil(len(results) / columns)
    figure = new_figure(4.6 * columns + 2.6, 3.8 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, result in zip(panels, results, strict=False):
        _panel(axes, result, result["figures"][0], styles, times)
        axes.set_title(_title(result), fontsize="medium")
        axes.set_xlabel("CPU ms a frame" if times else "executed blocks")
    for axes in panels[len(results) :]:
        axes.set_axis_off()
    _legend(figure, panels[: len(results)])
    return figure


def _panel(
    axes: Axes,
    result: Mapping[str, Any],
    name: str,
    styles: Mapping[str, Mapping],
    times: bool = False,
) -> None:
    dense = result["dense"]["windows"]["all"].get(name)
    if dense is not None:
        axes.axhline(
            dense, color=REFERENCE_COLOUR, linestyle=":", linewidth=1.4, label="dense", zorder=1
        )
    most = 0.0
    for policy in _policies([result]):
        points = sorted(
            (
                run["cpu_ms"] if times else run["windows"]["all"]["executed_rate"],
                run["windows"]["all"][name],
            )
            for run in result["runs"]
            if run["policy"] == policy
            and "reason" not in run
            and run["windows"]["all"].get(name) is not None
        )
        if points:
            rates, values = zip(*points, strict=True)
            most = max(most, *rates)
            axes.plot(rates, values, linewidth=1.8, markersize=5.5, label=policy, **styles[policy])
    axes.margins(y=0.08)
    axes.set_xlim(0.0, 1.06 * most if most else 1.0)
    if not times:
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.set_ylabel(TITLES.get(name, name))
    style_axes(axes)


def _legend(figure: Figure, panels: Iterable[Axes]) -> None:
    entries: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside right center",
        frameon=False,
        fontsize="small",
        handlelength=3.5,
    )


def _title(result: Mapping[str, Any]) -> str:
    start, stop = result["frames"]
    return f"{result['model']} on {result['clip']}, {stop - start} frames"


def _policies(results: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
    """Names of the policies that have run, in order, and whether each is an oracle."""
    return {
        run["policy"]: run["config"]["type"] == "oracle"
        for result in results
        for run in result["runs"]
        if "reason" not in run
    }


def _styles(results: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A look for each policy, the same in all pictures; oracles are dashed and grey."""
    found = _policies(results)
    oracles = [name for name, is_oracle in found.items() if is_oracle]
    others = [name for name, is_oracle in found.items() if not is_oracle]
    styles = {name: {**line_style(i), "zorder": 3} for i, name in enumerate(others)}
    for i, name in enumerate(oracles):
        styles[name] = dict(color=_ORACLES[i % 2], linestyle="--", marker=".", zorder=2)
    return styles
