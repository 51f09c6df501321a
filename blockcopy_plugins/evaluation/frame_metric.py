"""Base of metrics over the frames of videos: complete results of all processes, in order."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.evaluator import BaseMetric

from blockcopy_plugins.errors import ConfigError, StateError

logger = logging.getLogger(__name__)


class FrameMetric(BaseMetric):
    """Base of metrics that keep one result per frame, with a ``key`` of video and frame.

    All results of all processes are gathered: unlike with `BaseMetric`, none are cut off when the
    processes' videos have different lengths, and two results for one frame are an error.

    After an evaluation, `last_results` contains what was evaluated, in the order of video and
    frame, in every process.

    Args:
        keep_results: Keep `last_results`.
        collect_device: As for `BaseMetric`; the process group's own backend transfers the results.
        prefix: Prefix of the metrics' names, by default ``'video'``.
    """

    default_prefix = "video"

    def __init__(
        self, keep_results: bool = True, collect_device: str = "cpu", prefix: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.keep_results = keep_results
        self.last_results: tuple[Any, ...] = ()

    def evaluate(self, size: int) -> dict[str, float]:
        """Gather the results of all processes and compute the metrics.

        Args:
            size: Number of frames of the dataset. If the number of results differs, a warning is
                logged, and none are cut off.

        Returns:
            The metrics by name, the same in every process.

        Raises:
            StateError: A frame was evaluated twice.
        """
        gathered = [result for part in all_gather_object(self.results) for result in part]
        self.results.clear()
        # In every process: an error stops all of them instead of leaving some waiting.
        repeated = [key for key, n in Counter(r.key for r in gathered).items() if n > 1]
        if repeated:
            raise StateError(
                f"{len(repeated)} frames were evaluated more than once, the first is video "
                f"{repeated[0][0]}, frame {repeated[0][1]}; a sampler repeats frames to fill up "
                "processes or batches: use sampler=dict(type='blockcopy_plugins.VideoSampler')"
            )
        gathered.sort(key=lambda result: result.key)
        if len(gathered) != size:
            logger.warning(
                "%d frames were evaluated, but the dataset has %d; the metrics cover the former",
                len(gathered),
                size,
            )
        if self.keep_results:
            self.last_results = tuple(gathered)
        metrics: list[dict[str, float] | None] = [None]
        if is_main_process():
            computed = self.compute_metrics(gathered)
            metrics = [{f"{self.prefix}/{name}": value for name, value in computed.items()}]
        broadcast_object_list(metrics)
        return dict(metrics[0] or {})

    @abstractmethod
    def compute_metrics(self, results: Sequence[Any]) -> dict[str, float]:
        """Compute the metrics by name.

        Args:
            results: Results of all processes, in the order of video and frame.
        """


def require_keys(sample: Mapping[str, Any], *keys: str) -> None:
    """Check that a data sample has what a metric needs, video and frame ids included.

    Args:
        sample: The data sample as a dict.
        keys: Required names besides ``video_id`` and ``frame_id``.

    Raises:
        ConfigError: If one is missing.
    """
    missing = [key for key in (*keys, "video_id", "frame_id") if key not in sample]
    if missing:
        raise ConfigError(
            f"a data sample lacks {', '.join(missing)} (it has {sorted(sample)}); load the frames "
            "by blockcopy_plugins.VideoFrameDataset, which sets the video's and the frame's ids, "
            "and keep ori_shape among the meta_keys of PackDetInputs or PackSegInputs"
        )
