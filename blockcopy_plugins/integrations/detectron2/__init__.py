"""Detectron2: config keys, backbone builder, predictor, dataset, sampler and evaluation.

>>> cfg = get_cfg()
>>> add_blockcopy_config(cfg)                      # before merge_from_file
>>> cfg.merge_from_file('my_config.yaml')
>>> predictor = BlockCopyPredictor(cfg)
>>> for frame in VideoReader('street.mp4'):
...     outputs = predictor(frame)

Importing it registers ``build_blockcopy_backbone`` in Detectron2's ``BACKBONE_REGISTRY``.
"""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("detectron2") is None:
    raise ImportError(
        "blockcopy_plugins.integrations.detectron2 needs Detectron2, which is not installed. It is "
        "on no package index; after torch and torchvision: pip install --no-build-isolation "
        "'git+https://github.com/facebookresearch/detectron2.git' (needs a C++ compiler)"
    )

from .adapter import MetaArchAdapter
from .backbone import BlockCopyBackbone, build_blockcopy_backbone
from .config import add_blockcopy_config, blockcopy_config
from .evaluation import BlockCopyCallbacks, BlockCopyEvaluator, inference_on_video
from .model_config import ModelConfig
from .predictor import BlockCopyPredictor
from .sampler import VideoBatchSampler, VideoSampler, build_video_test_loader
from .video_dataset import VideoFrameDataset, VideoFrameMapper
from .video_drawer import OVERLAY_ENDING, VideoDrawer
from .video_run import VideoRun

__all__ = [
    "OVERLAY_ENDING",
    "BlockCopyBackbone",
    "BlockCopyCallbacks",
    "BlockCopyEvaluator",
    "BlockCopyPredictor",
    "MetaArchAdapter",
    "ModelConfig",
    "VideoBatchSampler",
    "VideoDrawer",
    "VideoFrameDataset",
    "VideoFrameMapper",
    "VideoRun",
    "VideoSampler",
    "add_blockcopy_config",
    "blockcopy_config",
    "build_blockcopy_backbone",
    "build_video_test_loader",
    "inference_on_video",
]
