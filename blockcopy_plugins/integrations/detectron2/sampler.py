"""Samplers that keep videos whole, loaders that use them, and a check for other loaders."""

from __future__ import annotations

from typing import Any

from detectron2.data import MapDataset
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, SequentialSampler

from ...errors import ConfigError
from ..common.video_sampler import LockstepSampler, WholeVideoSampler
from .video_dataset import VideoFrameDataset, VideoFrameMapper


class VideoSampler(WholeVideoSampler):
    """Video after video, frame after frame; each process gets whole videos.

    Args:
        dataset: A :class:`VideoFrameDataset`.
        shuffle: Visit the process's videos in a new random order each epoch. Their frames stay in
            order.
        seed: Seed of the order.

    Raises:
        ConfigError: If the dataset does not know which video a frame belongs to.
    """

    def __init__(self, dataset: Any, shuffle: bool = False, seed: int = 0) -> None:
        super().__init__(dataset, shuffle, seed, comm.get_rank(), comm.get_world_size())


class VideoBatchSampler(LockstepSampler):
    """Batches with one frame of each of several videos, which run in lock step."""


def build_video_test_loader(
    dataset: VideoFrameDataset,
    mapper: VideoFrameMapper,
    batch_size: int = 1,
    num_workers: int = 0,
    shuffle: bool = False,
) -> DataLoader:
    """Make a loader of video frames, as ``build_detection_test_loader`` does for images.

    Args:
        dataset: The frames.
        mapper: Turns them into inputs.
        batch_size: Videos that run at the same time, one frame of each in a batch.
        num_workers: Processes that load; each also decodes the frames that the others return.
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
    """Refuse a loader that splits the frames of a video among processes, or shuffles them.

    Args:
        loader: A ``DataLoader``, or any iterable; one without a sampler is accepted.

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
