"""Checks of the options, configs and weights that a user gives in a call."""

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
        given: The caller's options.
        otherwise: Reads them from the model's config if the caller gives none.
        place: The user's name for the place where they are given.
        refused: Options that have no meaning there, and why.

    Raises:
        ConfigError: If an option is unknown, refused or out of range.
    """
    if given is None:
        return otherwise()
    if isinstance(given, BlockCopyConfig):
        return given
    return read_options(given, place, refused).config


def check_config_file(path: str) -> None:
    """Refuse the path of a config that does not exist.

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
    """Refuse weights that are given together with a model, which has its own.

    Args:
        weights: As the user gave them.

    Raises:
        ConfigError: If there are any.
    """
    if weights is not None:
        raise ConfigError(
            f"weights={os.fspath(weights)!r} were given with a built model, which has its own. "
            "Give either the model or the weights."
        )
