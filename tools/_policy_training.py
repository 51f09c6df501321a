"""The part that training a policy and warming it up share: one run of the policy's train loop."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _cli import downloads, make_runner
from _stopping import StopRequest


@dataclass(frozen=True)
class Training:
    """The result of a run.

    Args:
        policy: The file of the policy.
        files: All files that were written, the policy first.
        clips: Number of videos.
        frames: Number of frames over all epochs.
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
    stop: StopRequest | None = None,
) -> Training:
    """Train the policy of a config's hook; the model's weights do not change.

    Args:
        config: Its ``work_dir`` and weights are set; changed in place.
        loader: Dataloader of the videos.
        epochs: How often to run the videos.
        verbose: Show MMEngine's log.
        log_interval: Frames between two lines of the log.
        save_interval: Frames between two saves of the policy within an epoch.
        stop: Whether the tool was asked to end.

    However the training ends, the files contain what was learned by then.
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
    runner = make_runner(config, verbose, stop)
    try:
        with downloads(config.load_from):
            runner.train()
    except (Exception, KeyboardInterrupt):
        _keep(runner)
        raise
    files: list[Path] = []
    for hook in runner.hooks:
        if isinstance(hook, PolicyCheckpointHook):
            files.insert(0, hook.path)
        elif isinstance(hook, PolicyCurveHook):
            files += hook.paths
    loop = runner.train_loop
    return Training(files[0], tuple(files), len(loop.dataloader.dataset.videos), loop.iter)


def _keep(runner: Any) -> None:
    """Write what was learned in a training that ended early, and say so."""
    from blockcopy_plugins.integrations.mmengine import PolicyCheckpointHook, PolicyCurveHook

    loop = runner.train_loop if not isinstance(runner._train_loop, dict) else None
    if loop is None or not loop.iter:
        return  # nothing was learned
    for kind in (PolicyCheckpointHook, PolicyCurveHook):
        for hook in runner.hooks:
            if isinstance(hook, kind):
                try:
                    written = hook.end_early(runner)
                except OSError as error:
                    print(f"note: not written: {error}", file=sys.stderr)
                    continue
                for path in written:
                    print(f"wrote {path}, after {loop.iter} of {loop.max_iters} frames")
