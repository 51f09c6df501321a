"""The one call that converts any model, plain or of a framework."""

from __future__ import annotations

import sys

from torch import nn

from .config import BlockCopyConfig
from .engine.adapter import ModelAdapter
from .engine.convert import convert_
from .integrations.mmcv_ops import teach_compiled_ops


def blockcopy_(
    model: nn.Module,
    config: BlockCopyConfig | None = None,
    adapter: ModelAdapter | None = None,
) -> nn.Module:
    """Make a model run block-sparsely, in place.

    From then on a call takes the next frame of one or more streams: the policy picks blocks, all
    layers run on those only, and the features of earlier frames stand elsewhere. The first frame of
    a stream is executed fully. Parameters, buffers and state-dict keys do not change. Calls run
    without gradients.

    A deep copy of a converted model is another one with streams and a policy of its own, which go
    on from where these stand. A pickle (``torch.save``, another process) takes the policy and what
    it has learned along and no streams: there the next frames are executed fully. What is made for
    a device, CUDA graphs and weights in the layout of the kernels, is made anew in both.

    Args:
        model: A module whose forward takes a ``(N, C, H, W)`` tensor, or a whole detector or
            segmentor of MMDetection, MMSegmentation or Detectron2. In eval mode when it is called.
        config: Block size, policy and the like.
        adapter: How the model is called, if it is neither of the above.

    Returns:
        The same model.

    Raises:
        ConfigError: If the model is converted already, an option is out of range, or a segmentor
            runs on windows of the image (``test_cfg.mode='slide'``) or any model under test-time
            augmentation.

    Examples:
        >>> bc.blockcopy_(model, bc.BlockCopyConfig(policy=dict(type='GainPolicy', target=0.3)))
        >>> outputs = [model(frame) for frame in video]
        >>> bc.reset_(model)      # before the next video
    """
    if "mmcv.ops" in sys.modules:
        teach_compiled_ops()
    return convert_(model, config, adapter or _adapter_for(model))


def _adapter_for(model: nn.Module) -> ModelAdapter:
    # A model of a framework exists only where the framework has been imported.
    if "mmdet.models.detectors.base" in sys.modules:
        from .integrations.mmdet.adapter import DetectorAdapter

        if DetectorAdapter.fits(model):
            return DetectorAdapter()
    if "mmseg.models.segmentors.base" in sys.modules:
        from .integrations.mmseg.adapter import SegmentorAdapter

        if SegmentorAdapter.fits(model):
            return SegmentorAdapter(model)
    if "detectron2.modeling" in sys.modules:
        from .integrations.detectron2.adapter import MetaArchAdapter

        if MetaArchAdapter.fits(model):
            return MetaArchAdapter(model)
    return ModelAdapter()
