"""The tint of classes on a frame."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("cv2")

from blockcopy_plugins.errors import ConfigError, FrameError  # noqa: E402
from blockcopy_plugins.visualization import draw_segmentation  # noqa: E402

PALETTE = [(200, 0, 0), (0, 100, 50)]
IMAGE = np.full((2, 4, 3), 60, np.uint8)


def test_colours_of_the_palette():
    labels = torch.tensor([[0, 1, 255, -1], [1, 0, 0, 2]])
    found = draw_segmentation(IMAGE, labels, palette=PALETTE)
    assert found[0].tolist() == [[130, 30, 30], [30, 80, 55], [60, 60, 60], [60, 60, 60]]
    assert found[1, 3].tolist() == [60, 60, 60]
    assert (IMAGE == 60).all()
    swapped = draw_segmentation(IMAGE, labels, palette=PALETTE, bgr=True)
    assert (swapped == found[..., ::-1]).all()


def test_opacity():
    labels = np.zeros((2, 4), int)
    assert (draw_segmentation(IMAGE, labels, palette=PALETTE, opacity=0) == IMAGE).all()
    full = draw_segmentation(IMAGE, labels, palette=PALETTE, opacity=1)
    assert (full == np.array(PALETTE[0])).all()


def test_labels_of_another_size_are_enlarged_without_new_classes():
    found = draw_segmentation(IMAGE, [[0, 1]], palette=PALETTE, opacity=1)
    assert found[0].tolist() == [[200, 0, 0]] * 2 + [[0, 100, 50]] * 2


def test_without_a_palette_classes_differ():
    found = draw_segmentation(IMAGE, [[0, 1, 2, 3]] * 2)
    assert len({tuple(pixel) for pixel in found[0].tolist()}) == 4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(labels=np.zeros((1, 2, 4))), FrameError, "labels must have shape"),
        (dict(labels=[[0]], opacity=2), ConfigError, "opacity"),
        (dict(labels=[[0]], palette=[1, 2, 3]), ConfigError, "palette"),
        (dict(labels=[[0]], image=IMAGE.astype(float)), FrameError, "uint8"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        draw_segmentation(**{"image": IMAGE, **arguments})
