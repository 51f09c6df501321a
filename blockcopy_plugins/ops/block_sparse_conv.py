"""The convolution layer for configs that name their sparse convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from ..errors import ConfigError
from .block_conv import block_conv2d


class BlockSparseConv2d(nn.Conv2d):
    """An ``nn.Conv2d`` with the same parameters and keys that also convolves executed blocks.

    On a dense ``(N, C, H, W)`` tensor it is ``nn.Conv2d``; on a BlockTensor, inside a converted
    model, it runs on the executed blocks, like every convolution there. Outside a converted model,
    :meth:`forward_blocks` takes packed blocks and the map of earlier frames.

    Args:
        *args: As for ``nn.Conv2d``, and so are the keywords.

    Examples:
        >>> backbone = dict(type='ResNet', depth=50,
        ...                 conv_cfg=dict(type='blockcopy_plugins.BlockSparseConv2d'))
    """

    def forward_blocks(self, state: Tensor, packed: Tensor, grid: Tensor) -> Tensor:
        """Convolve the executed blocks of a map.

        Args:
            state: ``(N, C, H, W)``, channels last: the map as earlier frames left it; the packed
                blocks are written into it.
            packed: ``(n_executed, C, bh, bw)`` in the order of ``grid.nonzero()``.
            grid: bool ``(N, GH, GW)``, True = executed.

        Returns:
            ``(n_executed, C_out, bh / stride, bw / stride)``.

        Raises:
            ConfigError: If the layer pads with anything but zeros.
            GridError: If grid, packed and state do not fit each other.
        """
        if self.padding_mode != "zeros":
            raise ConfigError(
                f"padding_mode={self.padding_mode!r}, expected 'zeros'. Inside a converted model "
                "any padding mode works: the padding is an op of its own there."
            )
        padding = self.padding
        if isinstance(padding, str):
            # Torch keeps the amounts for 'same' as (left, right, top, bottom).
            left, right, top, bottom = self._reversed_padding_repeated_twice
            if (left, top) != (right, bottom):
                raise ConfigError(
                    f"padding={padding!r} is asymmetric for kernel {self.kernel_size}; "
                    "use an odd kernel or a number of pixels."
                )
            padding = (top, left)
        return block_conv2d(
            state,
            packed,
            grid,
            self.weight,
            self.bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
        )
