"""MMEngine integration: the classes that a config of MMDetection or MMSegmentation can name."""

from blockcopy_plugins.integrations.mmengine.backbone import BlockCopyBackbone
from blockcopy_plugins.integrations.mmengine.checkpoint_check_hook import CheckpointCheckHook
from blockcopy_plugins.integrations.mmengine.config_names import find_mmseg_configs
from blockcopy_plugins.integrations.mmengine.hook import BlockCopyHook, find_hook
from blockcopy_plugins.integrations.mmengine.loops import BlockCopyTestLoop
from blockcopy_plugins.integrations.mmengine.policy_checkpoint_hook import PolicyCheckpointHook
from blockcopy_plugins.integrations.mmengine.policy_curve_hook import PolicyCurveHook
from blockcopy_plugins.integrations.mmengine.policy_train_loop import PolicyTrainLoop
from blockcopy_plugins.integrations.mmengine.sampler import VideoBatchSampler, VideoSampler
from blockcopy_plugins.integrations.mmengine.tracking_loop import BlockCopyTrackingLoop
from blockcopy_plugins.integrations.mmengine.video_hook import BlockCopyVideoHook
from blockcopy_plugins.integrations.mmengine.video_inferencer import FrameOutput, VideoInferencer
from blockcopy_plugins.policy.policy_file import load_policy, save_policy

__all__ = [
    "BlockCopyBackbone",
    "BlockCopyHook",
    "BlockCopyTestLoop",
    "BlockCopyTrackingLoop",
    "BlockCopyVideoHook",
    "CheckpointCheckHook",
    "FrameOutput",
    "PolicyCheckpointHook",
    "PolicyCurveHook",
    "PolicyTrainLoop",
    "VideoBatchSampler",
    "VideoInferencer",
    "VideoSampler",
    "find_hook",
    "find_mmseg_configs",
    "load_policy",
    "save_policy",
]

find_mmseg_configs()
