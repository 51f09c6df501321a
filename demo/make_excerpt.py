"""Cuts the demo clip out of ``vtest.avi``: a few seconds of its second half, as H.264 in MP4."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import av
from tqdm import tqdm

logger = logging.getLogger("make_excerpt")


def cut(video: Path, out: Path, first: int, count: int, crf: int) -> int:
    """Encodes `count` frames of a video anew.

    Args:
        video: the source.
        out: path of the MP4 file to write.
        first: 1-based number of the first frame taken, in decoding order.
        count: number of frames.
        crf: constant rate factor of libx264; smaller is better and larger.

    Returns:
        size of the file written, in bytes.

    Raises:
        ValueError: the source ends before `count` frames are taken.
    """
    taken = 0
    with av.open(str(video)) as source, av.open(str(out), "w") as sink:
        stream = source.streams.video[0]
        encoder = sink.add_stream("libx264", rate=stream.average_rate)
        encoder.width, encoder.height = stream.width, stream.height
        encoder.pix_fmt = "yuv420p"
        encoder.options = dict(crf=str(crf), preset="veryslow", movflags="+faststart")
        progress = tqdm(total=count, desc="frames")
        for number, frame in enumerate(source.decode(stream), start=1):
            if number < first:
                continue
            if taken == count:
                break
            frame = frame.reformat(format="yuv420p")
            frame.pts = taken
            frame.time_base = 1 / stream.average_rate
            frame.pict_type = 0  # the encoder chooses, not the source's frame types
            sink.mux(encoder.encode(frame))
            taken += 1
            progress.update()
        progress.close()
        sink.mux(encoder.encode())
    if taken < count:
        raise ValueError(
            f"{video} has only {taken} frames from number {first} on, {count} were asked for; "
            "lower --first or --count"
        )
    return out.stat().st_size


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", type=Path, help="vtest.avi")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).resolve().parent / "vtest_excerpt.mp4",
        help="MP4 file to write (%(default)s)",
    )
    parser.add_argument("--first", type=int, default=398, help="first frame, 1-based (%(default)s)")
    parser.add_argument("--count", type=int, default=200, help="frames (%(default)s)")
    parser.add_argument("--crf", type=int, default=20, help="x264 rate factor (%(default)s)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    size = cut(args.video, args.out, args.first, args.count, args.crf)
    logger.info("wrote %s: %d frames, %.2f MB", args.out, args.count, size / 1e6)


if __name__ == "__main__":
    main()
