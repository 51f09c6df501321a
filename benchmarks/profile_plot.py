"""The profile as a picture: a bar for dense and each rate, stacked by kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from blockcopy_plugins.visualization._figure import (
    REFERENCE_COLOUR,
    new_figure,
    save_png,
    style_axes,
)

from .profile import KINDS

# Okabe and Ito's colours for what costs most, greys and lighter tones for the rest.
COLOURS = {
    "conv": "#0072B2",
    "gather": "#D55E00",
    "scatter": "#E69F00",
    "pointwise": "#009E73",
    "pooling": "#56B4E9",
    "resize": "#CC79A7",
    "copy": "#F0E442",
    "dispatch": "#777777",
    "policy": "#9467bd",
    "other": "#c7c7c7",
}


def profile_figure(results: Mapping[str, Any]) -> Figure:
    """Draw the stacked bars, a panel for each device and dtype.

    A bar is as wide as the executed blocks' share of time may be: what is higher than the dashed
    line, the dense frame times the rate, is lost.

    Args:
        results: What :func:`benchmarks.profile.main` returned.

    Returns:
        Not known to pyplot.
    """
    runs = results["runs"]
    figure = new_figure(2.2 + 4.2 * len(runs), 4.6)
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    shown = [k for k in KINDS if any(p["kinds_ms"][k] for r in runs for p in r["profile"].values())]
    for axes, run in zip(panels, runs, strict=True):
        found = run["profile"]
        bottom = [0.0] * len(found)
        for kind in shown:
            heights = [entry["kinds_ms"][kind] for entry in found.values()]
            axes.bar(
                range(len(found)),
                heights,
                bottom=bottom,
                width=0.62,
                color=COLOURS[kind],
                edgecolor="white",
                linewidth=0.5,
                label=kind,
            )
            bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
        for i, name in enumerate(found):
            if name != "dense":
                ideal = float(name) * found["dense"]["ms"]
                axes.plot(
                    [i - 0.42, i + 0.42],
                    [ideal, ideal],
                    "--",
                    color=REFERENCE_COLOUR,
                    linewidth=1.4,
                    label="dense \u00d7 rate" if i == 1 else None,
                )
        axes.set_xticks(range(len(found)), [_name(name) for name in found])
        axes.set_title(f"{run['device']}, {run['dtype']}", fontsize="medium")
        axes.set_ylabel("ms a frame")
        style_axes(axes)
        axes.grid(visible=False, axis="x")
    handles, labels = panels[0].get_legend_handles_labels()
    # From top to bottom as in the bars.
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper", frameon=False)
    return figure


def plot_profile(results: Mapping[str, Any], path: str | Path) -> Path:
    """Save :func:`profile_figure` as PNG.

    Args:
        results: See there.
        path: The file, ending in ``.png``.

    Returns:
        The file.
    """
    return save_png(profile_figure(results), path)


def _name(name: str) -> str:
    return name if name == "dense" else f"{100 * float(name):.3g} %"
