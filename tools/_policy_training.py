"""What training a policy and warming it up have in common: one run of the policy's train loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _cli import downloads, make_runner


@dataclass(frozen=True)
class Training:
    """What a run gave.

    Args:
        policy: The file of the policy.
        files: All that was written, the policy first.
        clips: Number of videos.
        frames: Number of frames, of all epochs.
    """

    policy: Path
    files: tuple[Path, ...]
    clips: int
    frames: int


def train(
    config: Any,
    loader: dict[str, Any],
    epochs: int,
    verbose: bool,
    log_interval: int = 50,
    save_interval: int = 500,
) -> Training:
    """Train the policy of a config's hook; the model's weights do not change.

    Args:
        config: Its ``work_dir`` and weights set; changed in place.
        loader: Dataloader of the videos.
        epochs: How often to run them.
        verbose: Show MMEngine's log.
        log_interval: Frames between two lines of the log.
        save_interval: Frames between two writings of the policy within an epoch.
    """
    from blockcopy_plugins.integrations.mmengine import (
        PolicyCheckpointHook,
        PolicyCurveHook,
        video_config,
    )

    video_config.for_policy_training(config, loader, max_epochs=epochs, progress=True)
    config.default_hooks["logger"] = dict(type="LoggerHook", interval=max(1, log_interval))
    config.custom_hooks = [
        *config.custom_hooks,
        dict(type="blockcopy_plugins.CheckpointCheckHook"),
        dict(type="blockcopy_plugins.PolicyCheckpointHook", interval=save_interval),
        dict(type="blockcopy_plugins.PolicyCurveHook"),
    ]
    runner = make_runner(config, verbose)
    with downloads(config.load_from):
        runner.train()
    files: list[Path] = []
    for hook in runner.hooks:
        if isinstance(hook, PolicyCheckpointHook):
            files.insert(0, hook.path)
        elif isinstance(hook, PolicyCurveHook):
            files += hook.paths
    loop = runner.train_loop
    return Training(files[0], tuple(files), len(loop.dataloader.dataset.videos), loop.iter)
