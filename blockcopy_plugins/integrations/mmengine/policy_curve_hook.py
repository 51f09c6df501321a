"""Writes a policy's figures during training, frame by frame, and a plot of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...part_files import whole_file
from ...registry import HOOKS
from ..common.comparison import plain
from .hook import find_hook


@HOOKS.register_module()
class PolicyCurveHook(Hook):
    """Writes ``policy_log.json`` and ``policy_curve.png`` after each epoch of a policy's training.

    The plot shows executed rate, information gain, reward and loss over the frames.

    Args:
        out_dir: Folder of the files, ``None`` for the runner's ``work_dir``.
    """

    priority = "LOW"

    def __init__(self, out_dir: str | Path | None = None) -> None:
        self.out_dir = out_dir
        self.records: list[dict[str, float]] = []
        self.paths: tuple[Path, ...] = ()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, float] | None = None,
    ) -> None:
        """Record a frame."""
        place = {"frame": runner.iter, "epoch": runner.epoch + 1}
        self.records.append({**place, **(outputs or {})})

    def end_early(self, runner: Runner) -> tuple[Path, ...]:
        """Write the files of a training that ended early; the log says so."""
        self._write(runner, partial=True)
        return self.paths

    def after_train_epoch(self, runner: Runner) -> None:
        """Write the files again."""
        self._write(runner, partial=False)

    @master_only
    def _write(self, runner: Runner, partial: bool) -> None:
        from ...visualization import plot_policy_curve  # only needed here, with matplotlib

        folder = Path(self.out_dir or runner.work_dir)
        folder.mkdir(parents=True, exist_ok=True)
        policy = find_hook(runner).handle.policy
        target = getattr(policy, "target", None)
        log, plot = folder / "policy_log.json", folder / "policy_curve.png"
        figures = {"policy": type(policy).__name__, "target": target, "partial": partial}
        with whole_file(log) as path:
            path.write_text(json.dumps(plain({**figures, "frames": self.records}), indent=1) + "\n")
        title = f"{type(policy).__name__}, {len(self.records)} frames"
        plot_policy_curve(self.records, plot, target, title=title)
        self.paths = (plot, log)
