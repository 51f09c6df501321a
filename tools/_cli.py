"""Code that the tools share: options, and errors that say what to do instead of a traceback."""

from __future__ import annotations

import argparse
import ast
import contextlib
import errno
import importlib
import io
import logging
import os
import signal
import sys
import urllib.error
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from _package import find_package
from _stopping import stop_signals

find_package()


def literal(text: str) -> Any:
    """A Python literal, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


class KeyValues(argparse.Action):
    """``--cfg-options a.b=1 c='text'``: values are Python literals, anything else is text."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        found = dict(getattr(namespace, self.dest) or {})
        for item in values:
            name, equals, text = item.partition("=")
            if not equals or not name:
                parser.error(f"{option_string}: expected name=value, but got {item!r}")
            found[name] = literal(text)
        setattr(namespace, self.dest, found)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=KeyValues,
        metavar="NAME=VALUE",
        help="change values of the config, for example model.test_cfg.rcnn.score_thr=0.3",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show MMEngine's log and tracebacks of errors"
    )


def add_policy_options(parser: argparse.ArgumentParser, checkpoint: str | None = None) -> None:
    """Options of a conversion that replace the config's; ``options_of`` reads them.

    Args:
        parser: The tool's parser.
        checkpoint: The option's name for the policy's file, if not ``--policy-checkpoint``.
    """
    parser.add_argument(
        "--policy",
        help="policy to use instead of the config's: all, none, frame_difference, ... or "
        "\"dict(type='GainPolicy', target=0.2)\"",
    )
    parser.add_argument(
        checkpoint or "--policy-checkpoint",
        dest="policy_checkpoint",
        metavar="FILE",
        help="policy.pth to continue from, optimizer included"
        if checkpoint
        else "policy trained by tools/train_policy.py",
    )
    parser.add_argument(
        "--guards",
        nargs="*",
        metavar="GUARD",
        help="guards to use instead of the config's: SceneCut, \"dict(type='MaxAge', frames=60)\", "
        "...; without a value: no guards",
    )
    parser.add_argument(
        "--propagate",
        choices=("copy", "move", "auto"),
        help="what is delivered for blocks that did not run: copied, moved with the picture "
        "(approximate), or moved if most of the picture moves; instead of the config's setting",
    )
    parser.add_argument(
        "--motion",
        help="where the motion comes from: DISMotion, GlobalMotion, CodecMotion, "
        "\"dict(type='DISMotion', width=320)\"; instead of the config's setting",
    )
    parser.add_argument(
        "--block-size",
        type=literal,
        metavar="PX",
        help="side of a block in pixels of the network's input, or auto",
    )
    parser.add_argument(
        "--options",
        nargs="+",
        action=KeyValues,
        metavar="NAME=VALUE",
        help="other options of the BlockCopyHook, instead of the config's: max_streams=4 "
        "winograd=False",
    )


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """The changes that the options of ``add_policy_options`` ask for."""
    names = ("policy", "policy_checkpoint", "guards", "propagate", "motion", "block_size")
    return {**(args.options or {}), **{name: getattr(args, name) for name in names}}


def add_strict_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--strict-frames",
        action="store_true",
        help="stop at a frame that cannot be read or has another size; by default it is skipped, "
        "counted and reported, and the frames after it keep their numbers",
    )


def add_annotation_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ann",
        nargs="+",
        metavar="PATH",
        help="ground truth, one for all videos or one for each: COCO json or MOTChallenge gt.txt; "
        "for segmentors, folders of label images",
    )
    parser.add_argument(
        "--ann-first",
        type=int,
        choices=(0, 1),
        help="the number that --ann gives to the first frame of a video file; only needed if the "
        "annotations begin at 1 and it is not clear whether they count from 0 or from 1",
    )


def add_video_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--video",
        nargs="+",
        metavar="PATH",
        help="video files, folders of frames, or patterns such as 'clips/*.mp4'; "
        "default: those of the config",
    )
    parser.add_argument(
        "--start", type=int, default=0, metavar="N", help="first frame of each video (default 0)"
    )
    parser.add_argument(
        "--frames", type=int, metavar="N", help="number of frames of each video (default all)"
    )
    add_strict_option(parser)


def add_clip_options(parser: argparse.ArgumentParser, clips: str) -> None:
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="where the config's own clips are, instead of the folder that it names",
    )
    parser.add_argument("--clips", type=int, metavar="N", help=clips)


def check_score(option: str, score: float) -> None:
    """Refuse a lowest score that no detection can be compared with.

    Args:
        option: What the tool calls it.
        score: The value given.

    Raises:
        ConfigError: It is not from 0 to 1.
    """
    from blockcopy_plugins.errors import ConfigError

    if not 0 <= score <= 1:
        raise ConfigError(f"{option} must be from 0 to 1, found {score}.")


def steady_streams() -> None:
    """Make sure the three standard streams can be written to, even closed or badly encoded ones.

    If one of the three were closed, the next file that is opened, for example a video, would take
    its place and receive whatever libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  (open until the end)
        elif hasattr(stream, "reconfigure"):
            # Names of files and classes may contain letters that a terminal's encoding lacks.
            stream.reconfigure(errors="backslashreplace")


def run(main: Callable[[argparse.Namespace], int | None], args: argparse.Namespace) -> int:
    """Run a tool; a mistake of the user ends it with one message on stderr and status 2."""
    steady_streams()
    if not os.path.isfile(args.config):  # reported at once, before the frameworks are imported
        print(
            f"error: there is no config file {args.config!r} (the working directory is "
            f"{os.getcwd()!r}).",
            file=sys.stderr,
        )
        return 2
    with stop_signals() as args.stop:
        try:
            status = _run(main, args)
        except (KeyboardInterrupt, Exception) as error:
            # Some libraries replace the exception that a signal raises with one of their own,
            # such as MMEngine while it formats a config.
            made_of_it = not isinstance(error, KeyboardInterrupt)
            if made_of_it and (args.stop.number is None or args.verbose):
                raise
            # An error that happened by itself after the signal must not be hidden.
            print(f"stopped ({type(error).__name__})" if made_of_it else "stopped", file=sys.stderr)
            return args.stop.status
    # A tool that a signal ended cleanly says so by its status; Ctrl-C is how a camera is ended.
    return status if args.stop.number in (None, signal.SIGINT) else args.stop.status


def _run(main: Callable[[argparse.Namespace], int | None], args: argparse.Namespace) -> int:
    # Errors of the package derive from it; imported here so that --help is quick.
    from blockcopy_plugins import retain_pages
    from blockcopy_plugins.addresses import masked
    from blockcopy_plugins.errors import BlockCopyError

    retain_pages()  # allowed here, because the process belongs to the tool
    try:
        return main(args) or 0
    except BrokenPipeError:
        # The reader of the output closed it (as head does); keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (BlockCopyError, OSError) as error:
        if args.verbose:
            raise
        print(f"error: {masked(error)}{_remedy(error)}", file=sys.stderr)
        return 2


def _remedy(error: Exception) -> str:
    """What to do about a full disk that a library met, which does not say it."""
    if getattr(error, "errno", None) != errno.ENOSPC or "room" in str(error):
        return ""
    return ". Make room where this tool writes, or give paths on another disk"


def keep_part(write: Callable[[], list[Path]], results: dict[str, Any]) -> list[Path]:
    """Write the results of a run that ended early; if that fails too, say why."""
    partial = results["partial"]
    print(
        f"note: ended after {partial['frames_run']} of {partial['frames_planned']} frames; the "
        "results cover only those frames",
        file=sys.stderr,
    )
    try:
        return write()
    except OSError as error:
        print(f"note: the results could not be written: {error}", file=sys.stderr)
        return []


def say_what_was_left_out(results: dict[str, Any]) -> None:
    """Print which frames were skipped and which annotations were left out."""
    notes = results.get("annotations") or {"left_out": {"reasons": []}, "remarks": []}
    for one in notes["left_out"]["reasons"]:
        what = "1 annotation was" if one["count"] == 1 else f"{one['count']} annotations were"
        print(
            f"note: {what} left out: {one['reason']} (the first: {one['first']})", file=sys.stderr
        )
    for remark in notes["remarks"]:
        print(f"note: {remark}", file=sys.stderr)
    skipped = results.get("skipped_frames")
    if skipped and skipped["count"]:
        reasons = [one["reason"] for video in skipped["videos"] for one in video["frames"]]
        reasons += skipped.get("while_running", [])
        what = "1 frame" if len(reasons) == 1 else f"{len(reasons)} frames"
        print(f"note: skipped {what} that cannot be read, the first: {reasons[0]}", file=sys.stderr)


def read_files(
    args: argparse.Namespace, checkpoint: Any = None, resumes: bool = False
) -> list[tuple[str, str]]:
    """The files that every tool reads, as `check_outputs` takes them: config, weights, policy.

    Args:
        args: The command line.
        checkpoint: Where the weights come from.
        resumes: The policy's file is going to be overwritten on purpose.
    """
    named = (
        ("the config", args.config),
        ("the checkpoint", checkpoint),
        ("the policy's file", None if resumes else args.policy_checkpoint),
    )
    return [(name, str(path)) for name, path in named if path]


def test_outputs(
    out: Path, show_dir: str | None, videos: list[str], ending: str
) -> list[tuple[str, Path]]:
    """The files that tools/test_video.py writes when its results go to this file."""
    from blockcopy_plugins.datasets.video_list import name_videos
    from blockcopy_plugins.integrations.common.overlay_paths import overlay_paths

    shown = Path(show_dir) if show_dir else out.parent
    files = [
        ("--out", out),
        ("the figures of frames", out.with_name(f"{out.stem}_frames.jsonl")),
        ("the plot", shown / f"{out.stem}_curve.png"),
    ]
    if show_dir:
        named = zip(videos, overlay_paths(show_dir, name_videos(videos), ending), strict=True)
        files += [(f"the overlay of {os.path.basename(video)}", path) for video, path in named]
    return files


def train_outputs(folder: Path) -> list[tuple[str, Path]]:
    """The files that tools/train_policy.py writes; a resumed policy is overwritten on purpose."""
    return [
        ("the policy", folder / "policy.pth"),
        ("the policy's log", folder / "policy_log.json"),
        ("the policy's plot", folder / "policy_curve.png"),
    ]


@contextlib.contextmanager
def downloads(address: str) -> Iterator[None]:
    """Say what to do if the weights cannot be fetched from this address."""
    from blockcopy_plugins.addresses import masked
    from blockcopy_plugins.errors import ConfigError

    try:
        yield
    except urllib.error.URLError as error:
        raise ConfigError(
            f"the weights cannot be downloaded ({masked(error.reason)}). Fetch {masked(address)} "
            "by hand, on another machine if this one has no network, and pass the file as "
            "CHECKPOINT."
        ) from error


def leave_process_group() -> NoReturn:
    """End one of the processes that torchrun started, with status 0.

    This skips Python's own finalisation: the model's wrapper keeps the group alive, and a thread of
    the group that releases a tensor by then asks for the interpreter's lock and aborts the process.
    """
    import torch.distributed

    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def tools_of(config: str) -> Any:
    """The module of this folder with what the tools do for a config's framework."""
    from blockcopy_plugins.integrations.config_kind import config_kind

    return importlib.import_module(f"_{config_kind(config)}")


def quiet(verbose: bool) -> None:
    """Silence messages of the frameworks that a user can do nothing about."""
    if verbose:
        return
    quiet_listing()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="torch.meshgrid")
    warnings.filterwarnings("ignore", message="faster_coco_eval is not installed")
    warnings.filterwarnings("ignore", message="Setting [A-Z_]+ environment variable")
    warnings.filterwarnings("ignore", message="Default ``avg_non_ignore`` is False")
    warnings.filterwarnings("ignore", message="The draw is False")
    warnings.filterwarnings("ignore", message="DeprecationWarning: pretrained")
    import_quietly("mmdet")  # before a config's custom_imports import it


def quiet_listing() -> None:
    """Silence what data sets say of frames that they leave out: the tools say it themselves."""
    for name in ("datasets.video_listing", "datasets.ground_truth.annotation_notes"):
        logging.getLogger(f"blockcopy_plugins.{name}").setLevel(logging.ERROR)


def import_quietly(scope: str) -> None:
    """Import a framework's datasets, which print during their import."""
    # If the framework is missing, the config's error says so.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(ModuleNotFoundError):
        importlib.import_module(f"{scope}.datasets")
