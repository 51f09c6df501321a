"""Samplers that keep videos whole and their frames in order."""

from __future__ import annotations

from typing import Any

from mmengine.dist import get_dist_info, sync_random_seed

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.integrations.common.video_sampler import LockstepSampler, WholeVideoSampler
from blockcopy_plugins.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class VideoSampler(WholeVideoSampler):
    """Video after video, frame after frame; under torch.distributed each process gets whole videos.

    Videos are dealt longest first to the process that has the fewest frames (so the shares are
    balanced as well as whole videos allow), the same way in every process. No frame is repeated to
    make shares equal: a process may get more frames than another, and none at all if there are
    fewer videos than processes. `DefaultSampler` would deal single frames to the processes in
    turns, and a stream's state would be that of another moment.

    Use it with ``batch_size=1``. To run several streams in one batch, add
    ``batch_sampler=dict(type='blockcopy_plugins.VideoBatchSampler')``; without it, a larger batch
    would hold consecutive frames of one stream.

    Args:
        dataset: A dataset with ``video_of(index)``, as `VideoFrameDataset` has it.
        shuffle: Visit the process's videos in random order, another one each epoch. Their frames
            stay in order.
        seed: Seed of the order. None takes one that all processes share.

    Raises:
        ConfigError: The dataset cannot say which video a frame is of.
    """

    def __init__(self, dataset: Any, shuffle: bool = False, seed: int | None = None) -> None:
        rank, world_size = get_dist_info()
        if seed is None and shuffle:
            seed = sync_random_seed()
        super().__init__(dataset, shuffle, seed, rank, world_size)


@DATA_SAMPLERS.register_module()
class VideoBatchSampler(LockstepSampler):
    """Batches with one frame of each of several videos, which run in lock step.

    A batch holds the next frames of up to ``batch_size`` videos, never two of the same one. When a
    video ends, the next one takes its place in the batch; when none is left, batches get smaller.
    So images of a batch must be told to streams by their video id, not by their place.

    Args:
        sampler: A `VideoSampler`.
        batch_size: Number of videos that run at the same time.
        drop_last: Must be False: no frame is dropped.

    Raises:
        ConfigError: Another sampler, ``batch_size`` below 1, or ``drop_last``.
    """

    def __init__(self, sampler: VideoSampler, batch_size: int, drop_last: bool = False) -> None:
        if drop_last:
            raise ConfigError("drop_last=True would leave out the ends of videos; set it to False")
        super().__init__(sampler, batch_size)
