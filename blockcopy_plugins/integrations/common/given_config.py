"""How a model is to run, said in a call or in the config of the model; files that are named."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from ...config import BlockCopyConfig
from ...errors import ConfigError
from ...options import read_options


def conversion_config(
    given: BlockCopyConfig | Mapping[str, Any] | None,
    otherwise: Callable[[], BlockCopyConfig],
    place: str,
    refused: Mapping[str, str] | None = None,
) -> BlockCopyConfig:
    """The options of a conversion.

    Args:
        given: By the caller.
        otherwise: Reads them in the model's config, where nothing is given.
        place: What the user calls the place where they are given.
        refused: Options that mean nothing there, and why.

    Raises:
        ConfigError: If an option is unknown, refused or out of range.
    """
    if given is None:
        return otherwise()
    if isinstance(given, BlockCopyConfig):
        return given
    return read_options(given, place, refused).config


def check_config_file(path: str) -> None:
    """Refuse the path of a config that is not there.

    Args:
        path: As the user gave it.

    Raises:
        ConfigError: If there is no such file.
    """
    if not os.path.isfile(path):
        raise ConfigError(
            f"there is no config file {path!r} (the working directory is {os.getcwd()!r})."
        )


def refuse_weights_of_built_model(weights: str | os.PathLike[str] | None) -> None:
    """Refuse weights that are given beside a model, which has its own.

    Args:
        weights: As the user gave them.

    Raises:
        ConfigError: If there are any.
    """
    if weights is not None:
        raise ConfigError(
            f"weights={os.fspath(weights)!r} were given beside a built model, which has its own. "
            "Give either the model or the weights."
        )
