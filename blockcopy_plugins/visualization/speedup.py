"""What skipping blocks brings: speed-up against executed rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.visualization._figure import (
    REFERENCE_COLOUR,
    line_style,
    new_figure,
    save_png,
    style_axes,
)


def speedup_figure(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    fastest: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    title: str | None = None,
) -> Figure:
    """Draws speed-up against executed rate, with the ideal 1 / rate.

    Both axes are logarithmic, so that the ideal is a straight line and the distance to it is the
    sparse efficiency E = speed-up x rate.

    Args:
        series (Mapping[str, Sequence[tuple[float, float]]]): Name, e.g. ``'Mask R-CNN, float32'``
            -> its points (executed rate above 0 to 1, dense time / sparse time), in any order.
        fastest (Mapping | None): For some of the series, the same against the fastest dense engine
            that was tried; drawn dotted in the colour of the series.
        title (str | None): Title of the figure.

    Returns:
        Figure: Not known to pyplot.

    Raises:
        ConfigError: If there is no point, a rate is not above 0 and at most 1, a speed-up is not
            above 0, or ``fastest`` names something that is not a series.
    """
    _check_points(series)
    fastest = {} if fastest is None else fastest
    if fastest:
        _check_points(fastest)
    if not set(fastest) <= set(series):
        raise ConfigError(
            f"fastest names {sorted(set(fastest) - set(series))}, expected names of series: "
            f"{list(series)}"
        )
    drawn = [*series.values(), *fastest.values()]
    all_points = np.array([point for points in drawn for point in points], np.float64)
    lowest = min(0.5, float(all_points[:, 0].min()))
    # With many lines there is no room for their names between them.
    beside = len(series) > 3
    figure = new_figure(9.6 if beside else 7.0, 4.6)
    axes = figure.add_subplot()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.plot(
        [lowest, 1.0],
        [1.0 / lowest, 1.0],
        color=REFERENCE_COLOUR,
        linestyle="--",
        linewidth=1.4,
        label="ideal, 1 / rate",
    )
    for i, (name, points) in enumerate(series.items()):
        rates, values = zip(*sorted(points), strict=True)
        axes.plot(rates, values, linewidth=2.0, markersize=6.0, label=name, **line_style(i))
        if name in fastest:
            rates, values = zip(*sorted(fastest[name]), strict=True)
            axes.plot(
                rates,
                values,
                linestyle=":",
                linewidth=1.6,
                markersize=5.0,
                markerfacecolor="white",
                label=f"_{name}, over the fastest dense engine",  # not in the legend
                **line_style(i),
            )
    axes.axhline(1.0, color=REFERENCE_COLOUR, linewidth=0.8)

    # Halves from 100 % down to the lowest rate; doublings over the whole range of speed-ups.
    axes.set_xticks([0.5**power for power in range(int(np.ceil(-np.log2(lowest) - 1e-9)) + 1)])
    low = np.floor(np.log2(min(1.0, float(all_points[:, 1].min()))) + 1e-9)
    high = np.ceil(np.log2(max(1.0 / lowest, float(all_points[:, 1].max()))) - 1e-9)
    axes.set_yticks([2.0**power for power in range(int(low), int(high) + 1)])
    for axis, text in ((axes.xaxis, _percent), (axes.yaxis, _times)):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(text))
    axes.set_xlim(1.08, lowest / 1.08)  # from all blocks on the left to few on the right
    axes.set_xlabel("executed blocks")
    axes.set_ylabel("speed-up over dense")
    style_axes(axes)
    if fastest:
        axes.plot([], [], ":", color=REFERENCE_COLOUR, label="over the fastest dense engine")
    if beside:
        figure.legend(loc="outside right upper", frameon=False)
    else:
        axes.legend(loc="upper left", framealpha=0.85)
    if title:
        axes.set_title(title)
    return figure


def plot_speedup(
    series: Mapping[str, Sequence[tuple[float, float]]],
    path: str | Path,
    *,
    fastest: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    title: str | None = None,
) -> Path:
    """Saves :func:`speedup_figure` at a path that ends in ``.png``; takes the same arguments.

    Raises:
        ConfigError: As for the figure, or if the suffix is not ``.png``.
        OSError: If the path cannot be written.
    """
    return save_png(speedup_figure(series, fastest=fastest, title=title), path)


def _percent(value: float, _position: int | None = None) -> str:
    return f"{100 * value:.3g} %"


def _times(value: float, _position: int | None = None) -> str:
    return f"{value:g}\u00d7"


def _check_points(series: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    if not series:
        raise ConfigError("a plot of speed-up needs at least one series, but got none")
    for name, points in series.items():
        if not points:
            raise ConfigError(f"the series {name!r} has no point; leave it out or measure one")
        for rate, value in points:
            if not 0 < rate <= 1 or not value > 0:
                raise ConfigError(
                    f"a point of {name!r} must have a rate above 0 and at most 1 and a speed-up "
                    f"above 0, but got ({rate}, {value})"
                )
