"""Makes an object from the name of its class and arguments, as configs have them."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from blockcopy_plugins.errors import ConfigError

_SCOPE = "blockcopy_plugins."


@dataclass(frozen=True)
class NamedClass:
    """A kind of class that configs name.

    Args:
        noun: Its name in messages, ``'policy'``.
        base: The class that all are derived from.
        known: The built-in ones by name.
        registry: Name of the registry in ``blockcopy_plugins.registry`` for the users' own classes.
        example: A config for messages.
    """

    noun: str
    base: type
    known: Mapping[str, type]
    registry: str
    example: str

    def from_mapping(self, config: Mapping[str, Any]) -> Any:
        """Make an object from ``dict(type=..., **arguments)``; the config is not changed.

        Raises:
            ConfigError: If there is no ``type``, or as for :meth:`make`.
        """
        arguments = dict(config)
        if "type" not in arguments:
            raise ConfigError(
                f"a {self.noun} config needs a 'type', found the keys "
                f"{sorted(map(str, arguments))}; write for example {self.example}"
            )
        return self.make(arguments.pop("type"), arguments)

    def make(self, kind: Any, arguments: Mapping[str, Any]) -> Any:
        """Make an object.

        Args:
            kind: Name of a class, or the class.
            arguments: For its constructor.

        Raises:
            ConfigError: If the name is unknown, names a class of another kind, or the arguments do
                not fit.
        """
        factory = self._find(kind) if isinstance(kind, str) else kind
        of_another = isinstance(factory, type) and not issubclass(factory, self.base)
        if not callable(factory) or of_another:
            raise ConfigError(
                f"a {self.noun}'s type must be a name or a subclass of {self.base.__name__}, found "
                f"{kind!r}"
            )
        name = getattr(factory, "__name__", str(factory))
        try:
            made = factory(**arguments)
        except TypeError as error:
            raise ConfigError(
                f"{self.noun} {name} does not take the arguments {sorted(map(str, arguments))}: "
                f"{error}"
            ) from error
        if not isinstance(made, self.base):
            raise ConfigError(
                f"{name} made a {type(made).__name__}, which is not a {self.base.__name__}"
            )
        return made

    def _find(self, name: str) -> Callable[..., Any]:
        plain = name.removeprefix(_SCOPE)
        if plain in self.known:
            return self.known[plain]
        names = list(self.known)
        registry = self._users_own()
        if registry is not None:
            found = registry.get(name) or (registry.get(plain) if plain != name else None)
            if found is not None:
                return found
            names += [extra for extra in registry.module_dict if extra not in self.known]
        close = difflib.get_close_matches(plain, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"there is no {self.noun} {name!r}.{hint} Names known: {', '.join(names)}. Register "
            f"your own with @blockcopy_plugins.registry.{self.registry}.register_module(), or give "
            "the class itself"
        )

    def _users_own(self) -> Any | None:
        """The registry of the users' own classes, or None if mmengine is not installed."""
        try:
            return getattr(importlib.import_module("blockcopy_plugins.registry"), self.registry)
        except ModuleNotFoundError as error:
            # Without mmengine there is no registry, and nothing can have been registered.
            if error.name and error.name.split(".")[0] in ("mmengine", "blockcopy_plugins"):
                return None
            raise
