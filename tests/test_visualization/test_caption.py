"""The bar of figures."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("cv2")

from blockcopy_plugins.errors import ConfigError  # noqa: E402
from blockcopy_plugins.visualization import (  # noqa: E402
    FrameCaption,
    draw_caption,
)

FULL = FrameCaption(
    frame=12, executed_rate=0.25, target=0.3, milliseconds=143.2, speed_up=2.9, title="blocks"
)


def picture(height: int = 100, width: int = 768, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_picture_stays_and_the_bar_is_below():
    image = picture()
    drawn = draw_caption(image, FULL)
    np.testing.assert_array_equal(drawn[:100], image)
    bar = drawn[100:]
    assert bar.shape[1:] == (768, 3) and bar.shape[0] % 2 == 0
    assert len(np.unique(bar.reshape(-1, 3), axis=0)) > 10  # smooth text, not one colour


def test_the_bar_has_one_height_for_all_captions():
    image = picture()
    shapes = {
        draw_caption(image, caption).shape
        for caption in (FrameCaption(), FULL, FrameCaption(title="gjpqy"), FrameCaption(frame=9))
    }
    assert len(shapes) == 1


def test_the_gauge_shows_the_share():
    def filled(rate: float) -> int:
        bar = draw_caption(picture(), FrameCaption(executed_rate=rate))[100:]
        return int((bar == (255, 200, 0)).all(axis=2).sum())

    half, whole = filled(0.5), filled(1.0)
    assert filled(0.0) == 0
    assert whole > 0 and half * 2 == whole


def test_other_figures_change_only_their_own_place():
    """Columns have fixed widths: a changed time moves neither the frame number nor the gauge."""
    first = draw_caption(picture(), FULL)
    second = draw_caption(picture(), FrameCaption(**{**vars(FULL), "milliseconds": 7.0}))
    changed = np.nonzero((first != second).any(axis=(0, 2)))[0]
    assert len(changed) > 0
    assert changed.max() - changed.min() < 60


def test_figures_end_at_the_same_place():
    """143 and 43 differ by the leading digit alone."""
    bars = [draw_caption(picture(), FrameCaption(milliseconds=ms)) for ms in (143.2, 43.2)]
    changed = np.nonzero((bars[0] != bars[1]).any(axis=(0, 2)))[0]
    assert 0 < changed.max() - changed.min() < 14


def test_a_narrow_picture_leaves_whole_figures_out():
    """Over all widths the bar ends at one of seven places: after nothing, or after an item."""

    def ink_end(width: int) -> int:
        bar = draw_caption(picture(8, width), FULL, text_size=12)[8:]
        columns = np.nonzero((bar != bar[0, 0]).any(axis=(0, 2)))[0]
        return int(columns.max()) if len(columns) else -1

    ends = [ink_end(width) for width in range(8, 640, 3)]
    assert len(set(ends)) == 7
    assert ends == sorted(ends)


def test_bgr_mirrors_the_channels():
    image = picture()
    rgb = draw_caption(image, FULL)
    bgr = draw_caption(image[..., ::-1], FULL, bgr=True)
    np.testing.assert_array_equal(rgb[..., ::-1], bgr)


@pytest.mark.parametrize("name", ["executed_rate", "target"])
def test_a_percentage_in_place_of_a_share_is_an_error(name):
    with pytest.raises(ConfigError, match=f"{name} must be a share from 0 to 1, but got 30"):
        FrameCaption(**{name: 30})
