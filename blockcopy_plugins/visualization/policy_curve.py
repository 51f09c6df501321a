"""How a policy learned: its figures over the frames of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.visualization._figure import (
    COLOURS,
    REFERENCE_COLOUR,
    new_figure,
    save_png,
    style_axes,
)

_PANELS = (
    ("executed_rate", "executed rate"),
    ("information_gain", "information gain"),
    ("reward", "reward"),
    ("loss", "loss"),
)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Centred mean over a window, of the values that exist.

    Args:
        values (np.ndarray): (T,) float; NaN where there is none (the loss of a frame without an
            update).
        window (int): Width in frames; at the ends, the mean is over the part inside.

    Returns:
        np.ndarray: (T,) float64; NaN where the whole window is NaN.

    Raises:
        ConfigError: If ``window`` is below 1.
    """
    if window < 1:
        raise ConfigError(f"window must be at least 1 frame, but got {window}")
    values = np.asarray(values, np.float64)
    here = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(here, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(here)])
    position = np.arange(len(values))
    first = np.maximum(position - (window - 1) // 2, 0)
    last = np.minimum(position + window // 2 + 1, len(values))
    count = counts[last] - counts[first]
    total = sums[last] - sums[first]
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def policy_curve_figure(
    records: Sequence[Mapping[str, Any]],
    target: float | None = None,
    *,
    window: int | None = None,
    title: str | None = None,
) -> Figure:
    """Draws executed rate, information gain, reward and loss against the frame number.

    Each quantity that occurs has a panel, with the raw values in a light colour and their running
    mean in a strong one.

    Args:
        records (Sequence[Mapping]): One per frame, with any of ``executed_rate`` (0 to 1),
            ``information_gain``, ``reward``, ``loss``, and ``frame`` (number; by default the place
            in the sequence). A value that is missing, None or NaN is a gap in the raw line.
        target (float | None): The executed rate that the policy is rewarded to hold, 0 to 1; a
            dashed line.
        window (int | None): Frames of the running mean; None takes a fortieth of the run, at least
            5.
        title (str | None): Title of the figure.

    Returns:
        Figure: Not known to pyplot.

    Raises:
        ConfigError: If no record holds any of the quantities.
    """
    series = {
        key: np.array([_number(record.get(key)) for record in records], np.float64)
        for key, _ in _PANELS
    }
    panels = [(key, name) for key, name in _PANELS if np.isfinite(series[key]).any()]
    if not panels:
        raise ConfigError(
            f"none of {len(records)} records holds a number under "
            f"{', '.join(key for key, _ in _PANELS)}; pass the scalars of each frame's policy "
            "feedback"
        )
    frames = np.array(
        [_number(record.get("frame", place)) for place, record in enumerate(records)], np.float64
    )
    window = window or max(5, len(records) // 40)

    figure = new_figure(9.0, 1.2 + 1.7 * len(panels))
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for i, (axes, (key, name)) in enumerate(zip(all_axes, panels, strict=True)):
        values = series[key]
        there = np.isfinite(values)
        colour = COLOURS[i]
        # Drawn through the frames that have a value: a loss every fourth frame is a line, not dots.
        axes.plot(frames[there], values[there], color=colour, alpha=0.3, linewidth=1.0, label="raw")
        axes.plot(
            frames[there],
            running_mean(values, window)[there],
            color=colour,
            linewidth=2.0,
            label=f"mean of {window} frames",
        )
        if key == "executed_rate":
            if target is not None:
                axes.axhline(
                    target,
                    color=REFERENCE_COLOUR,
                    linestyle="--",
                    linewidth=1.2,
                    label=f"target {target:g}",
                )
            axes.set_ylim(0.0, max(1.02, float(np.nanmax(values))))
        axes.set_ylabel(name)
        style_axes(axes)
    # One legend: the panels differ only in colour, and a box in each would hide their peaks.
    all_axes[0].legend(loc="upper right", ncols=3, fontsize="small", framealpha=0.85)
    all_axes[-1].set_xlabel("frame")
    all_axes[-1].margins(x=0.01)
    figure.align_ylabels()
    if title:
        figure.suptitle(title)
    return figure


def plot_policy_curve(
    records: Sequence[Mapping[str, Any]],
    path: str | Path,
    target: float | None = None,
    *,
    window: int | None = None,
    title: str | None = None,
) -> Path:
    """Saves :func:`policy_curve_figure` at a path that ends in ``.png``; takes the same arguments.

    Raises:
        ConfigError: As for the figure, or if the suffix is not ``.png``.
        OSError: If the path cannot be written.
    """
    return save_png(policy_curve_figure(records, target, window=window, title=title), path)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
