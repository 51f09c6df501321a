"""A backbone that runs block-sparsely, for configs that wrap a model rather than add a hook."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModule
from torch import nn

from ...registry import MODELS
from ..common.shared_backbone import SharedBackbone

_OF_THE_HOOK = dict.fromkeys(
    ("interleaved", "one_video"),
    "a backbone gets images and does not know their videos. Name these with a "
    "custom_hooks=[dict(type='blockcopy_plugins.BlockCopyHook', ...)] beside it, or name streams "
    "with bc.streams; without either, image i of each batch is stream i.",
)


@MODELS.register_module()
class BlockCopyBackbone(SharedBackbone, BaseModule):
    """Wraps a registered backbone, which runs block-sparsely in eval mode, unchanged in training.

    Its parameters and buffers are those of the wrapped backbone under the same names, so that
    checkpoints of the plain model load here, and those saved here load there. Its outputs are
    dense, so neck and heads run on whole maps; with :class:`BlockCopyHook` they run on blocks, too.
    Information gain is the change of the backbone's features, which ``propagate`` moves.

    Args:
        backbone: Config of the backbone, or the module itself.
        pretrained: Weights that a segmentor of MMSegmentation passes to its backbone, for the
            wrapped one.
        **options: Those of :class:`~blockcopy_plugins.BlockCopyConfig` and ``policy_checkpoint``,
            the file of a trained policy to start from. Add a :class:`BlockCopyHook` that knows
            which video an image belongs to.

    Raises:
        ConfigError: If an option is unknown or out of range or the policy file does not fit.

    Examples:
        >>> model = dict(backbone=dict(
        ...     _delete_=True, type='blockcopy_plugins.BlockCopyBackbone',
        ...     backbone={{_base_.model.backbone}}))
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        pretrained: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if pretrained is not None and isinstance(backbone, dict):
            backbone = {**backbone, "pretrained": pretrained}
        inner = MODELS.build(backbone) if isinstance(backbone, dict) else backbone
        self._share(inner, options, _OF_THE_HOOK)

    def init_weights(self) -> None:
        """Initialise the wrapped backbone by its own rules."""
        if not hasattr(self.inner, "init_weights"):
            return
        # MMEngine's record of who initialised what, which it passes to all submodules of a model.
        # The wrapped backbone is not a submodule, and would open and close a record of its own.
        book = self.__dict__.get("_params_init_info")
        if book is not None:
            self.inner._params_init_info = book
        try:
            self.inner.init_weights()
        finally:
            if book is not None:
                del self.inner._params_init_info
        self._is_init = True
