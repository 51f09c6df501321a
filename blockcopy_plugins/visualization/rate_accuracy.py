"""What skipping blocks costs: accuracy against executed rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.visualization._figure import (
    REFERENCE_COLOUR,
    line_style,
    new_figure,
    save_png,
    style_axes,
)


def rate_accuracy_figure(
    series: Mapping[str, Sequence[tuple[float, float]]],
    dense: float | None = None,
    *,
    metric: str = "AP50",
    title: str | None = None,
) -> Figure:
    """Draws accuracy against executed rate, one line for each policy.

    Args:
        series (Mapping[str, Sequence[tuple[float, float]]]): Name of the policy -> its points
            (executed rate 0 to 1, accuracy), in any order.
        dense (float | None): The unconverted model's accuracy, a dashed line.
        metric (str): Name of the accuracy's metric. Defaults to ``'AP50'``.
        title (str | None): Title of the figure.

    Returns:
        Figure: Not known to pyplot.

    Raises:
        ConfigError: If there is no point, or a rate is not from 0 to 1.
    """
    _check_points(series)
    figure = new_figure(7.0, 4.6)
    axes = figure.add_subplot()
    if dense is not None:
        axes.axhline(
            dense,
            color=REFERENCE_COLOUR,
            linestyle="--",
            linewidth=1.4,
            label=f"dense, {metric} {dense:.3g}",
        )
    for i, (name, points) in enumerate(series.items()):
        rates, values = zip(*sorted(points), strict=True)
        axes.plot(rates, values, linewidth=2.0, markersize=6.0, label=name, **line_style(i))
    axes.set_xlim(left=0.0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.set_xlabel("executed blocks")
    axes.set_ylabel(metric)
    style_axes(axes)
    axes.legend(loc="best", framealpha=0.85)
    if title:
        axes.set_title(title)
    return figure


def plot_rate_accuracy(
    series: Mapping[str, Sequence[tuple[float, float]]],
    path: str | Path,
    dense: float | None = None,
    *,
    metric: str = "AP50",
    title: str | None = None,
) -> Path:
    """Saves :func:`rate_accuracy_figure` at a path that ends in ``.png``; takes the same arguments.

    Raises:
        ConfigError: As for the figure, or if the suffix is not ``.png``.
        OSError: If the path cannot be written.
    """
    return save_png(rate_accuracy_figure(series, dense, metric=metric, title=title), path)


def _check_points(series: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    if not series:
        raise ConfigError("a plot of accuracy needs at least one policy's points, but got none")
    for name, points in series.items():
        if not points:
            raise ConfigError(f"the policy {name!r} has no point; leave it out or measure one")
        for rate, _ in points:
            if not 0 <= rate <= 1:
                raise ConfigError(
                    f"the executed rate of {name!r} must be from 0 to 1, but got {rate}; divide a "
                    "percentage by 100"
                )
