"""Skips frames that turn out to be unreadable while a loop runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...errors import BadFrameError

logger = logging.getLogger(__name__)


class ReadableBatches:
    """The batches of a loader, without those that contain an unreadable frame.

    Data sets leave such frames out beforehand; this deals with data sets that do not check, and
    with files that have changed since. A data set with ``strict_frames`` stops at them.

    Args:
        loader: The loader; its iterator must go on after an error.
        skipped: Collects what is wrong with each.
    """

    def __init__(self, loader: Any, skipped: list[str]) -> None:
        self.loader = loader
        self.skipped = skipped

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except BadFrameError as error:
                if _is_strict(self.loader):
                    raise
                self.skipped.append(str(error))
                logger.warning("a frame is skipped: %s", error)
                continue
            yield batch
            del batch  # not kept alive while the next one is loaded


def with_late_ones(listed: Mapping[str, Any] | None, late: Sequence[str]) -> dict[str, Any] | None:
    """What ``results.json`` says about skipped frames, including those found during the run.

    Args:
        listed: The data set's own list, see `skipped_frames`, or None if it has none.
        late: What is wrong with those of `ReadableBatches`.
    """
    if listed is None and not late:
        return None
    found = {"count": 0, "videos": [], **(listed or {})}
    if late:
        found["count"] += len(late)
        found["while_running"] = list(late)
    return found


def _is_strict(loader: Any) -> bool:
    dataset = getattr(loader, "dataset", None)
    while dataset is not None:
        if getattr(dataset, "strict_frames", False):
            return True
        dataset = getattr(dataset, "_dataset", None)  # Detectron2's mapped ones
    return False
