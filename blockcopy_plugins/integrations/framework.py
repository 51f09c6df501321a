"""The interface of a framework's integration, and how integrations are found.

Every folder here that has the name of the framework's package and contains a ``framework.py`` with
a ``FRAMEWORK`` is an integration; it is registered nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module, resources
from importlib.util import find_spec
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..engine.adapter import ModelAdapter
from ..errors import ConfigError
from .config_kind import config_kind

# What pip installs a framework by, if that is not the extra with the name of the package.
_REQUIREMENTS = {
    **dict.fromkeys(("mmdet", "mmengine", "mmseg"), "'blockcopy_plugins[mm]'"),
    "detectron2": "--no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git'",
}


class ConfigModel(NamedTuple):
    """The model that a config describes.

    Args:
        model: With random weights, in eval mode.
        name: Name of its class, to show to people.
        size: ``(H, W)`` that the config's pipeline resizes images to, px.
    """

    model: nn.Module
    name: str
    size: tuple[int, int]


class Framework:
    """The objects of one framework; the base class knows none."""

    def adapter(self, model: nn.Module) -> ModelAdapter | None:
        """How a model of this framework is called.

        Args:
            model: A module that contains some class of the framework.

        Returns:
            A new adapter, or ``None`` if the model is called with a tensor like any other.
        """
        return None

    def check_backbone(self, model: nn.Module) -> None:
        """Check a model whose backbone alone runs on blocks.

        Raises:
            ConfigError: If it does not call its backbone with whole frames.
        """

    def modules(self, owner: object) -> Sequence[nn.Module] | None:
        """The modules in an object that users call: a predictor, a pipeline, a wrapped model.

        Args:
            owner: The object.

        Returns:
            The modules, the one that runs now first; others may have run before, or be copied to
            run later. ``None`` if the object is not known.
        """
        return None

    def build(self, name: str) -> nn.Module:
        """A model with random weights, in eval mode.

        Raises:
            ConfigError: If the framework has no such model, or models cannot be built by name.
        """
        raise ConfigError(
            f"models of {type(self).__name__} are not built by name; give the path of a config."
        )

    def model_of_config(self, path: str) -> ConfigModel:
        """The model of a config file, with random weights, in eval mode.

        Raises:
            ConfigError: If the framework has no config files, this one cannot be read, or its model
                cannot be built.
        """
        raise ConfigError(f"{type(self).__name__} has no config files that are read here: {path}.")

    def call(self, model: nn.Module, frame: Tensor) -> Any:
        """Call a model of the framework.

        Args:
            model: As :meth:`build` or :meth:`model_of_config` makes it.
            frame: ``(N, 3, H, W)``, with values from about 0 to 1.
        """
        return model(frame)

    def attach(self, owner: object, modules: Sequence[nn.Module]) -> None:
        """Attach what else the calls of an object need, after its modules were converted.

        Args:
            owner: An object of :meth:`modules`.
            modules: The result of :meth:`modules`.
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
    """The frameworks that some objects belong to, by the packages of their classes.

    Args:
        parts: Modules, or other objects that users call.
    """
    kinds = {kind for part in parts for kind in type(part).__mro__}
    packages = {kind.__module__.partition(".")[0] for kind in kinds}
    here = resources.files(__package__)
    for package in sorted(packages):
        if package.isidentifier() and (here / package / "framework.py").is_file():
            yield import_module(f"{__package__}.{package}.framework").FRAMEWORK


def framework_called(name: str) -> Framework:
    """The framework with a name.

    Args:
        name: Name of its package, or ``'smp'``.

    Raises:
        ConfigError: If it is not known or not installed.
    """
    package = {"smp": "segmentation_models_pytorch"}.get(name, name)
    if package not in known_frameworks():
        raise ConfigError(
            f"there is no framework {name!r}; known are {', '.join(known_frameworks())}."
        )
    if find_spec(package) is None:
        wanted = _REQUIREMENTS.get(package, f"'blockcopy_plugins[{package}]'")
        raise ConfigError(f"{package} is not installed: pip install {wanted}")
    return import_module(f"{__package__}.{package}.framework").FRAMEWORK


def framework_of_config(path: str) -> Framework:
    """The framework that reads a config file.

    Raises:
        ConfigError: If the framework is not installed.
    """
    return framework_called(config_kind(path))


def framework_for(model: nn.Module) -> tuple[Framework, ModelAdapter]:
    """The framework of a model, and its adapter; the plain ones if it belongs to none."""
    # All modules: a model put together from a framework's parts is not of the framework's classes.
    for framework in frameworks_of(*nn.Module.modules(model)):
        found = framework.adapter(model)
        if found is not None:
            return framework, found
    return Framework(), ModelAdapter()


def adapter_for(model: nn.Module) -> ModelAdapter:
    """The adapter of a model's framework; the plain one if it belongs to none."""
    return framework_for(model)[1]


def running(owner: object) -> tuple[Framework, tuple[nn.Module, ...]]:
    """The modules that run in an object, and the framework that knows it.

    Args:
        owner: A module, or an object of a framework that runs modules.

    Returns:
        The framework and the modules; for a plain module, the module itself.

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
