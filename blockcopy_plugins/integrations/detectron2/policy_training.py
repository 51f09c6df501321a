"""Trains a policy on video, without labels; the model does not change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ...config import BlockCopyConfig
from ...policy import Policy
from ..common.policy_training import check_epochs, check_learns
from .adapter import refuse_augmentation
from .predictor import convert_model, restore_model
from .sampler import refuse_cut_videos
from .video_run import VideoRun


def train_policy(
    model: nn.Module,
    loader: Any,
    config: BlockCopyConfig,
    epochs: int = 1,
    after_frame: Callable[[dict[str, float]], None] | None = None,
    after_epoch: Callable[[int], None] | None = None,
) -> Policy:
    """Let a policy learn online from all videos.

    The model runs block-sparsely in eval mode, without gradients, and its weights do not change.
    Each epoch runs all videos from the start, and the policy keeps learning.

    Args:
        model: A meta-architecture, which is restored afterwards.
        loader: A loader from :func:`.sampler.build_video_test_loader`.
        config: How to run the model, with the policy to train.
        epochs: How often to run the videos.
        after_frame: Called with the policy's figures of a frame (``executed_rate``,
            ``information_gain``, ``reward``, ``loss``, ...), ``frame`` and ``epoch``.
        after_epoch: Called with the number of the epoch, from 1.

    Returns:
        The policy.

    Raises:
        ConfigError: If ``epochs`` is below 1, the policy does not learn, the model runs test-time
            augmentation, or the loader cuts videos.
    """
    check_epochs("epochs", epochs)
    refuse_augmentation(model)
    refuse_cut_videos(loader)
    training = model.training
    model.eval()
    handle = convert_model(model, config)
    try:
        policy = handle.policy
        check_learns(policy)
        run = VideoRun(model, handle, dense=False, mac_samples=0, restart_policy=False)
        frame = 0
        for epoch in range(epochs):
            sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
            for inputs in loader:
                run(inputs)
                run.entries.clear()
                if after_frame is not None:
                    last = handle.last
                    figures = {"executed_rate": last.executed_rate, **last.scalars}
                    after_frame({"frame": frame, "epoch": epoch + 1, **figures})
                frame += 1
            if after_epoch is not None:
                after_epoch(epoch + 1)
    finally:
        restore_model(model)
        model.train(training)
    return policy
