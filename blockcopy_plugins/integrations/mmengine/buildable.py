"""Names the part of a config that MMEngine cannot build."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import BlockCopyError, ConfigError

_WRONG = (LookupError, TypeError, ValueError, AttributeError, AssertionError, ImportError)


@contextmanager
def buildable(what: str) -> Iterator[None]:
    """Turn what registries and constructors raise for a wrong config into one error.

    Args:
        what: What is built (``'the model'``).

    Raises:
        ConfigError: It cannot be built.
    """
    try:
        yield
    except BlockCopyError:
        raise
    except (*_WRONG, RuntimeError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(
            f"{what} of the config cannot be built: {type(error).__name__}: {said}. Correct the "
            "config, or --cfg-options; names from other packages need custom_imports."
        ) from error
