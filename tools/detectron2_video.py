#!/usr/bin/env python
r"""Run a Detectron2 model block-sparsely on a video, and write a video that shows it.

    python tools/detectron2_video.py --config-file my_config.yaml --input street.mp4 \
        --output out.mp4 --opts MODEL.WEIGHTS my_weights.pth
    python tools/detectron2_video.py --config-file lazy_config.py --input rtsp://camera/stream \
        --output out.mp4 --opts train.init_checkpoint=my_weights.pth

OUT (H.264, plays in browsers) shows the results, the executed blocks as they are, and the skipped
ones dark and grey, with a bar of figures below. It is encoded quickly rather than small, since the
model needs the processor; ffmpeg -i OUT -c:v libx264 SMALL.mp4 makes it smaller. A live source (a
camera, a stream) always gives the newest frame. The last lines say where the time went.

Config files are Detectron2's own, YAML (including those of the projects PointRend, DeepLab and
Panoptic-DeepLab) or lazy; MODEL.BLOCKCOPY, or in a lazy config blockcopy = dict(...), says how the
model should run, and without it the defaults apply.

To measure accuracy and cost, see tools/test_video.py, which takes the same configs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

import _detectron2
from _cli import add_policy_options, add_strict_option, check_score, read_files, run
from _run_summary import WARMUP, summary_of


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file",
        dest="config",
        required=True,
        metavar="FILE",
        help="Detectron2 config, YAML or lazy",
    )
    parser.add_argument(
        "--input",
        required=True,
        metavar="IN",
        help="video file, folder of frames, index of a camera, or address (rtsp://, http://, ...)",
    )
    parser.add_argument(
        "--output", required=True, metavar="OUT", help="video to write, ends in .mp4"
    )
    parser.add_argument("--weights", metavar="FILE", help="use instead of the config's weights")
    add_policy_options(parser)
    parser.add_argument("--start", type=int, default=0, metavar="N", help="first frame (default 0)")
    parser.add_argument("--frames", type=int, metavar="N", help="number of frames (default all)")
    add_strict_option(parser)
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        default=0.5,
        metavar="SCORE",
        help="lowest score that is drawn (default 0.5)",
    )
    parser.add_argument(
        "--dense-too", action="store_true", help="also run each frame dense, to show the speed-up"
    )
    parser.add_argument("--verbose", action="store_true", help="show Detectron2's messages")
    parser.add_argument(
        "--opts",
        default=[],
        nargs=argparse.REMAINDER,
        help="changes to the config: KEY VALUE pairs for YAML, KEY=VALUE for a lazy config",
    )
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    _detectron2.quiet(args.verbose)
    from blockcopy_plugins.datasets.live_source import LiveSource
    from blockcopy_plugins.file_protection import check_outputs

    found = _detectron2.integration()
    check_score("--confidence-threshold", args.confidence_threshold)
    source = _detectron2.read(args.config, args.opts)
    config = _detectron2.blockcopy(source, args)
    weights = _detectron2.weights_of(source, args.weights)
    check_outputs(
        [*read_files(args, weights), ("--input", args.input)], [("--output", args.output)]
    )
    text = args.input
    is_index = text.isascii() and text.isdecimal() and not os.path.exists(text)
    where = int(text) if is_index else text
    with LiveSource(
        where, start=args.start, frames=args.frames, strict_frames=args.strict_frames
    ) as frames:
        model = _detectron2.fetched(source, weights)
        with found.BlockCopyPredictor(source, config, model=model) as predictor:
            summary = _run(args, source, predictor, frames)
    print(*summary, sep="\n")
    print(f"wrote {args.output}")


def _run(args: argparse.Namespace, source: Any, predictor: Any, frames: Any) -> list[str]:
    """Write the video; returns the lines that sum it up."""
    from _pictures_thread import PicturesThread
    from _recording import Recording
    from tqdm import tqdm

    rates, sparse, dense, shape = [], [], [], None
    with Recording(args.output, frames) as recording:
        bar = tqdm(total=frames.length, desc="frames", unit="frame", dynamic_ncols=True)
        try:
            with bar, PicturesThread() as thread:
                for frame in frames:
                    args.stop.check()
                    if frame.image.shape != shape:
                        predictor.reset()
                        shape = frame.image.shape
                    outputs, ms = _timed(predictor, frame.image)
                    ms_dense = None
                    if args.dense_too:
                        ms_dense = _timed(predictor.run_dense, frame.image)[1]
                    rates.append(predictor.handle.last.executed_rate)
                    sparse.append(ms)
                    dense.append(ms_dense)
                    timed = (ms, ms_dense) if len(rates) > WARMUP else (None, None)
                    caption = _caption(frame, predictor.handle, *timed)
                    place = predictor.handle.last.host_grid[0], predictor.input_size
                    shown = recording, args, source, predictor, frame, outputs, caption, *place
                    thread.run(_show, *shown)
                    bar.update()
        except KeyboardInterrupt:
            if not recording.pictures:
                raise
            for noted in (rates, sparse, dense):  # without a frame that was run but not shown
                del noted[recording.pictures :]
            print("note: stopped; the video ends here", file=sys.stderr)
    summary = summary_of(predictor.handle, frames, rates, sparse, dense)
    return [summary, thread.times((*sparse, *dense), [frames], recording)]


def _timed(function: Any, image: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    outputs = function(image)
    outputs = {k: v.to("cpu") if hasattr(v, "to") else v for k, v in outputs.items()}
    return outputs, 1e3 * (time.perf_counter() - start)


def _caption(frame, handle, ms, ms_dense):
    from blockcopy_plugins.visualization import FrameCaption

    return FrameCaption(
        frame=frame.index,
        executed_rate=min(handle.last.executed_rate, 1.0),
        target=getattr(handle.policy, "target", None),
        milliseconds=ms,
        speed_up=ms_dense / ms if ms and ms_dense is not None else None,
    )


def _show(recording, args, source, predictor, frame, outputs, caption, grid, input_size) -> None:
    """Draw a frame and write it."""
    from blockcopy_plugins.integrations.detectron2.drawing import draw_outputs

    picture = draw_outputs(
        frame.image,
        outputs,
        grid,
        predictor.handle.config.block_size,
        input_size,
        caption,
        source.classes(),
        source.palette(),
        args.confidence_threshold,
        frame.decoded,
    )
    recording.add(frame, picture)


if __name__ == "__main__":
    arguments = parse_args()
    sys.exit(run(main, arguments))
