"""Block-sparse execution of convolutional networks on video, with no retraining.

>>> import blockcopy_plugins as bc
>>> bc.blockcopy_(model, bc.BlockCopyConfig(block_size=128, policy='all'))
>>> for frame in video:
...     out = model(frame)
>>> print(bc.report(model))
>>> bc.reset_(model)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .allocator import retain_pages
from .api import blockcopy_, dense, handle, motion, report, reset_, restore_, streams
from .config import BlockCopyConfig
from .engine.convert import to_dense
from .engine.macs import MacCounter
from .engine.tensor.block_tensor import BlockTensor
from .estimate import Estimate, estimate

if TYPE_CHECKING:
    from .integrations.mmengine.video_inferencer import VideoInferencer as VideoInferencer

__version__ = "0.1.0"

__all__ = [
    "BlockCopyConfig",
    "BlockTensor",
    "Estimate",
    "MacCounter",
    "blockcopy_",
    "dense",
    "estimate",
    "handle",
    "motion",
    "report",
    "reset_",
    "restore_",
    "retain_pages",
    "streams",
    "to_dense",
]


def __getattr__(name: str) -> Any:
    # Not in __all__: it needs MMEngine, which users of other frameworks need not install.
    if name != "VideoInferencer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from .integrations.mmengine.video_inferencer import VideoInferencer
    except ModuleNotFoundError as error:
        raise ImportError(
            f"VideoInferencer needs {error.name}, which is not installed: pip install "
            "onedl-mmengine onedl-mmcv, and onedl-mmdetection or onedl-mmsegmentation for models, "
            "or OpenMMLab's packages of these names without onedl-"
        ) from error
    return VideoInferencer
