"""Refuses a checkpoint that does not fit the model."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...errors import ConfigError
from ...registry import HOOKS
from .hook import unwrap


@HOOKS.register_module()
class CheckpointCheckHook(Hook):
    """Stops where weights of the model are missing in the checkpoint, or have another shape.

    MMEngine only warns, and the model then runs with random weights there.

    Raises:
        ConfigError: When such a checkpoint is loaded.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare the checkpoint's weights with the model's."""
        saved = checkpoint.get("state_dict", checkpoint)
        saved = {name.removeprefix("module."): value for name, value in saved.items()}
        own = {
            name: tuple(value.shape)
            for name, value in unwrap(runner.model).state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        odd = [
            f"{name} {shape} (found {tuple(saved[name].shape) if name in saved else 'none'})"
            for name, shape in own.items()
            if name not in saved or tuple(saved[name].shape) != shape
        ]
        if odd:
            raise ConfigError(
                f"the checkpoint does not fit the model: {len(odd)} of {len(own)} weights are "
                f"missing or have another shape, the first is {odd[0]}. Give the checkpoint that "
                "belongs to the config."
            )
