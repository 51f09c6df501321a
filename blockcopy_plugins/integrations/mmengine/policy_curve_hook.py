"""Writes how a policy learned: its figures frame by frame, and a plot of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...registry import HOOKS
from ..comparison import plain
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
        """Take note of a frame."""
        place = {"frame": runner.iter, "epoch": runner.epoch + 1}
        self.records.append({**place, **(outputs or {})})

    @master_only
    def after_train_epoch(self, runner: Runner) -> None:
        """Write the files anew."""
        from ...visualization import plot_policy_curve  # who only trains needs no matplotlib

        folder = Path(self.out_dir or runner.work_dir)
        folder.mkdir(parents=True, exist_ok=True)
        policy = find_hook(runner).handle.policy
        target = getattr(policy, "target", None)
        log = folder / "policy_log.json"
        log.write_text(
            json.dumps(
                plain({"policy": type(policy).__name__, "target": target, "frames": self.records}),
                indent=1,
            )
            + "\n"
        )
        title = f"{type(policy).__name__}, {len(self.records)} frames"
        plot = plot_policy_curve(self.records, folder / "policy_curve.png", target, title=title)
        self.paths = (plot, log)
