"""Loads weights into a model of Detectron2, and refuses those that do not fit it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer

from ...addresses import masked
from ...checkpoints.model_weights import find_weights
from ...errors import ConfigError

# Set by the config or derived from it, and not in every checkpoint.
_FROM_THE_CONFIG = ("pixel_mean", "pixel_std", "num_batches_tracked")
# They log addresses as they are, with passwords and tokens.
_LOGGERS = (
    "iopath.common.download",
    "iopath.common.file_io",
    "fvcore.common.checkpoint",
    "detectron2.checkpoint.detection_checkpoint",
)


class CheckedCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which raises an error for missing weights instead of logging.

    The model would run with random weights there. Prefixes that wrappers of models add, and other
    names of the entry with the weights, do not matter, see
    :func:`~blockcopy_plugins.checkpoints.model_weights.find_weights`.
    """

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See ``DetectionCheckpointer.load``.

        Raises:
            ConfigError: If weights of the model are missing in the file, or have another shape.
        """
        self._named = path
        with _masked_logs():
            return super().load(path, *args, **kwargs)

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        own = {name: tuple(value.shape) for name, value in self.model.state_dict().items()}
        if not checkpoint.get("matching_heuristics"):
            needed = {n: shape for n, shape in own.items() if not n.endswith(_FROM_THE_CONFIG)}
            found = find_weights({"model": checkpoint["model"]}, needed, self._named)
            checkpoint["model"] = dict(found.state)
        incompatible = super()._load_model(checkpoint)
        shapes = {name: "none" for name in incompatible.missing_keys}
        shapes |= {name: str(shape) for name, shape, _ in incompatible.incorrect_shapes}
        unfit = [
            f"{name} {own[name]} (found {shape})"
            for name, shape in shapes.items()
            if not name.endswith(_FROM_THE_CONFIG)
        ]
        if unfit:
            raise ConfigError(
                f"the checkpoint {masked(self._named)!r} does not fit the model: {len(unfit)} of "
                f"{len(own)} weights are missing or have another shape, the first is {unfit[0]}. "
                "Give the checkpoint that belongs to the config, that of the whole model and not "
                "of a backbone."
            )
        return incompatible


class _Masked(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = masked(record.getMessage()), None
        return True


@contextmanager
def _masked_logs() -> Iterator[None]:
    """A context in which secrets in addresses do not get into logs."""
    hides, loggers = _Masked(), [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(hides)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(hides)
