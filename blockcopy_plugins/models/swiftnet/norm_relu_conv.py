"""The layer that SwiftNet's decoder is built from."""

from __future__ import annotations

from mmcv.cnn import ConvModule


def norm_relu_conv(in_channels: int, out_channels: int, kernel: int, norm_cfg: dict) -> ConvModule:
    """Normalisation, ReLU, convolution, in this order; the map keeps its size.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Side of the kernel, odd.
        norm_cfg: The norm, see MMCV.

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
        # In place, it would make lateral convolutions run twice on blocks: once for their sum with
        # the coarser map, and again because their result might be read before it is overwritten.
        inplace=False,
        order=("norm", "act", "conv"),
    )
