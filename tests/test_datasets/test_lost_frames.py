"""Which packets without a frame are frames that were lost: containers made by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from blockcopy_plugins.datasets.lost_frames import LostFrame, LostFrames


def packet(pts, key=False, discard=False, dts=None):
    return SimpleNamespace(pts=pts, dts=dts, is_keyframe=key, is_discard=discard)


def places(lost, *stamps):
    """Time stamps of the frames, None where one is lost."""
    frames = [SimpleNamespace(pts=stamp) for stamp in stamps]
    found = [*lost.in_order(frames), *lost.rest()]
    return [None if isinstance(frame, LostFrame) else frame.pts for frame in found]


def test_what_an_edit_list_cuts_off_is_not_lost():
    """Its packets are decoded, as later ones refer to them, and not shown."""
    lost = LostFrames()
    for one in (packet(0, key=True, discard=True), packet(1, discard=True), packet(2), packet(3)):
        lost.sent(one)
    assert places(lost, 2, 3) == [2, 3]


def test_pictures_before_the_first_key_picture_are_not_lost():
    """They refer to what the file does not have, as it was cut there."""
    lost = LostFrames()
    for one in (packet(2, key=True), packet(0), packet(1), packet(3)):
        lost.sent(one)
    assert places(lost, 2, 3) == [2, 3]


def test_silent_packets_behind_the_first_key_picture_are_lost():
    lost = LostFrames()
    for one in (packet(0, key=True), packet(1), packet(2)):
        lost.sent(one)
    assert places(lost, 2) == [None, None, 2]


@pytest.mark.parametrize(
    ("failed", "wanted"),
    [
        (packet(1, dts=7), [0, None, 2]),  # shown second, whenever it was decoded
        (packet(None, dts=1), [0, None, 2]),
        (packet(None), [None, 0, 2]),  # nobody knows where; its place is held
    ],
)
def test_a_packet_that_failed_keeps_its_place(failed, wanted):
    lost = LostFrames()
    first = packet(0, key=True)
    lost.sent(first)
    lost.sent(failed)
    assert lost.failed(failed, "corrupt")
    assert places(lost, 0, 2) == wanted
