"""Samplers that keep videos whole and their frames in order, for any number of processes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from torch.utils.data import Sampler

from ...errors import ConfigError
from .video_shares import lockstep, share_videos


class WholeVideoSampler(Sampler[int]):
    """Video after video, frame after frame; each process gets whole videos.

    :func:`~.video_shares.share_videos` deals the videos, the same way in every process. No frame is
    repeated to make shares equal.

    Args:
        dataset: A dataset with ``video_of(index)``.
        shuffle: Visit the process's videos in another random order each epoch.
        seed: Seed of the order.
        rank: Number of this process.
        world_size: Number of processes.

    Raises:
        ConfigError: The dataset cannot say which video a frame is of.
    """

    def __init__(
        self, dataset: Any, shuffle: bool, seed: int | None, rank: int, world_size: int
    ) -> None:
        if not hasattr(dataset, "video_of"):
            raise ConfigError(
                f"{type(self).__name__} needs a dataset with video_of(index), but "
                f"{type(dataset).__name__} has none; give it a VideoFrameDataset itself, not one "
                "that is mapped or wrapped in another dataset."
            )
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        by_video: dict[int, list[int]] = {}
        for index in range(len(dataset)):
            by_video.setdefault(int(dataset.video_of(index)), []).append(index)
        shares = share_videos({v: len(indices) for v, indices in by_video.items()}, world_size)
        self._videos = [by_video[video] for video in shares[rank]]

    @property
    def videos(self) -> list[list[int]]:
        """This process's videos in this epoch's order, each as its frames' dataset indices."""
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
        """Set the epoch, which decides the order of the videos with ``shuffle``."""
        self.epoch = epoch


class LockstepSampler(Sampler[list[int]]):
    """Batches with one frame of each of several videos, by :func:`~.video_shares.lockstep`.

    Args:
        sampler: A sampler of whole videos.
        batch_size: Number of videos that run at the same time.

    Raises:
        ConfigError: Another sampler, or ``batch_size`` below 1.
    """

    def __init__(self, sampler: WholeVideoSampler, batch_size: int) -> None:
        if not isinstance(sampler, WholeVideoSampler):
            raise ConfigError(
                f"{type(self).__name__} needs a VideoSampler, but got {type(sampler).__name__}; "
                "set sampler=dict(type='blockcopy_plugins.VideoSampler')"
            )
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, but got {batch_size}")
        self.sampler = sampler
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        return lockstep(self.sampler.videos, self.batch_size)

    def __len__(self) -> int:
        return sum(1 for _ in self)
