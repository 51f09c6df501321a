"""Names of the videos that show what was found in others."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path


def overlay_paths(folder: str | Path, names: Sequence[str], ending: str) -> list[Path]:
    """A path for each video, no two of them alike.

    Args:
        folder: Where the files are to lie.
        names: Names of the videos; may hold folders (``seq1/frames``) and numbers (``frames#2``).
        ending: What each file's name ends in, suffix included.

    Returns:
        The paths, in the order of the names. Where two names would give one file, also on a disk
        that does not tell large letters from small ones, the later one gets a number.
    """
    taken: set[str] = set()
    paths = []
    for name in names:
        stem = plain = re.sub(r"[/\\#\x00-\x1f]", "_", name) or "video"
        count = 1
        while _as_stored(stem) in taken:
            count += 1
            stem = f"{plain}-{count}"
        taken.add(_as_stored(stem))
        paths.append(Path(folder) / f"{stem}{ending}")
    return paths


def _as_stored(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
