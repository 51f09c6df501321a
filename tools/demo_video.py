#!/usr/bin/env python
r"""Run a detector or segmentor block-sparsely on a video, and write a video that shows it.

    python tools/demo_video.py street.mp4 out.mp4
    python tools/demo_video.py street.mp4 out.mp4 --config my_config.py --checkpoint my_weights.pth
    python tools/demo_video.py 0 out.mp4                          # the first camera, until Ctrl-C
    python tools/demo_video.py rtsp://camera/stream out.mp4
    python tools/demo_video.py street.mp4 out.mp4 --compare copy move

OUT (H.264, plays in browsers) shows the results, the executed blocks as they are, and the skipped
ones dark and grey, with a bar of figures below. It is encoded quickly rather than small, since the
model needs the processor; ffmpeg -i OUT -c:v libx264 SMALL.mp4 makes it smaller. Any detection or
segmentation config of MMDetection or MMSegmentation works; its test pipeline prepares the frames.

A live source (a camera, a stream) always gives the newest frame: frames that come while the model
is busy are dropped, and OUT shows a picture for as long as it took. Ctrl-C, SIGTERM and errors end
the video where it is. Frames that cannot be read are skipped and counted, and OUT shows the
previous one for longer. With --compare OUT shows two ways side by side, each with its own model.
The last lines say where the time went.

To measure accuracy and cost, see tools/test_video.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from _cli import (
    add_policy_options,
    add_strict_option,
    check_score,
    downloads,
    import_quietly,
    options_of,
    quiet,
    read_files,
    run,
)
from _run_summary import WARMUP, summary_of

_DEMO = Path(__file__).resolve().parent.parent / "configs/demo/maskrcnn_blockcopy_demo.py"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "input",
        metavar="IN",
        help="video file, folder of frames, index of a camera, or address (rtsp://, http://, ...)",
    )
    parser.add_argument("output", metavar="OUT", help="video to write, ends in .mp4")
    parser.add_argument(
        "--config", help="config file of the model; default: the demo's pedestrian detector"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="the model's weights, a file or URL; default: the config's load_from",
    )
    add_policy_options(parser)
    parser.add_argument("--start", type=int, default=0, metavar="N", help="first frame (default 0)")
    parser.add_argument("--frames", type=int, metavar="N", help="number of frames (default all)")
    add_strict_option(parser)
    parser.add_argument(
        "--show-score", type=float, default=0.3, help="lowest score that is drawn (default 0.3)"
    )
    parser.add_argument(
        "--dense-too", action="store_true", help="also run each frame dense, to show the speed-up"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        choices=("copy", "move", "auto"),
        metavar=("LEFT", "RIGHT"),
        help="two values of --propagate, shown side by side; for a file or a folder",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show the frameworks' messages and full tracebacks"
    )
    args = parser.parse_args(argv)
    if args.compare and (args.propagate or args.dense_too):
        parser.error("--compare replaces --propagate, and cannot be combined with --dense-too")
    args.is_demo = args.config is None
    if args.is_demo:
        args.config = str(_DEMO)
    return args


def main(args: argparse.Namespace) -> None:
    quiet(args.verbose)
    from blockcopy_plugins.datasets.live_source import LiveSource
    from blockcopy_plugins.errors import ConfigError
    from blockcopy_plugins.file_protection import check_outputs
    from blockcopy_plugins.integrations.mmengine import video_config
    from blockcopy_plugins.integrations.mmengine.video_inferencer import VideoInferencer

    check_score("--show-score", args.show_score)
    if args.is_demo:
        _note(
            "no --config is given: this is the demo's detector, which knows only the pedestrians "
            "of one camera (demo/README.md); give --config and --checkpoint for your own model"
        )
    config = video_config.read_config(args.config)
    if not args.verbose:
        import_quietly(config.get("default_scope", "mmdet"))
    if not video_config.has_hook(config):
        _note("the config has no BlockCopyHook; the policy is GainPolicy(target=0.3) unless given")
    ways = args.compare or [args.propagate]
    # The motion belongs to the way that moves.
    moving = next((way for way in ways if way in ("move", "auto")), ways[0])
    video_config.set_options(config, **{**options_of(args), "propagate": moving})
    options = video_config.hook_options(config)
    # First check everything that can be checked quickly.
    checkpoint = args.checkpoint or config.get("load_from")
    check_outputs(
        [*read_files(args, checkpoint), ("IN", args.input), *video_config.files_in(config)],
        [("OUT", args.output)],
    )
    with ExitStack() as stack:
        views = []
        for way in ways:
            source = stack.enter_context(
                LiveSource(
                    _source(args.input),
                    start=args.start,
                    frames=args.frames,
                    strict_frames=args.strict_frames,
                )
            )
            if args.compare and source.live:
                raise ConfigError(
                    f"--compare runs each frame twice, and IN is a live source, {args.input}; "
                    "give a file or a folder"
                )
            its = options if way is None else {**options, "propagate": way}
            if way == "copy":
                its.pop("motion", None)
            with downloads(args.checkpoint or str(config.get("load_from"))):
                inferencer = VideoInferencer(args.config, its, args.checkpoint)
            views.append(
                _View(stack.enter_context(inferencer), source, way if args.compare else None)
            )
        times = _run(args, views)
    for view in views:
        print(view.summary())
    print(times)
    print(f"wrote {args.output}")


def _source(text: str) -> str | int:
    is_index = text.isascii() and text.isdecimal() and not os.path.exists(text)
    return int(text) if is_index else text


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


class _View:
    """One model over one source, and its times.

    Args:
        inferencer: The model.
        source: Its frames.
        title: What its pictures are called, ``None`` if there is only one view.
    """

    def __init__(self, inferencer, source, title: str | None) -> None:
        self.inferencer, self.source, self.title = inferencer, source, title
        self.rates, self.sparse, self.dense = [], [], []

    def add(self, args, output):
        """Take note of a frame; return what draws it, to be called in any thread."""
        ms_dense = self.inferencer.run_dense(output.frame)[1] if args.dense_too else None
        self.rates.append(output.executed_rate)
        self.sparse.append(output.ms_model + output.ms_policy)
        self.dense.append(ms_dense)
        return partial(_picture, self.inferencer, output, self._caption(output, ms_dense), args)

    def _caption(self, output, ms_dense):
        from blockcopy_plugins.visualization import FrameCaption

        timed, ms = len(self.rates) > WARMUP, self.sparse[-1]
        return FrameCaption(
            frame=output.index,
            executed_rate=min(output.executed_rate, 1.0),
            target=getattr(self.inferencer.handle.policy, "target", None),
            milliseconds=ms if timed else None,
            speed_up=ms_dense / ms if timed and ms_dense is not None else None,
            title=self.title,
        )

    def forget_after(self, shown: int) -> None:
        """Leave out a frame that was run but not shown because a signal came in between."""
        for noted in (self.rates, self.sparse, self.dense):
            del noted[shown:]

    def summary(self) -> str:
        """A line that sums up what it did."""
        times = self.rates, self.sparse, self.dense
        text = summary_of(self.inferencer.handle, self.source, *times)
        return text if self.title is None else f"{self.title}: {text}"


def _picture(inferencer, output, caption, args):
    from blockcopy_plugins.integrations.mmengine.drawing import draw_sample

    return draw_sample(
        output.frame,
        output.prediction,
        output.grid,
        inferencer.handle.config.block_size,
        inferencer.metainfo,
        caption,
        args.show_score,
        output.decoded,
    )


def _show(recording, output, pictures) -> None:
    """Draw the views of a frame and write them."""
    from blockcopy_plugins.visualization.yuv_picture import beside

    recording.add(output, beside([draw() for draw in pictures]))


def _run(args, views) -> str:
    """Write the video; return where the time went."""
    from _pictures_thread import PicturesThread
    from _recording import Recording
    from tqdm import tqdm

    source = views[0].source
    with Recording(args.output, source) as recording:
        bar = tqdm(total=source.length, desc="frames", unit="frame", dynamic_ncols=True)
        try:
            with bar, PicturesThread() as thread:
                for outputs in zip(*(view.inferencer(view.source) for view in views), strict=True):
                    args.stop.check()
                    drawn = [view.add(args, out) for view, out in zip(views, outputs, strict=True)]
                    thread.run(_show, recording, outputs[0], drawn)
                    bar.update()
        except KeyboardInterrupt:
            if not recording.pictures:
                raise
            for view in views:
                view.forget_after(recording.pictures)
            _note("stopped; the video ends here")
    times = (ms for view in views for ms in (*view.sparse, *view.dense))
    return thread.times(times, [view.source for view in views], recording)


if __name__ == "__main__":
    arguments = parse_args()
    sys.exit(run(main, arguments))
