"""Runs each batch of frames block-sparsely and dense, and records the cost."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from ...engine.report import Totals
from ...engine.session import Session
from ..common.frame_entry import FrameEntry
from ..common.paired_runs import PairedRuns, RunOptions
from ..common.stream_ids import StreamIds

logger = logging.getLogger(__name__)


class VideoRun:
    """A converted model as the callable that ``inference_on_dataset`` takes.

    Streams are the ``video_id`` of the inputs. A stream starts again when its video does, and is
    forgotten once its video is no longer in the batch. Inputs without a ``video_id`` count as
    unrelated pictures: each is executed fully, and a warning says so once.

    Args:
        model: The model, converted, in eval mode.
        handle: Session of the model, or of its wrapped backbone.
        **options: See :class:`~..common.paired_runs.RunOptions`.

    Attributes:
        dense_outputs: Dense outputs of the last call, ``None`` if it did not run dense.
        entries: Figures of all frames so far.
        last_entries: Figures of the frames of the last call.

    Raises:
        ConfigError: If an option is out of range.
    """

    def __init__(self, model: nn.Module, handle: Session, **options: Any) -> None:
        self.model = model
        self.handle = handle
        self.options = RunOptions(**options)
        self._runs = PairedRuns(handle, self.options)
        self.dense_outputs: list[dict[str, Any]] | None = None
        self.entries: list[FrameEntry] = []
        self.last_entries: tuple[FrameEntry, ...] = ()
        self._ids = StreamIds()
        self._pictures = 0

    @property
    def totals(self) -> Totals:
        """The engine's counts since the last :meth:`clear`."""
        return self._runs.totals

    def clear(self) -> None:
        """Forget the figures of all frames."""
        self.entries.clear()
        self._runs.totals = Totals()

    @torch.no_grad()
    def __call__(self, inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Run the next frames.

        Args:
            inputs: One dict for each image; each image belongs to a different video.

        Returns:
            The outputs of the block-sparse run.

        Raises:
            ConfigError: If the policy is to start again with each video and the batch has
                several.
        """
        with self.handle.named(self._begin(inputs)):
            found = self._runs.run(self.model, lambda: inputs, inputs[0])
        self.dense_outputs = found.outputs.get("dense")
        known = len(self.entries)
        self.last_entries = tuple(
            found.entry(i, {"video_id": 0, "frame_id": known + i, **given})
            for i, given in enumerate(inputs)
        )
        self.entries += self.last_entries
        return found.outputs["blockcopy"]

    def _begin(self, inputs: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Streams of a batch; those that have ended are forgotten."""
        ids, restarts = self._ids.read([SimpleNamespace(metainfo=x) for x in inputs])
        handle = self.handle
        if ids is None:
            if not self._pictures:
                logger.warning(
                    "the inputs have no video_id, so each image is executed fully, as if it were "
                    "unrelated to the previous one; load frames with VideoFrameDataset."
                )
            handle.reset()
            ids = tuple(f"picture {self._pictures + i}" for i in range(len(inputs)))
            self._pictures += len(inputs)
            return list(ids)
        handle.reset([i for i in handle.states.ids() if i in restarts or i not in ids])
        if restarts:
            self._runs.start_video(len(inputs))
        return list(ids)
