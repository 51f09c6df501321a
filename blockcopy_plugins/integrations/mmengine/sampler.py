"""Samplers that keep videos whole and their frames in order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.integrations.video_shares import lockstep, share_videos
from blockcopy_plugins.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class VideoSampler(Sampler[int]):
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
        if not hasattr(dataset, "video_of"):
            raise ConfigError(
                f"VideoSampler needs a dataset with video_of(index), but {type(dataset).__name__} "
                "has none; use blockcopy_plugins.VideoFrameDataset, not wrapped in another dataset"
            )
        rank, world_size = get_dist_info()
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.seed = sync_random_seed() if seed is None and shuffle else seed
        self.epoch = 0
        by_video: dict[int, list[int]] = {}
        for index in range(len(dataset)):
            by_video.setdefault(int(dataset.video_of(index)), []).append(index)
        shares = share_videos({v: len(indices) for v, indices in by_video.items()}, world_size)
        self._videos = [by_video[video] for video in shares[rank]]

    @property
    def videos(self) -> list[list[int]]:
        """This process's videos in the order of this epoch, each as its frames' dataset indices."""
        videos = list(self._videos)
        if self.shuffle:
            random.Random(f"{self.seed}-{self.epoch}").shuffle(videos)
        return videos

    def __iter__(self) -> Iterator[int]:
        for video in self.videos:
            yield from video

    def __len__(self) -> int:
        return sum(len(video) for video in self._videos)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the order of the videos with ``shuffle``.

        Args:
            epoch: Number of the epoch.
        """
        self.epoch = epoch


@DATA_SAMPLERS.register_module()
class VideoBatchSampler(Sampler[list[int]]):
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
        if not isinstance(sampler, VideoSampler):
            raise ConfigError(
                f"VideoBatchSampler needs a VideoSampler, but got {type(sampler).__name__}; set "
                "sampler=dict(type='blockcopy_plugins.VideoSampler')"
            )
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, but got {batch_size}")
        if drop_last:
            raise ConfigError("drop_last=True would leave out the ends of videos; set it to False")
        self.sampler = sampler
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        return lockstep(self.sampler.videos, self.batch_size)

    def __len__(self) -> int:
        return sum(1 for _ in self)
