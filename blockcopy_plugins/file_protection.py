"""Prevents a program's outputs from overwriting its inputs, or each other."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .errors import ConfigError
from .part_files import try_part_file

NamedPath = tuple[str, "str | os.PathLike[str]"]
"""The user's name for a file (``'--ann'``), and its path."""

_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD")
_QUOTED = re.compile(r"""(?<=["'>])[^"'<>]+(?=["'<])""")
_HEAD, _LONGEST = 256, 1 << 24  # bytes of a playlist that are looked at


def check_outputs(inputs: Iterable[NamedPath], outputs: Iterable[NamedPath]) -> None:
    """Check all outputs against all inputs and against each other, before anything is written.

    Two paths are one file if they resolve to the same path (``./``, symbolic links, also of
    folders), or are the same file on the disk (hard links), whether or not it exists yet. The files
    that a playlist names are inputs too.

    Args:
        inputs: Files and folders that are read. Addresses such as ``rtsp://...`` are skipped.
        outputs: Files that are written.

    Raises:
        ConfigError: If an output is also an input or another output, would become one more frame in
            a folder of images that is read, is a folder, or cannot be written.
    """
    read = [(name, path) for name, given in inputs if (path := local_path(given)) is not None]
    for name, path in list(read):
        read += [(f"a part of {name} {path!r},", part) for part in _files_in_playlist(path)]
    known = [(name, path, _identities(path)) for name, path in read]
    written: list[tuple[str, str, set]] = []
    for name, given in outputs:
        path = os.fspath(given)
        own = _identities(path)
        for other_name, other, identities in known:
            if own & identities:
                raise ConfigError(
                    f"{name} {path!r} is the same file as {other_name} {other!r}, which it would "
                    f"replace. Give another name or folder for {name}."
                )
            if _is_one_more_image(path, other):
                raise ConfigError(
                    f"{name} {path!r} would lie among the images of {other_name} {other!r} and be "
                    f"read as one of them. Give another folder for {name}."
                )
        for other_name, other, identities in written:
            if own & identities:
                raise ConfigError(
                    f"{name} {path!r} is the same file as {other_name} {other!r}; one would "
                    f"replace the other. Give another name or folder for {name}."
                )
        _check_writable(name, path)
        written.append((name, path, own))


def local_path(path: str | os.PathLike[str]) -> str | None:
    """The path of a file on this machine, or ``None`` for an address elsewhere.

    Args:
        path: A path, or an address that FFmpeg can open.
    """
    text = os.fspath(path)
    if os.path.exists(text):
        return text
    if text.startswith("file://"):
        return unquote(urlsplit(text).path)
    if text.startswith("file:"):
        return text[len("file:") :]
    return None if "://" in text else text


def _files_in_playlist(path: str, seen: frozenset[str] = frozenset()) -> list[str]:
    """The files that a playlist (HLS, FFmpeg's concat, DASH) names, and those in playlists in it.

    Everything that may be a name counts: what is in quotes or between tags, each line, and each
    line without its first word. One name too many only means that an output may not have it.
    """
    if path in seen or not os.path.isfile(path):
        return []
    try:
        with open(path, "rb") as file:
            if not file.read(_HEAD).lstrip(b"\xef\xbb\xbf").lstrip().startswith(_PLAYLISTS):
                return []
            file.seek(0)
            text = file.read(_LONGEST).decode(errors="surrogateescape")
    except OSError:
        return []
    named: list[str] = []
    for line in text.split("\n"):
        named += [line, line.strip().partition(" ")[2], *_QUOTED.findall(line)]
    found = []
    for name in {name.strip() for name in named if name.strip()}:
        for spelled in {name, unquote(name)}:
            file_path = local_path(os.path.join(os.path.dirname(path), spelled))
            if file_path is not None and "\0" not in file_path and os.path.isfile(file_path):
                found += [file_path, *_files_in_playlist(file_path, seen | {path})]
    return found


def _identities(path: str) -> set:
    """Everything that two names of the same file have in common."""
    found: set = {os.path.realpath(path)}
    try:
        status = os.stat(path)
    except OSError:
        return found
    found.add((status.st_dev, status.st_ino))
    return found


def _is_one_more_image(output: str, folder: str) -> bool:
    from .image_names import is_image  # only where there is something to check

    if not is_image(output) or not os.path.isdir(folder):
        return False
    return os.path.realpath(os.path.dirname(os.path.abspath(output))) == os.path.realpath(folder)


def _check_writable(name: str, path: str) -> None:
    if os.path.isdir(path):
        raise ConfigError(f"{name} {path!r} is a folder; give the name of a file to write.")
    folder = Path(os.path.abspath(path)).parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise ConfigError(
            f"{name} {path!r} cannot be written: {str(folder)!r} is not a folder. Give a path in a "
            "folder."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{name} {path!r} cannot be written: nothing can be written to the folder "
            f"{str(folder)!r} (it is read-only, or another user's). Give a path in a folder that "
            "you may write to."
        )
    try:
        try_part_file(folder / os.path.basename(path))
    except OSError as error:
        raise ConfigError(
            f"{name} {path!r} cannot be written: no file of that name, with a few letters more "
            f"while it is unfinished, can be made in {str(folder)!r} ({error.strerror}). Give a "
            "path in a folder that you may write to, or a shorter name."
        ) from None
