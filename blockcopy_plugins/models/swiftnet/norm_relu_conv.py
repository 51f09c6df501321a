"""The layer that SwiftNet's decoder is made of."""

from __future__ import annotations

from mmcv.cnn import ConvModule


def norm_relu_conv(in_channels: int, out_channels: int, kernel: int, norm_cfg: dict) -> ConvModule:
    """Normalisation, ReLU, convolution, in this order; the map's size stays.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        kernel: Side of the kernel, odd.
        norm_cfg: Of the normalisation, see MMCV.

    Returns:
        The layer; the convolution has no bias.
    """
    return ConvModule(
        in_channels,
        out_channels,
        kernel,
        padding=kernel // 2,
        bias=False,
        norm_cfg=norm_cfg,
        # In place it would make lateral convolutions run twice on blocks: once for their sum with
        # the coarser map, once more as somebody might read them before they are overwritten.
        inplace=False,
        order=("norm", "act", "conv"),
    )
