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

    Each video, the longest first, goes to the process with the fewest frames, the same way in every
    process, so that shares are as balanced as whole videos allow. No frame is repeated to make
    shares equal: processes may get different numbers of frames, and none at all if there are fewer
    videos than processes. `DefaultSampler` would deal single frames to the processes in turn, and a
    stream would not see its previous frame.

    Use it with ``batch_size=1``. To run several streams in one batch, add
    ``batch_sampler=dict(type='blockcopy_plugins.VideoBatchSampler')``; without it, a larger batch
    would contain consecutive frames of one stream.

    Args:
        dataset: A dataset with ``video_of(index)``, such as `VideoFrameDataset`.
        shuffle: Visit the process's videos in a new random order each epoch. Their frames stay in
            order.
        seed: Seed of the order, by default one that all processes share.

    Raises:
        ConfigError: The dataset does not know which video a frame belongs to.
    """

    def __init__(self, dataset: Any, shuffle: bool = False, seed: int | None = None) -> None:
        rank, world_size = get_dist_info()
        if seed is None and shuffle:
            seed = sync_random_seed()
        super().__init__(dataset, shuffle, seed, rank, world_size)


@DATA_SAMPLERS.register_module()
class VideoBatchSampler(LockstepSampler):
    """Batches with one frame of each of several videos, which run in lock step.

    A batch contains the next frames of up to ``batch_size`` videos, never two of the same one. When
    a video ends, the next one takes its place in the batch; when none is left, batches get smaller.
    So the stream of an image is known by its video id, not by its place in the batch.

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
