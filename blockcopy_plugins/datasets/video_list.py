"""Turns a config's description of videos into a list of paths and names."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence

from blockcopy_plugins.datasets.frame_range import is_frame_range
from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.image_names import natural_key


def list_videos(
    videos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], root: str = ""
) -> list[str]:
    """Resolve paths and patterns.

    Args:
        videos: A path, a pattern (``*``, ``?``, ``[...]``, ``**``), or a sequence of them; each a
            video file, a folder of frames or a range of them (``clip_{000275..000294}.png``).
        root: Folder that relative paths are in.

    Returns:
        The paths; matches of a pattern in natural order, otherwise as given.

    Raises:
        ConfigError: If no video is given, a path does not exist, or a pattern matches nothing.
    """
    entries = [videos] if isinstance(videos, (str, os.PathLike)) else list(videos)
    if not entries:
        raise ConfigError("no video is given; set videos to paths of video files or frame folders")
    found: list[str] = []
    for entry in entries:
        path = os.path.join(root, os.fspath(entry))
        if os.path.exists(path) or is_frame_range(path):
            found.append(path)
            continue
        if not glob.has_magic(path):
            raise ConfigError(
                f"there is no video file or folder of frames {path!r} (the working directory is "
                f"{os.getcwd()!r}); correct videos or data_root"
            )
        # Special characters in the folder's own name are not a pattern.
        pattern = os.path.join(glob.escape(root), os.fspath(entry))
        matches = sorted(glob.glob(pattern, recursive=True), key=natural_key)
        if not matches:
            raise ConfigError(f"the pattern {path!r} matches nothing; correct videos or data_root")
        found.extend(matches)
    return found


def name_videos(paths: Sequence[str]) -> list[str]:
    """Short names that distinguish videos.

    Args:
        paths: Paths of the videos.

    Returns:
        The file name without suffix; if that is not unique, with as many parent folders as needed
        (``seq1/frames``, ``seq2/frames``); if a path occurs twice, with a number.
    """
    stems = [
        (path if os.path.isdir(path) else os.path.splitext(path)[0]).rstrip(os.sep).split(os.sep)
        for path in map(os.path.abspath, paths)
    ]
    depth = [1] * len(stems)
    while True:
        names = ["/".join(parts[-d:]) for parts, d in zip(stems, depth, strict=True)]
        counts = Counter(names)
        longer = [
            i for i, name in enumerate(names) if counts[name] > 1 and depth[i] < len(stems[i])
        ]
        if not longer or len({tuple(stems[i]) for i in longer}) == 1:
            break
        for i in longer:
            depth[i] += 1
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return unique
