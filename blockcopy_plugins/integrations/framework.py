"""What a framework's integration says of the objects that are its own, and how it is found.

A folder here that is called as the framework's package and has a file ``framework.py`` with a
``FRAMEWORK`` in it is one; nothing else needs to name it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module, resources

from torch import nn

from ..engine.adapter import ModelAdapter
from ..errors import ConfigError


class Framework:
    """The objects of one framework.

    Integrations derive from it; what they do not override says that nothing is theirs.
    """

    def adapter(self, model: nn.Module) -> ModelAdapter | None:
        """How a model of this framework is called.

        Args:
            model: A module that has some class of the framework's in it.

        Returns:
            A new adapter, or ``None`` if the model is called with a tensor like any other.
        """
        return None

    def modules(self, owner: object) -> Sequence[nn.Module] | None:
        """What runs of an object that users call: a predictor, a pipeline, a model around another.

        Args:
            owner: The object.

        Returns:
            The modules, of which the first is at work now and others may have been, or will be
            copied to be; ``None`` if the object is not known.
        """
        return None

    def attach(self, owner: object, modules: Sequence[nn.Module]) -> None:
        """Put in place what the calls of an object need besides; its modules are converted.

        Args:
            owner: An object of :meth:`modules`.
            modules: What that returned.
        """

    def detach(self, owner: object) -> None:
        """Undo :meth:`attach`.

        Args:
            owner: An object of :meth:`modules`, whose modules are restored.
        """


def frameworks_of(owner: object) -> Iterator[Framework]:
    """The frameworks that have to do with an object, by the packages of its and its parts' classes.

    Args:
        owner: A module, or whatever users call.
    """
    parts = nn.Module.modules(owner) if isinstance(owner, nn.Module) else (owner,)
    kinds = {kind for part in parts for kind in type(part).__mro__}
    packages = {kind.__module__.partition(".")[0] for kind in kinds}
    here = resources.files(__package__)
    for package in sorted(packages):
        if package.isidentifier() and (here / package / "framework.py").is_file():
            yield import_module(f"{__package__}.{package}.framework").FRAMEWORK


def adapter_for(model: nn.Module) -> ModelAdapter:
    """The adapter of the framework that a model is of; the plain one if it is of none."""
    for framework in frameworks_of(model):
        found = framework.adapter(model)
        if found is not None:
            return found
    return ModelAdapter()


def running(owner: object) -> tuple[Framework, tuple[nn.Module, ...]]:
    """What runs of an object, and the framework that knows it.

    Args:
        owner: A module, or an object of a framework that runs modules.

    Returns:
        The framework and the modules; of a plain module itself.

    Raises:
        ConfigError: If it is neither.
    """
    for framework in frameworks_of(owner):
        found = framework.modules(owner)
        if found is not None:
            return framework, tuple(found)
    if not isinstance(owner, nn.Module):
        raise ConfigError(
            f"model is a {type(owner).__name__}, expected a torch.nn.Module, or an object of a "
            "framework that runs one: a YOLO of Ultralytics, a pipeline of transformers."
        )
    return Framework(), (owner,)
