"""Keeps the places of frames whose packets could not be decoded."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    import av


@dataclass(frozen=True)
class LostFrame:
    """A placeholder for a frame that could not be decoded.

    Attributes:
        reason: The reason, in the decoder's own words.
    """

    reason: str


class LostFrames:
    """Puts a `LostFrame` where a packet gave no frame, so that the later frames keep their numbers.

    Packets come in decoding order, frames in display order; the time stamps of the packets that
    failed show where their frames would have been. A decoder may also silently give nothing for
    packets that refer to one that failed: those are lost too, up to the next key frame.

    Args:
        whole: Whether the first packet is the video's first, as in files that have an index. The
            first packets of a stream may refer to pictures that were sent before.
    """

    def __init__(self, whole: bool = True) -> None:
        self._whole = whole
        self._lost: list[tuple[int, str]] = []  # time stamp and reason, ascending
        self._untimed: list[LostFrame] = []
        self._unsure: list[int] = []  # time stamps of packets since one that failed, ascending
        self._since_failure = False
        self._began = False
        self._from: int | None = None  # time stamp of the first key frame

    def sent(self, packet: av.Packet) -> None:
        """Record a packet, before it is decoded."""
        if packet.is_keyframe:
            self._since_failure = False
        if self._from is None and (self._whole or packet.is_keyframe):
            self._from = packet.pts
        # Until the first frame comes, it is not known whether there was a failure.
        doubtful = self._since_failure or (not self._began and self._from is not None)
        if doubtful and packet.pts is not None and not packet.is_discard:
            bisect.insort(self._unsure, packet.pts)

    def failed(self, packet: av.Packet, reason: str) -> bool:
        """Record a packet that could not be decoded.

        Returns:
            Whether a frame is lost by it: this is not so if the video begins in the middle of a
            group of pictures, which no other program counts.
        """
        if packet.pts in self._unsure:
            self._unsure.remove(packet.pts)
        begun = self._began or self._from is not None or packet.is_keyframe
        if not begun:
            return False
        self._since_failure = True
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None:
            self._untimed.append(LostFrame(reason))
        else:
            bisect.insort(self._lost, (stamp, reason))
        return True

    def in_order(
        self, frames: Iterable[av.VideoFrame]
    ) -> Iterator[Union[av.VideoFrame, LostFrame]]:  # noqa: UP007  (av is not imported)
        """The decoder's frames, with a placeholder for each one that is lost before them."""
        for frame in frames:
            if not self._began:
                self._begin(frame.pts)
            yield from self._untimed
            self._untimed = []
            if frame.pts is not None:
                yield from self._before(frame.pts)
                if frame.pts in self._unsure:
                    self._unsure.remove(frame.pts)
            yield frame

    def _begin(self, first: int | None) -> None:
        """Separate frames lost before the first frame from packets that only came early."""
        self._began = True
        lost = [
            stamp
            for stamp in self._unsure
            # Pictures before the first key picture refer to pictures that the video does not have.
            if first is not None and self._from is not None and self._from <= stamp < first
        ]
        kept = set(self._unsure) if self._since_failure else set(lost)
        self._unsure = sorted(kept)

    def rest(self) -> Iterator[LostFrame]:
        """The frames lost after the last frame."""
        yield from self._untimed
        self._untimed = []
        yield from self._before(None)

    def _before(self, stamp: int | None) -> Iterator[LostFrame]:
        silent = [(at, "it refers to a frame that is lost") for at in self._unsure]
        everything = sorted(self._lost + silent)
        for at, reason in everything:
            if stamp is None or at < stamp:
                yield LostFrame(reason)
        self._lost = [one for one in self._lost if stamp is not None and one[0] >= stamp]
        self._unsure = [at for at in self._unsure if stamp is not None and at >= stamp]
