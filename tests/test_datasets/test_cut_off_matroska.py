"""A Matroska file that was cut off ends like any other, but says how long it was."""

from __future__ import annotations

import logging

import av
import numpy as np
import pytest

from blockcopy_plugins.datasets.live_source import LiveSource
from blockcopy_plugins.datasets.video_reader import VideoReader

FRAMES, RATE = 40, 10


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("matroska") / "whole.mkv"
    draw = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for _ in range(FRAMES):
            picture = draw.integers(0, 256, (32, 48, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def by_source(path):
    with LiveSource(path) as source:
        return sum(1 for _ in source)


def by_reader(path):
    return VideoReader(path).count()


@pytest.mark.parametrize("count", [by_source, by_reader])
@pytest.mark.parametrize(("share", "says"), [(0.5, True), (1.0, False)])
def test_it_is_said_once_how_much_is_missing(whole, tmp_path, caplog, count, share, says):
    content = whole.read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(content[: int(share * len(content))])
    with caplog.at_level(logging.WARNING):
        found = count(path)
    assert (found == FRAMES) is not says
    said = [record.getMessage() for record in caplog.records if "it states" in record.getMessage()]
    assert len(said) == says
    if says:
        last = (found - 1) / RATE
        assert f"ends after {last:.1f} of the 4.0 seconds" in said[0] and "cut off" in said[0]
