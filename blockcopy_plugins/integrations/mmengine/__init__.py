"""MMEngine integration: what a config of MMDetection or MMSegmentation can name."""

from blockcopy_plugins.integrations.mmengine.backbone import BlockCopyBackbone
from blockcopy_plugins.integrations.mmengine.hook import BlockCopyHook, load_policy, save_policy
from blockcopy_plugins.integrations.mmengine.sampler import VideoBatchSampler, VideoSampler

__all__ = [
    "BlockCopyBackbone",
    "BlockCopyHook",
    "VideoBatchSampler",
    "VideoSampler",
    "load_policy",
    "save_policy",
]
