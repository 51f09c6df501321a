"""Shared code of the plots: a figure without pyplot's global state, one look, and saving."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.part_files import whole_file

# Okabe and Ito's colours, which colour-blind people can tell apart; black is kept for references.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5230")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
REFERENCE_COLOUR = "#444444"


def new_figure(width: float, height: float) -> Figure:
    """Makes an empty figure that lays itself out.

    Args:
        width (float): Inches; a saved picture has 100 px per inch.
        height (float): Inches.

    Returns:
        Figure: With an Agg canvas, unknown to pyplot.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes) -> None:
    """Gives axes the common look: light grid below the data, no box at the top and right."""
    axes.grid(visible=True, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def line_style(index: int) -> dict[str, str]:
    """Colour and marker of a series by its index; markers distinguish repeated colours."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def save_png(figure: Figure, path: str | Path) -> Path:
    """Saves a figure as PNG; the file appears complete or not at all.

    Args:
        figure (Figure): The figure.
        path (str | Path): Must end in ``.png``; missing folders are made.

    Returns:
        Path: The file.

    Raises:
        ConfigError: If the suffix is a different one.
        OSError: If the path cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ConfigError(f"a plot is saved as PNG, to a path that ends in .png, but got '{path}'")
    with whole_file(path) as part:
        # Without date and version, the same data gives the same file.
        figure.savefig(part, format="png", dpi=100, metadata={"Software": None})
    return path
