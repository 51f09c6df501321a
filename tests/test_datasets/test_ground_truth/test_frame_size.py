"""Annotations that were made at another size than that of the frames."""

from __future__ import annotations

import pytest

from blockcopy_plugins.datasets.ground_truth.frame_size import frame_scale
from blockcopy_plugins.errors import ConfigError


def scale(stated, frame):
    """Of sizes (width, height)."""
    return frame_scale(stated[::-1], frame[::-1], "gt.json", "a.mp4")


@pytest.mark.parametrize(
    ("stated", "frame"),
    [
        ((64, 36), (640, 360)),
        # Sides of the small one were rounded to whole pixels: 364 of 640 is 36.4 of 64.
        ((64, 36), (640, 364)),
        ((64, 36), (640, 356)),
        ((640, 364), (64, 36)),
        ((640, 356), (64, 36)),
        ((640, 369), (64, 36)),  # cut off instead of rounded
        ((1333, 750), (1920, 1080)),
        ((1, 1), (1, 1)),
    ],
)
def test_the_same_shape_but_for_rounding(stated, frame):
    assert scale(stated, frame) == (frame[1] / stated[1], frame[0] / stated[0])


@pytest.mark.parametrize(
    ("stated", "frame"),
    [
        ((64, 36), (640, 366)),
        ((64, 36), (640, 354)),
        ((640, 371), (64, 36)),
        ((640, 349), (64, 36)),
        ((1920, 1080), (1440, 1080)),
        ((640, 640), (640, 360)),
    ],
)
def test_another_shape(stated, frame):
    with pytest.raises(ConfigError, match="which is another aspect ratio") as told:
        scale(stated, frame)
    assert f"gt.json states {stated[0]}x{stated[1]} px" in str(told.value)
    assert f"'a.mp4' have {frame[0]}x{frame[1]} px" in str(told.value)


def test_turned_by_a_quarter():
    with pytest.raises(ConfigError, match="rotated by 90 degrees"):
        scale((1080, 1920), (1920, 1080))


@pytest.mark.parametrize(("stated", "frame"), [(None, (4, 4)), ((4, 4), None), ((4, 4), (4, 4))])
def test_nothing_to_bring_to_each_other(stated, frame):
    assert frame_scale(stated, frame, "gt.json", "a.mp4") == (1.0, 1.0)
