"""What a test pipeline makes of a frame, and what the model reads of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from blockcopy_plugins.errors import ConfigError


def check_packed(packed: Any) -> None:
    """Make sure that a pipeline, or a dataloader, gives one input for each data sample.

    Args:
        packed: Inputs and data samples of a frame, or lists of those of a batch.

    Raises:
        ConfigError: It is something else.
    """
    found = packed if isinstance(packed, Mapping) else {}
    pairs = [found.get("inputs"), found.get("data_samples")]
    if not isinstance(pairs[1], (list, tuple)):
        pairs = [[one] for one in pairs]
    inputs, samples = pairs
    if (
        not hasattr(inputs, "__len__")
        or len(inputs) != len(samples)
        or not all(hasattr(one, "shape") for one in inputs)
        or not all(hasattr(one, "metainfo") for one in samples)
    ):
        raise ConfigError(
            "the test pipeline does not give inputs and data_samples of one picture; it must begin "
            "with LoadImageFromFile and end with PackDetInputs or PackSegInputs (test-time "
            "augmentation is not for streams)"
        )


@contextmanager
def known_metainfo(samples: Sequence[Any]) -> Iterator[None]:
    """A context that names the entry of data samples that a model looked for in vain.

    Args:
        samples: The data samples with which the model is called in the context.

    Raises:
        ConfigError: The model asked for an entry that they lack.
    """
    try:
        yield
    except KeyError as error:
        name = error.args[0] if error.args else None
        known = set(samples[0].metainfo_keys())
        if name not in _METAINFO or name in known:
            raise
        raise ConfigError(
            f"the model needs {name} of each frame, but the test pipeline gives only "
            f"{sorted(known)}. Put {name} into meta_keys of its PackDetInputs or PackSegInputs, "
            "and a Resize before it, which sets scale_factor."
        ) from error


# What PackDetInputs and PackSegInputs know of a picture.
_METAINFO = (
    *("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    *("flip", "flip_direction", "pad_shape", "batch_input_shape"),
)
