"""Passes over frames that turn out to be unreadable while a loop is at work."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...errors import BadFrameError

logger = logging.getLogger(__name__)


class ReadableBatches:
    """The batches of a loader without those that hold a frame that cannot be read.

    Data sets leave such frames out beforehand; here come those of data sets that do not look, and
    of files that have changed meanwhile. A data set with ``strict_frames`` stops at them.

    Args:
        loader: The loader; its iterator goes on after an error.
        skipped: What is wrong with each is put in there.
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
            del batch  # not kept alive while the next one is waited for


def with_late_ones(listed: Mapping[str, Any] | None, late: Sequence[str]) -> dict[str, Any] | None:
    """What ``results.json`` says of skipped frames, those that were met on the way included.

    Args:
        listed: By the data set, see `skipped_frames`, or None if it does not say.
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
