"""Files that appear under their name only when they are complete.

While a file is being written, it lies next to its place as ``.NAME.8HEXDIGITS.part.SUFFIX``. The
writer holds a lock on that part file, and the lock ends with its process. A part file that a killed
process left is recognised by the missing lock, and the next process that writes the same file
removes it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

try:
    import fcntl
except ImportError:  # Windows: nothing is known about other processes, so nothing is removed
    fcntl = None

logger = logging.getLogger(__name__)


class PartFile:
    """The unfinished form of a file. Its folder must exist.

    Args:
        target: The path that the finished file will have.

    Attributes:
        path: Where to write meanwhile; the file exists, and is empty.

    Raises:
        OSError: The folder cannot be written to.
    """

    def __init__(self, target: str | os.PathLike[str]) -> None:
        self.target = Path(target)
        remove_leftovers(self.target)
        self.path, lock = _new_part(self.target)
        self._lock: int | None = lock
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def finish(self) -> Path:
        """Give the file its name, replacing a file that had it.

        Raises:
            OSError: If that is not possible; the part file is removed.
        """
        try:
            os.replace(self.path, self.target)
        except OSError:
            self.drop()
            raise
        self._unlock()
        return self.target

    def drop(self) -> None:
        """Remove what was written. Never raises OSError."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("the unfinished file %s stays behind: %s", self.path, error)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def try_part_file(target: str | os.PathLike[str]) -> None:
    """Make the unfinished form of a file and remove it again, to see whether that is possible.

    Args:
        target: The file. Its folder must exist.

    Raises:
        OSError: If it is not: the folder cannot be written to, or the name is too long for a part
            file, which has a longer one.
    """
    path, handle = _new_part(Path(target))
    os.close(handle)
    path.unlink(missing_ok=True)


def _new_part(target: Path) -> tuple[Path, int]:
    path = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}.part{target.suffix}")
    return path, os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)


def remove_leftovers(target: str | os.PathLike[str]) -> None:
    """Remove part files that killed processes left; those that others are writing stay.

    Args:
        target: The file that these processes were writing.
    """
    target = Path(target)
    if fcntl is None or not target.parent.is_dir():
        return
    pattern = re.compile(
        rf"\.{re.escape(target.stem)}\.[0-9a-f]{{8}}\.part{re.escape(target.suffix)}"
    )
    for name in os.listdir(target.parent):
        if not pattern.fullmatch(name):
            continue
        path = target.with_name(name)
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                logger.warning("removed %s, which an earlier run left when it was killed", path)
            finally:
                os.close(handle)


@contextlib.contextmanager
def whole_file(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file completely or not at all.

    Args:
        target: The file; its folder is made if it is missing.

    Yields:
        The path to write to. After an exception, an earlier file of that name is left unchanged.

    Raises:
        OSError: If the file cannot be written.
    """
    try:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        part = PartFile(target)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write {target} ({error.strerror}); give a path in a folder that you may write "
            "to",
        ) from error
    try:
        yield part.path
    except OSError as error:
        part.drop()
        if error.filename is not None or error.errno is None:
            raise
        # An error during writing does not know which file it concerns.
        raise OSError(
            error.errno,
            f"cannot write {target} ({error.strerror}); make room, or give another path",
        ) from error
    except BaseException:
        part.drop()
        raise
    part.finish()


def save_whole(content: Any, target: str | os.PathLike[str]) -> None:
    """Write a file that ``torch.load`` reads, completely or not at all.

    Args:
        content: Whatever ``torch.save`` takes.
        target: The file; its folder is made if it is missing.

    Raises:
        OSError: If the file cannot be written.
    """
    # Through memory: on a full disk, torch.save raises an error that does not say so.
    saved = io.BytesIO()
    torch.save(content, saved)
    with whole_file(target) as path, path.open("wb") as file:
        file.write(saved.getbuffer())
