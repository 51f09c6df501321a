"""Refuses a checkpoint that does not fit the model."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from ...addresses import masked
from ...checkpoints.model_weights import find_weights
from ...errors import ConfigError
from ...registry import HOOKS
from .hook import unwrap

logger = logging.getLogger(__name__)


def fitting_weights(model: nn.Module, checkpoint: Any, path: str) -> Mapping[str, Any]:
    """The weights of a model in a loaded checkpoint, under the names of the model.

    Args:
        model: The model.
        checkpoint: The file's content.
        path: The file or address, for error messages.

    Raises:
        ConfigError: If weights of the model are missing or have another shape.
    """
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
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
    return found.state


@HOOKS.register_module()
class CheckpointCheckHook(Hook):
    """Stops if weights of the model are missing in the checkpoint, or have another shape.

    MMEngine only warns, and then runs the model with random weights there. Prefixes of wrappers
    (``module.``, ``_orig_mod.``, ``model.``), other names of the entry with the weights (see
    `find_weights`), and weights of auxiliary heads, which only training runs, do not matter.

    Raises:
        ConfigError: When such a checkpoint is loaded.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Compare the checkpoint's weights with the model's; put them where MMEngine looks."""
        path = str(runner._load_from or "")
        checkpoint["state_dict"] = fitting_weights(unwrap(runner.model), checkpoint, path)
