"""When a video starts again, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("mmengine")

from blockcopy_plugins.integrations.common.stream_ids import StreamIds  # noqa: E402


def sample(**metainfo):
    return SimpleNamespace(metainfo=metainfo)


@pytest.mark.parametrize(
    ("frame_ids", "restarts"),
    [
        ([0, 1, 2], [True, False, False]),
        ([0, 0], [True, True]),  # a video of one frame, run twice
        ([397, 398, 397], [False, False, True]),  # begins in mid-video, and again
        ([5, 5, 6], [False, False, False]),  # a frame that was refused and is tried again
    ],
)
def test_restarts(frame_ids, restarts):
    ids = StreamIds()
    found = [ids.read([sample(video_id="a", frame_id=i)]) for i in frame_ids]
    assert found == [(("a",), ("a",) if again else ()) for again in restarts]


def test_videos_of_a_batch_restart_by_themselves():
    ids = StreamIds()
    ids.read([sample(video_id="a", frame_id=7), sample(video_id="b", frame_id=3)])
    batch = [sample(video_id="b", frame_id=0), sample(video_id="a", frame_id=8)]
    assert ids.read(batch) == (("b", "a"), ("b",))


@pytest.mark.parametrize(
    "samples", [None, [], [sample(frame_id=0)], [sample(video_id=1), sample(frame_id=0)]]
)
def test_without_video_ids_images_are_streams_by_their_place(samples):
    assert StreamIds().read(samples) == (None, ())


def test_without_frame_ids_nothing_restarts():
    assert StreamIds().read([sample(video_id=0)]) == ((0,), ())


def test_streams_without_end_need_no_memory_without_end():
    ids = StreamIds()
    for request in range(30_000):
        ids.read([sample(video_id=request, frame_id=1)])
        ids.read([sample(video_id="camera", frame_id=request + 1)])
    assert len(ids._last) == 10_000
    assert ids.read([sample(video_id="camera", frame_id=5)]) == (("camera",), ("camera",))
