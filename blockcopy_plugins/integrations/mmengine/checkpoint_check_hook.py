"""Refuses a checkpoint that does not fit the model."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...addresses import masked
from ...checkpoints.model_weights import find_weights
from ...errors import ConfigError
from ...registry import HOOKS
from .hook import unwrap

logger = logging.getLogger(__name__)


@HOOKS.register_module()
class CheckpointCheckHook(Hook):
    """Stops where weights of the model are missing in the checkpoint, or have another shape.

    MMEngine only warns, and the model then runs with random weights there. What wrappers put before
    the names (``module.``, ``_orig_mod.``, ``model.``) and other names of the entry with the
    weights are no differences, see `find_weights`; nor are weights of auxiliary heads, which only
    training runs.

    Raises:
        ConfigError: When such a checkpoint is loaded.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare the checkpoint's weights with the model's, and put them where MMEngine looks."""
        own = {
            name: tuple(value.shape) for name, value in unwrap(runner.model).state_dict().items()
        }
        path = str(runner._load_from or "")
        found = find_weights(checkpoint, own, path)
        if found.unfit:
            raise ConfigError(
                f"the checkpoint {masked(path)!r} does not fit the model: {len(found.unfit)} of "
                f"{len(own)} weights are missing or have another shape, the first is "
                f"{found.unfit[0]}. Give the checkpoint that belongs to the config."
            )
        if found.unused:
            logger.warning(
                "the checkpoint lacks the weights of %s, which only training runs",
                found.unused[0].partition(".")[0],
            )
        checkpoint["state_dict"] = found.state
