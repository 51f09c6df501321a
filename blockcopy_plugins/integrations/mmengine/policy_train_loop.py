"""The train loop of a policy, which learns from the outputs of a model that does not change."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmengine.runner import BaseLoop, Runner
from torch import nn

from ...datasets.packed_frame import check_packed, known_metainfo
from ...errors import ConfigError
from ...registry import LOOPS
from ..common.frame_figures import FrameFigures
from ..common.policy_training import check_epochs, check_learns
from ..common.readable_batches import ReadableBatches
from .hook import find_hook

_SHOWN = ("executed_rate", "information_gain", "reward", "loss")


@LOOPS.register_module()
class PolicyTrainLoop(BaseLoop):
    """Trains the policy of :class:`BlockCopyHook` online, on video without labels.

    The model runs block-sparsely in eval mode, without gradients, and its weights do not change;
    the policy learns from each frame on its own, with its own optimizer. Each epoch runs all videos
    from the start, and the policy keeps learning. Training hooks get the policy's figures
    (``executed_rate``, ``information_gain``, ``reward``, ``loss``, ...) as outputs, so that loggers
    and visualization backends receive them as ``train/...``; on a GPU, those of the previous frame,
    so that nothing has to wait.

    Args:
        runner: The runner. Its optimizer is not used.
        dataloader: Of a ``VideoFrameDataset``, in the order of a ``VideoSampler``.
        max_epochs: Number of epochs.
        progress: Show a progress bar on stderr.

    Raises:
        ConfigError: If ``max_epochs`` is below 1, or there are several processes, each of which
            would train a policy of its own.
    """

    def __init__(
        self, runner: Runner, dataloader: Any, max_epochs: int = 1, progress: bool = False
    ) -> None:
        super().__init__(runner, dataloader)
        check_epochs("max_epochs", max_epochs)
        if get_world_size() > 1:
            raise ConfigError(
                f"{get_world_size()} processes would each train a separate policy. Use one."
            )
        self.progress = progress
        self.max_epochs = max_epochs
        self.max_iters = max_epochs * len(self.dataloader)
        self.epoch = 0
        self.iter = 0
        # MMEngine's Runner reads these.
        self.stop_training = False
        self.val_loop = None

    def run(self) -> nn.Module:
        """Run all epochs.

        Returns:
            The model, unchanged.

        Raises:
            ConfigError: If the policy does not learn.
        """
        runner, hook = self.runner, find_hook(self.runner)
        runner.call_hook("before_train")
        runner.model.eval()
        hook.begin(runner)
        policy = hook.handle.policy
        check_learns(policy)
        # For the logs only: nothing steps this optimizer, the policy has its own.
        for group in runner.optim_wrapper.optimizer.param_groups:
            group["lr"] = getattr(policy, "lr", 0.0)
        bar = self._bar()
        recent = {name: deque(maxlen=50) for name in _SHOWN}
        figures = FrameFigures()
        try:
            while self.epoch < self.max_epochs and not self.stop_training:
                runner.call_hook("before_train_epoch")
                for index, data_batch in enumerate(ReadableBatches(self.dataloader, [])):
                    scalars = self._run_iter(index, data_batch, hook.handle, figures)
                    for name in _SHOWN:
                        if name in scalars:
                            recent[name].append(scalars[name])
                    if bar is not None:
                        bar.set_postfix(_means(recent), refresh=False)
                        bar.update()
                runner.call_hook("after_train_epoch")
                self.epoch += 1
            runner.call_hook("after_train")
        finally:
            if bar is not None:
                bar.close()
        hook.end(runner)
        if not getattr(policy, "updates", 1):
            print_log(
                f"the policy was not updated in {self.iter} frames; it needs more of them",
                logger="current",
                level=logging.WARNING,
            )
        return runner.model

    @torch.no_grad()
    def _run_iter(
        self, index: int, data_batch: Any, handle: Any, figures: FrameFigures
    ) -> dict[str, float]:
        runner = self.runner
        runner.call_hook("before_train_iter", batch_idx=index, data_batch=data_batch)
        check_packed(data_batch)
        with known_metainfo(data_batch["data_samples"]):
            runner.model.test_step(data_batch)
        figures.add(handle.last)
        scalars: dict[str, float] = {}
        for known, _ in figures.known():
            scalars = known
        runner.call_hook(
            "after_train_iter", batch_idx=index, data_batch=data_batch, outputs=scalars
        )
        self.iter += 1
        return scalars

    def _bar(self) -> Any | None:
        if not self.progress:
            return None
        from tqdm import tqdm  # only needed for a progress bar

        return tqdm(total=self.max_iters, desc="frames", unit="frame", dynamic_ncols=True)


def _means(recent: dict[str, Iterable[float]]) -> dict[str, str]:
    short = {"executed_rate": "rate", "information_gain": "gain"}
    return {
        short.get(name, name): f"{sum(values) / len(values):.3g}"
        for name, values in recent.items()
        if values
    }
