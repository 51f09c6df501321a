"""What the tools share: options, and errors that say what to do instead of a traceback."""

from __future__ import annotations

import argparse
import ast
import os
import sys
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A clone works without being installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


class KeyValues(argparse.Action):
    """``--cfg-options a.b=1 c='text'``: values are Python literals, anything else is text."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        found = dict(getattr(namespace, self.dest) or {})
        for item in values:
            name, equals, text = item.partition("=")
            if not equals or not name:
                parser.error(f"{option_string}: expected name=value, but got {item!r}")
            try:
                found[name] = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                found[name] = text
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


def run(main: Callable[[argparse.Namespace], int | None], args: argparse.Namespace) -> int:
    """Run a tool; mistakes of the user end it with one message on stderr and status 2."""
    # Errors of the package derive from it; imported here, so that --help is quick.
    from blockcopy_plugins.errors import BlockCopyError

    try:
        return main(args) or 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Somebody closed the output (as head does); keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except urllib.error.URLError as error:
        if args.verbose:
            raise
        print(
            f"error: a download failed ({error.reason}). Fetch the file by hand and pass it as "
            "CHECKPOINT (see load_from in the config for the address).",
            file=sys.stderr,
        )
        return 2
    except (BlockCopyError, OSError) as error:
        if args.verbose:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


def quiet(config: Any, verbose: bool) -> None:
    """Leave MMEngine's log to its file's level: warnings, unless all is wanted."""
    import warnings

    if not verbose:
        config.log_level = "WARNING"
        # What the frameworks say of themselves; nothing a user can act on.
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="torch.meshgrid")
