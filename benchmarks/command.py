"""What the commands share: lists on the command line, the process's settings, progress, JSON."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# torch comes later: the allocator and OpenMP's settings must be in place before it.

DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("cpu", "cuda")


def sizes(text: str) -> list[tuple[int, int]]:
    """``'1024x2048,512x1024'``: heights and widths in pixels."""
    return [_size(part) for part in text.split(",")]


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected HxW, such as 1024x2048")
    return int(height), int(width)


def integers(text: str) -> list[int]:
    """``'64,128'``: whole numbers of at least 1."""
    parts = text.split(",")
    if not all(part.isdigit() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of whole numbers of at least 1, such as 64,128"
        )
    return [int(part) for part in parts]


def rates(text: str) -> list[float]:
    """``'1,0.5,0.25'``: executed rates above 0 and at most 1."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < rate <= 1 for rate in found):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of executed rates above 0 and at most 1, such as 1,0.5,0.25"
        )
    return found


def names(text: str) -> list[str]:
    """``'a,b'``."""
    return [part for part in text.split(",") if part]


def dtypes(text: str) -> list[str]:
    """``'float32,bfloat16'``."""
    return _known(text, DTYPES, "dtypes")


def devices(text: str) -> list[str]:
    """``'cpu,cuda'``."""
    return _known(text, DEVICES, "devices")


def _known(text: str, known: Sequence[str], what: str) -> list[str]:
    found = names(text)
    if not found or set(found) - set(known):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of {what}; expected some of {','.join(known)}"
        )
    return found


def json_file(text: str) -> Path:
    """A file that can be written, so that nothing is measured for minutes and then lost."""
    path = Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            problem = "is a folder" if path.is_dir() else None
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
    if problem:
        raise argparse.ArgumentTypeError(
            f"{text!r} {problem}; expected a file in a folder that you may write to"
        )
    return path


def new_parser(module: str, description: str) -> argparse.ArgumentParser:
    """A parser whose help begins with the module's own words.

    Args:
        module: ``'efficiency'`` for ``python -m benchmarks.efficiency``.
        description: The module's docstring.
    """
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_frames(parser: argparse.ArgumentParser) -> None:
    """Options of what light networks are measured on: sizes, dtypes, blocks and their rates.

    Args:
        parser: The parser.
    """
    parser.add_argument("--sizes", type=sizes, default=[(360, 480)], metavar="HxW,...")
    parser.add_argument("--dtypes", type=dtypes, default=["float32"], metavar="DTYPE,...")
    parser.add_argument("--block-size", type=int, default=64, metavar="PX")
    parser.add_argument("--rates", type=rates, default=[1.0, 0.5, 0.25, 0.125])


def add_clock(parser: argparse.ArgumentParser) -> None:
    """The choice of the clock."""
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: CPU time over all threads, for a machine that others use too (default wall)",
    )


def prepare_process(clock: str = "wall", retain: bool = True) -> str:
    """Settings that must precede torch.

    Args:
        clock: ``'wall'`` or ``'cpu'``.
        retain: Have the allocator keep its pages.

    Returns:
        The allocator's name.
    """
    if clock == "cpu":
        # Threads that wait would burn CPU time, and be counted.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("GOMP_SPINCOUNT", "0")
    if not retain:
        return "system default"
    from blockcopy_plugins import retain_pages

    return retain_pages()


def need_matplotlib(plot: str | None) -> None:
    """Refuse to measure for minutes what could then not be drawn.

    Args:
        plot: The PNG to write, if any.

    Raises:
        SystemExit: If matplotlib is wanted and not installed.
    """
    if plot and importlib.util.find_spec("matplotlib") is None:
        raise SystemExit("--plot needs matplotlib: pip install matplotlib")


def usable_devices(wanted: Sequence[str]) -> tuple[list[str], list[dict[str, str]]]:
    """Which of the wanted devices this machine has.

    Args:
        wanted: ``'cpu'``, ``'cuda'``.

    Returns:
        Those that are there, and ``{'what', 'reason'}`` for the others.

    Raises:
        SystemExit: If none is there.
    """
    import torch

    there, absent = [], []
    for device in wanted:
        if device == "cuda" and not torch.cuda.is_available():
            built = torch.version.cuda
            reason = (
                "this torch was built without CUDA"
                if built is None
                else f"this torch was built for CUDA {built}, and finds no GPU"
            )
            absent.append({"what": "device cuda", "reason": reason})
            print(f"--devices cuda is left out: {reason}", file=sys.stderr)
        else:
            there.append(device)
    if not there:
        raise SystemExit("none of the devices asked for is here; nothing was measured.")
    return there, absent


def progress(total: int, title: str):
    """A bar on stderr, on terminals alone.

    Args:
        total: Steps.
        title: What is under way.

    Returns:
        Of tqdm: call ``update()`` after each step, and use it as a context.
    """
    from tqdm import tqdm

    return tqdm(total=total, desc=title, leave=False, disable=None, file=sys.stderr)


def settings_of(args: argparse.Namespace, *outputs: str) -> dict[str, Any]:
    """The command line for the head of a JSON file.

    Args:
        args: What was parsed.
        outputs: Names of arguments that are files to write, which are left out.
    """
    return {key: value for key, value in vars(args).items() if key not in outputs}


def write_json(results: dict[str, Any], path: Path | None) -> None:
    """Write what was measured, if a file was named: completely, or not at all."""
    if path:
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(results, indent=1) + "\n")
        os.replace(part, path)


def print_columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table for people; the first column to the left, the others to the right."""
    table = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    for line in table:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip())
