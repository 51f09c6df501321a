"""Pictures of a run: video files, overlays on frames, and the plots that the docs show.

The names are loaded when they are first used, so that writing a video needs only PyAV and plotting
needs only matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blockcopy_plugins.visualization.caption import FrameCaption, draw_caption
    from blockcopy_plugins.visualization.overlay import draw_blocks, draw_detections
    from blockcopy_plugins.visualization.policy_curve import plot_policy_curve, policy_curve_figure
    from blockcopy_plugins.visualization.rate_accuracy import (
        plot_rate_accuracy,
        rate_accuracy_figure,
    )
    from blockcopy_plugins.visualization.segmentation import draw_segmentation
    from blockcopy_plugins.visualization.speedup import plot_speedup, speedup_figure
    from blockcopy_plugins.visualization.video_writer import VideoWriter, usable_rate

__all__ = [
    "FrameCaption",
    "VideoWriter",
    "draw_blocks",
    "draw_caption",
    "draw_detections",
    "draw_segmentation",
    "plot_policy_curve",
    "plot_rate_accuracy",
    "plot_speedup",
    "policy_curve_figure",
    "rate_accuracy_figure",
    "speedup_figure",
    "usable_rate",
]

_MODULE_OF = {
    "FrameCaption": "caption",
    "VideoWriter": "video_writer",
    "draw_blocks": "overlay",
    "draw_caption": "caption",
    "draw_detections": "overlay",
    "draw_segmentation": "segmentation",
    "plot_policy_curve": "policy_curve",
    "plot_rate_accuracy": "rate_accuracy",
    "plot_speedup": "speedup",
    "policy_curve_figure": "policy_curve",
    "rate_accuracy_figure": "rate_accuracy",
    "speedup_figure": "speedup",
    "usable_rate": "video_writer",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
