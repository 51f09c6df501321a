"""A backbone of Detectron2 that runs block-sparsely, for YAML and lazy configs."""

from __future__ import annotations

import multiprocessing
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

from ...errors import ConfigError
from ..common.shared_backbone import SharedBackbone
from .config import OF_THE_INPUTS, blockcopy_config, has_blockcopy


class BlockCopyBackbone(SharedBackbone, Backbone):
    """Wraps a backbone, which runs block-sparsely in eval mode, unchanged in training.

    Its parameters and buffers are those of the wrapped backbone under the same names, so that
    checkpoints of the plain model load unchanged and checkpoints saved here load there. Its outputs
    are dense: proposal network and heads run on whole maps. To run them on blocks too, convert
    the whole model (:class:`BlockCopyPredictor`, ``blockcopy_``). Information gain is the change
    of the backbone's features, which ``propagate`` moves.

    Args:
        backbone: The backbone.
        **options: Those of :class:`~blockcopy_plugins.BlockCopyConfig` and ``policy_checkpoint``,
            the file of a trained policy to start from.

    Raises:
        ConfigError: If an option is unknown or out of range, or the model is built in one of the
            processes of an ``AsyncPredictor``.

    Examples:
        >>> model = model_zoo.get_config('common/models/mask_rcnn_fpn.py').model
        >>> model.backbone = L(BlockCopyBackbone)(backbone=model.backbone, block_size=128)
    """

    def __init__(
        self,
        backbone: nn.Module,
        **options: Any,
    ) -> None:
        super().__init__()
        refuse_prediction_worker()
        self._share(backbone, options, OF_THE_INPUTS)

    @property
    def size_divisibility(self) -> int:
        """That of the wrapped backbone: frames need not be multiples of the block size."""
        return self.inner.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Those of the wrapped backbone."""
        return self.inner.padding_constraints

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides of the wrapped backbone's features."""
        return self.inner.output_shape()


@BACKBONE_REGISTRY.register()
def build_blockcopy_backbone(cfg: Any, input_shape: ShapeSpec) -> BlockCopyBackbone:
    """The backbone of ``MODEL.BLOCKCOPY.BACKBONE`` in a :class:`BlockCopyBackbone`.

    Args:
        cfg: A config with the keys of :func:`~.config.add_blockcopy_config`.
        input_shape: As all builders of backbones get it.

    Returns:
        The wrapped backbone.

    Raises:
        ConfigError: If the keys are missing, or the wrapped builder is this one.
    """
    if not has_blockcopy(cfg):
        raise ConfigError(
            "build_blockcopy_backbone needs the keys MODEL.BLOCKCOPY: call "
            "add_blockcopy_config(cfg) before merge_from_file."
        )
    name = cfg.MODEL.BLOCKCOPY.BACKBONE
    if name == "build_blockcopy_backbone":
        raise ConfigError(
            "MODEL.BLOCKCOPY.BACKBONE is build_blockcopy_backbone itself; name the builder of the "
            "backbone to wrap, such as build_resnet_fpn_backbone."
        )
    backbone = BACKBONE_REGISTRY.get(name)(cfg, input_shape)
    config = blockcopy_config(cfg)
    return BlockCopyBackbone(backbone, **config.__dict__)


def refuse_prediction_worker() -> None:
    """Refuse to build a backbone in a process of Detectron2's ``AsyncPredictor``.

    Raises:
        ConfigError: If this is one.
    """
    if type(multiprocessing.current_process()).__name__ == "_PredictWorker":
        raise ConfigError(
            "an AsyncPredictor deals the frames of a video to several processes, each of which "
            "would keep the features of other frames. Use a BlockCopyPredictor, one for each "
            "process, and give each whole videos."
        )
