"""Pictures in bytes as a batch of floats, each value looked up in a table."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from blockcopy_plugins.ops.library import operator

_BYTES = 256


def _batch_pictures_fake(
    pictures: Sequence[Tensor], tables: Tensor, channels: Sequence[int], height: int, width: int
) -> Tensor:
    torch._check_value(
        len(pictures) > 0, lambda: "blockcopy::batch_pictures: there are no pictures"
    )
    torch._check_value(
        tuple(tables.shape) == (len(channels), _BYTES),
        lambda: (
            f"blockcopy::batch_pictures: tables have shape {tuple(tables.shape)}, expected "
            f"({len(channels)}, 256), one for each of the channels"
        ),
    )
    torch._check_type(
        tables.dtype == torch.float32,
        lambda: (
            f"blockcopy::batch_pictures: tables have dtype {tables.dtype}, expected torch.float32"
        ),
    )
    for picture in pictures:
        _check_picture(picture, channels, height, width)
    return tables.new_empty((len(pictures), len(channels), height, width))


def _check_picture(picture: Tensor, channels: Sequence[int], height: int, width: int) -> None:
    shape = tuple(picture.shape)
    torch._check_value(
        len(shape) == 3 and shape[1] <= height and shape[2] <= width,
        lambda: (
            f"blockcopy::batch_pictures: a picture has shape {shape}, expected (C, h, w) of at "
            f"most {height} x {width}"
        ),
    )
    torch._check_type(
        picture.dtype == torch.uint8,
        lambda: (
            f"blockcopy::batch_pictures: a picture has dtype {picture.dtype}, expected torch.uint8"
        ),
    )
    for channel in channels:
        torch._check_index(
            0 <= channel < shape[0],
            lambda: (
                f"blockcopy::batch_pictures: channel {channel} of a picture with {shape[0]}"  # noqa: B023 - called at once
            ),
        )


@operator(
    "batch_pictures(Tensor[] pictures, Tensor tables, int[] channels, int height, int width, "
    "float fill) -> Tensor",
    fake=_batch_pictures_fake,
)
def batch_pictures(
    pictures: Sequence[Tensor],
    tables: Tensor,
    channels: Sequence[int],
    height: int,
    width: int,
    fill: float,
) -> Tensor:
    """Look the values of pictures up, pad them on the right and below, and stack them.

    Args:
        pictures: uint8 ``(C, h, w)``, of any strides.
        tables: float32 ``(K, 256)``: what each value of each channel of the result stands for.
        channels: K channels of a picture, in the order of the result.
        height: H, px, of the result.
        width: W, px, of the result.
        fill: Value of the padding.

    Returns:
        float32 ``(N, K, H, W)``, contiguous.

    Raises:
        ValueError: If shapes do not fit each other, or there is no picture.
        TypeError: If a dtype does not fit.
        IndexError: If a picture has no such channel.
    """
    _batch_pictures_fake(pictures, tables, channels, height, width)
    found = []
    for picture in pictures:
        planes = [table[picture[c].long()] for table, c in zip(tables, channels, strict=True)]
        below, right = height - picture.shape[1], width - picture.shape[2]
        found.append(F.pad(torch.stack(planes), (0, right, 0, below), value=fill))
    return torch.stack(found)
