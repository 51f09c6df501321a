"""SwiftNet's encoder."""

from __future__ import annotations

import torch.nn.functional as F
from mmseg.models.backbones.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.registry import MODELS


@MODELS.register_module()
class SwiftNetResNet(ResNet):
    """MMSegmentation's ResNet, whose outputs can be taken before the last ReLU of each stage.

    The authors' code is written like that, but the ReLU of its basic blocks works in place and
    overwrites what should have been kept: their weights, and those of BlockCopy's authors, need the
    values after the ReLU, which is the default.

    Args:
        depth: 18, 34, 50, 101 or 152.
        skips_before_relu: Take the outputs before the last ReLU of each stage.
        **options: Options of MMSegmentation's ``ResNet``.

    Raises:
        ConfigError: If ``skips_before_relu`` is set together with plugins.
    """

    def __init__(self, depth: int, skips_before_relu: bool = False, **options) -> None:
        super().__init__(depth, **options)
        if skips_before_relu and self.plugins is not None:
            raise ConfigError(
                "skips_before_relu=True does not go with plugins; omit plugins, or set "
                "skips_before_relu=False"
            )
        self.skips_before_relu = skips_before_relu

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Run the stages.

        Args:
            x: Images ``(N, 3, H, W)``.

        Returns:
            The output of each stage in ``out_indices``; for stage i ``(N, C, H / s, W / s)``
            rounded up, with s = 4, 8, 16, 32 for the usual strides.
        """
        if not self.skips_before_relu:
            return super().forward(x)
        x = self.stem(x) if self.deep_stem else self.relu(self.norm1(self.conv1(x)))
        x = self.maxpool(x)
        outs = []
        for stage, name in enumerate(self.res_layers):
            *blocks, last = getattr(self, name)
            for block in blocks:
                x = block(x)
            sums = _residual_sum(last, x)
            if stage in self.out_indices:
                outs.append(sums)
            x = F.relu(sums)
        return tuple(outs)


def _residual_sum(block: nn.Module, x: Tensor) -> Tensor:
    """The input of a residual block's last ReLU."""
    out = block.relu(block.norm1(block.conv1(x)))
    out = block.norm2(block.conv2(out))
    if isinstance(block, Bottleneck):
        out = block.norm3(block.conv3(block.relu(out)))
    return out + (x if block.downsample is None else block.downsample(x))
