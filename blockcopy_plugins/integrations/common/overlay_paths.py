"""Names of the videos that show what was found in other videos."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path


def overlay_paths(folder: str | Path, names: Sequence[str], ending: str) -> list[Path]:
    """A different path for each video.

    Args:
        folder: Folder of the files.
        names: Names of the videos; may contain folders (``seq1/frames``), numbers (``frames#2``).
        ending: The end of each file's name, with its suffix.

    Returns:
        The paths, in the order of the names. If two names would result in the same file, also on a
        disk that ignores case, the later one gets a number.
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
