"""Saves the policy, and nothing else, while it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...errors import ConfigError
from ...policy.policy_file import save_policy
from ...registry import HOOKS
from .hook import find_hook


@HOOKS.register_module()
class PolicyCheckpointHook(Hook):
    """Writes ``policy.pth`` after each epoch, at intervals, and at the end.

    The file contains the policy's network, optimizer and running rate, but not the model's weights;
    ``BlockCopyHook`` starts from it with ``policy_checkpoint=...``.

    Args:
        interval: Frames between two saves within an epoch, 0 for none.
        out_dir: Folder of the file, ``None`` for the runner's ``work_dir``.
        keep_epochs: Also keep a ``policy_epoch_N.pth`` for each epoch.

    Raises:
        ConfigError: If ``interval`` is below 0.
    """

    def __init__(
        self, interval: int = 500, out_dir: str | Path | None = None, keep_epochs: bool = False
    ) -> None:
        if interval < 0:
            raise ConfigError(f"interval={interval}, expected at least 0.")
        self.interval = interval
        self.out_dir = out_dir
        self.keep_epochs = keep_epochs
        self.path: Path | None = None

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save at intervals."""
        if self.interval and (runner.iter + 1) % self.interval == 0:
            self._save(runner, "policy.pth")

    def after_train_epoch(self, runner: Runner) -> None:
        """Save after each epoch, which is also the end."""
        self.path = self._save(runner, "policy.pth")
        if self.keep_epochs:
            self._save(runner, f"policy_epoch_{runner.epoch + 1}.pth")

    def end_early(self, runner: Runner) -> tuple[Path, ...]:
        """Save what was learned in a training that ended early."""
        self.path = self._save(runner, "policy.pth")
        return (self.path,)

    @master_only
    def _save(self, runner: Runner, name: str) -> Path:
        folder = Path(self.out_dir or runner.work_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_policy(find_hook(runner).handle.policy, folder / name)
        return folder / name
