"""Finds the streams of a batch by the video and frame ids of its data samples."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

# Far more than a model has live streams; a server that opens one per request never stops.
_MOST_STREAMS = 10_000


class StreamIds:
    """Reads ``video_id`` and ``frame_id`` of data samples and notices when a video starts again.

    A stream restarts at frame 0, and whenever its frame ids go back: a dataset may begin in the
    middle of a video, and run more than once. The same id twice means that a frame is tried again.
    """

    def __init__(self) -> None:
        self._last: dict[Hashable, int] = {}

    def read(
        self, samples: Sequence[Any] | None
    ) -> tuple[tuple[Hashable, ...] | None, tuple[Hashable, ...]]:
        """Streams of a batch, and those of them that start again.

        Args:
            samples: Data samples with ``metainfo``, one for each image; or MMDetection's
                ``TrackDataSample``, one for each video, of which the first frame counts.

        Returns:
            ``(ids, restarts)``; ids are ``None`` if a sample has no ``video_id``.
        """
        if not samples:
            return None, ()
        infos = [getattr(_first(sample), "metainfo", {}) for sample in samples]
        ids = tuple(info.get("video_id") for info in infos)
        if None in ids:
            return None, ()
        restarts = []
        for stream_id, info in zip(ids, infos, strict=True):
            frame_id = info.get("frame_id")
            if frame_id is None:
                continue
            if frame_id == 0 or frame_id < self._last.get(stream_id, frame_id):
                restarts.append(stream_id)
            # Put last: if there are too many streams, those not seen for longest are forgotten.
            self._last.pop(stream_id, None)
            self._last[stream_id] = frame_id
            if len(self._last) > _MOST_STREAMS:
                del self._last[next(iter(self._last))]
        return ids, tuple(restarts)


def _first(sample: Any) -> Any:
    frames = getattr(sample, "video_data_samples", None)
    return frames[0] if frames else sample
