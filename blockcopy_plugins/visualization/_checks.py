"""Checks that the drawing functions share."""

from __future__ import annotations

from typing import Any

import numpy as np

from blockcopy_plugins.errors import FrameError


def check_image(image: np.ndarray, name: str = "image") -> np.ndarray:
    """Checks that an array is a colour picture.

    Args:
        image (np.ndarray): Should be uint8 of shape (H, W, 3).
        name (str): Its name in the error.

    Returns:
        np.ndarray: The same array.

    Raises:
        FrameError: If it is not a uint8 array of shape (H, W, 3) with at least one pixel.
    """
    if (
        not isinstance(image, np.ndarray)
        or image.dtype != np.uint8
        or image.ndim != 3
        or image.shape[2] != 3
        or 0 in image.shape
    ):
        raise FrameError(
            f"{name} must be a uint8 numpy array of shape (H, W, 3), but got {describe(image)}; "
            "convert it first, e.g. tensor.permute(1, 2, 0).byte().numpy() for a (3, H, W) tensor "
            "with values 0 to 255"
        )
    return image


def describe(value: Any) -> str:
    """Describes a value in a few words: its type, and its shape and dtype if it has them."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None:
        return f"{type(value).__name__} {value!r}"
    return f"{type(value).__name__} of shape {tuple(shape)} and dtype {dtype}"


def to_numpy(value: Any) -> np.ndarray:
    """Makes a numpy array from a tensor (on any device), an array or a list."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if value.is_floating_point():
            value = value.float()  # numpy has no bfloat16
        return value.numpy()
    return np.asarray(value)
