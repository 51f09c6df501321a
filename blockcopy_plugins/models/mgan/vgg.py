"""VGG as a backbone whose stages may omit their pooling."""

from __future__ import annotations

from collections.abc import Sequence

from mmcv.cnn.vgg import VGG as VGGLayout
from mmcv.cnn.vgg import make_vgg_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.registry import MODELS

_STAGES = 5


@MODELS.register_module()
class VGG(BaseModule):
    """The convolutions of VGG (Simonyan and Zisserman, ICLR 2015).

    Layers are numbered as torchvision numbers them, ``features.{index}``, so that its weights load
    as they are: VGG16's convolutions are 0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28 (with batch
    norm ``features.{0, 1, 3, 4, ...}``). The replacement of an omitted pooling has a number and no
    parameters.

    Args:
        depth: 11, 13, 16 or 19.
        strides: For each of the five stages, 2 (it ends with a max pooling) or 1 (it does not).
            ``(2, 2, 2, 1, 1)`` is MGAN's: the output has a stride of 8.
        with_bn: Batch norm after each convolution.
        ceil_mode: Whether a pooling's last window may reach over the map's edge, as in Pedestron;
            torchvision's may not. With sizes that are multiples of the stride, no window does.
        base_channels: Channels of the first stage; 64 in the paper.
        out_indices: Stages, from 0, whose output is returned.
        frozen_stages: Number of stages, from the first, that are not trained.
        norm_eval: Whether batch norms keep their statistics in training.
        init_cfg: How weights are drawn or where they are loaded from, see MMEngine.

    Raises:
        ConfigError: If a depth or stride is unknown, or a stage does not exist.
    """

    def __init__(
        self,
        depth: int = 16,
        strides: Sequence[int] = (2, 2, 2, 2, 2),
        with_bn: bool = False,
        ceil_mode: bool = True,
        base_channels: int = 64,
        out_indices: Sequence[int] = (4,),
        frozen_stages: int = -1,
        norm_eval: bool = True,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = [
                {"type": "Kaiming", "layer": "Conv2d"},
                {"type": "Constant", "val": 1, "layer": "BatchNorm2d"},
            ]
        super().__init__(init_cfg)
        _check(depth, strides, out_indices, frozen_stages)
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        layers: list[nn.Module] = []
        in_channels = 3
        # The number after each stage's last layer.
        self.stage_ends: list[int] = []
        for stage, convs in enumerate(VGGLayout.arch_settings[depth]):
            channels = base_channels * 2 ** min(stage, 3)
            made = make_vgg_layer(
                in_channels, channels, convs, with_bn=with_bn, ceil_mode=ceil_mode
            )
            if strides[stage] == 1:
                made[-1] = nn.Identity()
            layers += made
            in_channels = channels
            self.stage_ends.append(len(layers))
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run the stages.

        Args:
            x: Images ``(N, 3, H, W)``.

        Returns:
            The output of each stage in ``out_indices``, ``(N, C, ceil(H / s), ceil(W / s))`` with s
            the product of the strides up to there (floor without ``ceil_mode``).
        """
        outs = []
        start = 0
        for stage, end in enumerate(self.stage_ends[: max(self.out_indices) + 1]):
            x = self.features[start:end](x)
            start = end
            if stage in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def train(self, mode: bool = True) -> VGG:
        """Switch between training and evaluation; frozen parts stay as they are.

        Args:
            mode: Training, or evaluation.

        Returns:
            This module.
        """
        super().train(mode)
        if mode and self.norm_eval:
            for module in self.features:
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        if mode and self.frozen_stages > 0:
            for module in self.features[: self.stage_ends[self.frozen_stages - 1]]:
                module.eval()
                for parameter in module.parameters():
                    parameter.requires_grad = False
        return self


def _check(
    depth: int, strides: Sequence[int], out_indices: Sequence[int], frozen_stages: int
) -> None:
    known = VGGLayout.arch_settings
    if depth not in known:
        raise ConfigError(f"depth is {depth!r}, expected one of {sorted(known)}")
    if len(strides) != _STAGES or not set(strides) <= {1, 2}:
        raise ConfigError(
            f"strides is {tuple(strides)}, expected {_STAGES} numbers, 2 for a stage that ends "
            "with a pooling and 1 for one that does not"
        )
    if not out_indices or not set(out_indices) <= set(range(_STAGES)):
        raise ConfigError(
            f"out_indices is {tuple(out_indices)}, expected numbers of stages from 0 to "
            f"{_STAGES - 1}, at least one"
        )
    if frozen_stages > _STAGES:
        raise ConfigError(f"frozen_stages is {frozen_stages}, expected at most {_STAGES}")
