"""The objects of Ultralytics that are converted, and the models built by name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from ultralytics import RTDETR, YOLO
from ultralytics.engine.model import Model
from ultralytics.nn.tasks import BaseModel

from ...engine.adapter import ModelAdapter
from ...engine.convert import handle
from ...errors import ConfigError
from ..framework import Framework
from .adapter import YoloAdapter
from .copies import Copies
from .source import BatchSource, running_in


class Ultralytics(Framework):
    """``YOLO`` and similar classes, and the models inside them."""

    def adapter(self, model: nn.Module) -> ModelAdapter | None:
        """A model by its base class."""
        return YoloAdapter(model) if isinstance(model, BaseModel) else None

    def modules(self, owner: object) -> Sequence[nn.Module] | None:
        """The model that the predictor runs, and the one of which it and the next are copies."""
        if isinstance(owner, BaseModel):
            copies = _copies(owner)
            return [owner] if copies is None else copies.modules()
        if not isinstance(owner, Model):
            return None
        if not isinstance(owner.model, BaseModel):
            raise ConfigError(
                f"the {type(owner).__name__} runs {type(owner.model).__name__} "
                f"{str(owner.model)[:80]!r}, expected a model in PyTorch: load the .pt or .yaml "
                "file, not an exported one."
            )
        copies = _copies(owner.model)
        found = [owner.model] if copies is None else copies.modules()
        inner = running_in(owner.predictor)
        if isinstance(inner, BaseModel) and all(inner is not model for model in found):
            found.append(inner)
        return found

    def build(self, name: str) -> nn.Module:
        """See :meth:`Framework.build`: ``'yolo11n.yaml'``, ``'yolov8s-seg.yaml'``."""
        if not name.endswith((".yaml", ".yml")):
            raise ConfigError(
                f"ultralytics:{name} is not a description of a model, expected a .yaml such as "
                "yolo11n.yaml; weights are not needed."
            )
        try:
            kind = RTDETR if "rtdetr" in name else YOLO
            return kind(name, verbose=False).model.eval()
        except (FileNotFoundError, NotImplementedError) as error:
            raise ConfigError(f"ultralytics has no {name}: {error}") from error

    def attach(self, owner: object, modules: Sequence[nn.Module]) -> None:
        """Treat the modules as one, and let predictors report whose frames they run."""
        copies = handle(modules[0]).adapter.copies
        for module in modules[1:]:
            handle(module).adapter.copies = copies
            copies.add(module)
        if isinstance(owner, Model):
            copies.source = BatchSource()
            for event, callback in copies.source.callbacks().items():
                owner.add_callback(event, callback)

    def detach(self, owner: object) -> None:
        """Remove the callbacks."""
        if isinstance(owner, Model):
            for callbacks in owner.callbacks.values():
                callbacks[:] = [callback for callback in callbacks if not _is_ours(callback)]


FRAMEWORK = Ultralytics()


def _copies(model: nn.Module) -> Copies | None:
    try:
        adapter = handle(model).adapter
    except ConfigError:
        return None
    return getattr(adapter, "copies", None)


def _is_ours(callback: object) -> bool:
    return isinstance(getattr(callback, "__self__", None), BatchSource)
