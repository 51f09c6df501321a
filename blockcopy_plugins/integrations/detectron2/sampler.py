"""Samplers that keep videos whole, loaders that use them, and what must not deal out frames."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from detectron2.data import MapDataset
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from ...errors import ConfigError
from ..video_shares import lockstep, share_videos
from .video_dataset import VideoFrameDataset, VideoFrameMapper


class VideoSampler(Sampler[int]):
    """Video after video, frame after frame; each process gets whole videos.

    Videos are dealt longest first to the process that has the fewest frames. No frame is repeated,
    and a process gets none if there are fewer videos than processes.

    Args:
        dataset: A :class:`VideoFrameDataset`.
        shuffle: Visit the process's videos in random order, another one each epoch. Their frames
            stay in order.
        seed: Seed of the order.

    Raises:
        ConfigError: The data set cannot say which video a frame is of.
    """

    def __init__(self, dataset: Any, shuffle: bool = False, seed: int = 0) -> None:
        if not hasattr(dataset, "video_of"):
            raise ConfigError(
                f"VideoSampler needs a data set with video_of(index), but {type(dataset).__name__} "
                "has none; give it the VideoFrameDataset, before it is mapped."
            )
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        by_video: dict[int, list[int]] = {}
        for index in range(len(dataset)):
            by_video.setdefault(dataset.video_of(index), []).append(index)
        lengths = {video: len(indices) for video, indices in by_video.items()}
        share = share_videos(lengths, comm.get_world_size())[comm.get_rank()]
        self._videos = [by_video[video] for video in share]

    @property
    def videos(self) -> list[list[int]]:
        """This process's videos in the order of this epoch, each as its frames' indices."""
        videos = list(self._videos)
        if self.shuffle:
            random.Random(f"{self.seed}-{self.epoch}").shuffle(videos)
        return videos

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the order of the videos with ``shuffle``."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        for video in self.videos:
            yield from video

    def __len__(self) -> int:
        return sum(len(video) for video in self._videos)


class VideoBatchSampler(Sampler[list[int]]):
    """Batches with one frame of each of several videos, which run in lock step.

    Args:
        sampler: A :class:`VideoSampler`.
        batch_size: Number of videos that run at the same time.

    Raises:
        ConfigError: If it is below 1.
    """

    def __init__(self, sampler: VideoSampler, batch_size: int) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}, expected at least 1.")
        self.sampler = sampler
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        return lockstep(self.sampler.videos, self.batch_size)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def build_video_test_loader(
    dataset: VideoFrameDataset,
    mapper: VideoFrameMapper,
    batch_size: int = 1,
    num_workers: int = 0,
    shuffle: bool = False,
) -> DataLoader:
    """A loader of video frames, as ``build_detection_test_loader`` makes one of images.

    Args:
        dataset: The frames.
        mapper: Makes inputs of them.
        batch_size: Videos that run at the same time, one frame of each in a batch.
        num_workers: Processes that load; each decodes the frames that the others return, too.
        shuffle: Visit the videos in random order.

    Returns:
        The loader; its batches are lists of dicts.
    """
    sampler = VideoSampler(dataset, shuffle)
    return DataLoader(
        MapDataset(dataset, mapper),
        batch_sampler=VideoBatchSampler(sampler, batch_size),
        num_workers=num_workers,
        collate_fn=_as_list,
    )


def refuse_cut_videos(loader: Any) -> None:
    """Refuse a loader that deals the frames of a video to several processes, or out of order.

    Args:
        loader: A ``DataLoader``, or any iterable: what has no sampler passes.

    Raises:
        ConfigError: If its sampler does so.
    """
    sampler = getattr(loader, "sampler", None)
    batches = getattr(loader, "batch_sampler", None)
    if isinstance(batches, VideoBatchSampler) or sampler is None:
        return
    remedy = "Use build_video_test_loader(dataset, mapper), whose VideoSampler deals whole videos."
    if isinstance(sampler, InferenceSampler) and comm.get_world_size() > 1:
        raise ConfigError(
            f"the loader's InferenceSampler cuts the frames into {comm.get_world_size()} equal "
            "parts, one for each process, in the middle of a video, whose second half would start "
            f"without the features of the first. {remedy}"
        )
    in_order = isinstance(sampler, (InferenceSampler, SequentialSampler, VideoSampler))
    if not in_order:
        raise ConfigError(
            f"the loader's {type(sampler).__name__} does not give the frames of a video in order. "
            f"{remedy}"
        )
    if getattr(loader, "batch_size", 1) not in (None, 1):
        raise ConfigError(
            f"the loader's batches hold {loader.batch_size} consecutive frames, but a batch has "
            "one frame of each of several videos, or of one video a single frame. " + remedy
        )


def _as_list(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return batch
