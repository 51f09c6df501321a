"""Cameras, in whose place a fake of OpenCV's stands: there is none where tests run."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from blockcopy_plugins.datasets.live_source import LiveSource
from blockcopy_plugins.errors import FrameError

cv2 = pytest.importorskip("cv2")


class Fake:
    """Gives what it is told to, one after the other, then only failures."""

    def __init__(self, script, opens=True):
        self.script, self.opens = list(script), opens
        self.released, self.number = False, None

    def __call__(self, number):
        self.number = number
        return self

    def isOpened(self):
        return self.opens and not self.released

    def get(self, what):
        return 30.0 if what == cv2.CAP_PROP_FPS else 0.0

    def read(self):
        value = self.script.pop(0) if self.script else None
        return (False, None) if value is None else (True, np.full((8, 8, 3), value, np.uint8))

    def release(self):
        self.released = True


@pytest.fixture()
def camera(monkeypatch):
    def connect(*arguments, **options):
        fake = Fake(*arguments, **options)
        monkeypatch.setattr(cv2, "VideoCapture", fake)
        return fake

    return connect


def test_frames_of_a_camera_until_it_is_gone(camera, caplog):
    fake = camera([1, 2, None, 3, None, None, 4])
    with LiveSource(2, drop=False, timeout=0.1) as source:
        assert (source.live, source.frame_rate, source.length) == (True, 30.0, None)
        frames = list(source)
    assert [int(f.image[0, 0, 0]) for f in frames] == [1, 2, 3, 4]
    assert [f.index for f in frames] == [0, 1, 2, 3]
    assert source.corrupt > 3  # the three failures, and those after the last frame
    assert "camera 2 gives no more frames" in caplog.text
    assert fake.number == 2 and fake.released


def test_a_number_of_frames_is_taken_and_no_more(camera):
    fake = camera(range(100))
    with LiveSource(0, start=5, frames=3, drop=False) as source:
        assert source.length == 3
        assert [f.index for f in source] == [5, 6, 7]
    assert fake.released and len(fake.script) == 92


def test_camera_that_does_not_open(camera):
    fake = camera([], opens=False)
    with pytest.raises(FrameError, match="camera 7 cannot be opened"):
        LiveSource(7)
    assert fake.released


def test_leaving_lets_go_of_the_camera(camera):
    before = set(threading.enumerate())
    fake = camera([1] * 100000)
    with LiveSource(0) as source:
        next(source)
    assert fake.released and set(threading.enumerate()) <= before
