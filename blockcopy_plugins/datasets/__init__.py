"""Video as data: frame sources, the loader transform and the dataset of frames.

The names are loaded when they are first used: reading frames needs only OpenCV, while the dataset
and its transform need MMEngine and MMCV.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blockcopy_plugins.datasets.citypersons_video_dataset import CityPersonsVideoDataset
    from blockcopy_plugins.datasets.cityscapes_video_dataset import CityscapesVideoDataset
    from blockcopy_plugins.datasets.frame_folder import FrameFolder
    from blockcopy_plugins.datasets.frame_range import FrameRange
    from blockcopy_plugins.datasets.frame_source import FrameSource, open_frames
    from blockcopy_plugins.datasets.live_source import LiveSource
    from blockcopy_plugins.datasets.load_video_frame import LoadVideoFrame
    from blockcopy_plugins.datasets.video_frame_dataset import VideoFrameDataset
    from blockcopy_plugins.datasets.video_reader import VideoReader

__all__ = [
    "CityPersonsVideoDataset",
    "CityscapesVideoDataset",
    "FrameFolder",
    "FrameRange",
    "FrameSource",
    "LiveSource",
    "LoadVideoFrame",
    "VideoFrameDataset",
    "VideoReader",
    "open_frames",
]


def __getattr__(name: str) -> Any:
    modules = {
        "CityPersonsVideoDataset": "citypersons_video_dataset",
        "CityscapesVideoDataset": "cityscapes_video_dataset",
        "FrameFolder": "frame_folder",
        "FrameRange": "frame_range",
        "FrameSource": "frame_source",
        "LiveSource": "live_source",
        "LoadVideoFrame": "load_video_frame",
        "VideoFrameDataset": "video_frame_dataset",
        "VideoReader": "video_reader",
        "open_frames": "frame_source",
    }
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{modules[name]}"), name)
