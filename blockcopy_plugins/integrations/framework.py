"""What a framework's integration says of the objects that are its own, and how it is found.

A folder here that is called as the framework's package and has a file ``framework.py`` with a
``FRAMEWORK`` in it is one; nothing else needs to name it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module, resources
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

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

    def check_backbone(self, model: nn.Module) -> None:
        """Look at a model of which the backbone alone runs on blocks.

        Args:
            model: The whole model.

        Raises:
            ConfigError: If it gives its backbone something else than whole frames.
        """

    def modules(self, owner: object) -> Sequence[nn.Module] | None:
        """What runs of an object that users call: a predictor, a pipeline, a model around another.

        Args:
            owner: The object.

        Returns:
            The modules, of which the first is at work now and others may have been, or will be
            copied to be; ``None`` if the object is not known.
        """
        return None

    def build(self, name: str) -> nn.Module:
        """A model with random weights, in eval mode.

        Args:
            name: As the framework's users call it.

        Raises:
            ConfigError: If the framework has no such model, or none can be built by name.
        """
        raise ConfigError(
            f"models of {type(self).__name__} are not built by name; give the path of a config."
        )

    def call(self, model: nn.Module, frame: Tensor) -> Any:
        """Call a model of the framework.

        Args:
            model: As :meth:`build` makes it.
            frame: ``(N, 3, H, W)``, values about from 0 to 1.
        """
        return model(frame)

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


def known_frameworks() -> tuple[str, ...]:
    """Packages of the frameworks that have an integration."""
    folders = resources.files(__package__).iterdir()
    return tuple(sorted(x.name for x in folders if (x / "framework.py").is_file()))


def frameworks_of(*parts: object) -> Iterator[Framework]:
    """The frameworks that have to do with some objects, by the packages of their classes.

    Args:
        parts: Modules, or whatever users call.
    """
    kinds = {kind for part in parts for kind in type(part).__mro__}
    packages = {kind.__module__.partition(".")[0] for kind in kinds}
    here = resources.files(__package__)
    for package in sorted(packages):
        if package.isidentifier() and (here / package / "framework.py").is_file():
            yield import_module(f"{__package__}.{package}.framework").FRAMEWORK


def framework_called(name: str) -> Framework:
    """The framework of a name.

    Args:
        name: Of its package, or ``'smp'``.

    Raises:
        ConfigError: If it is not known or not installed.
    """
    package = {"smp": "segmentation_models_pytorch"}.get(name, name)
    if package not in known_frameworks():
        raise ConfigError(
            f"there is no framework {name!r}; known are {', '.join(known_frameworks())}."
        )
    if find_spec(package) is None:
        raise ConfigError(f"{package} is not installed: pip install blockcopy_plugins[{package}].")
    return import_module(f"{__package__}.{package}.framework").FRAMEWORK


def framework_for(model: nn.Module) -> tuple[Framework, ModelAdapter]:
    """The framework that a model is of, and its adapter; the plain ones if it is of none."""
    # A model that somebody has put together has no class of the framework's itself.
    for framework in frameworks_of(*nn.Module.modules(model)):
        found = framework.adapter(model)
        if found is not None:
            return framework, found
    return Framework(), ModelAdapter()


def adapter_for(model: nn.Module) -> ModelAdapter:
    """The adapter of the framework that a model is of; the plain one if it is of none."""
    return framework_for(model)[1]


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
