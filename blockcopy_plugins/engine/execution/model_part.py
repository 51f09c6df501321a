"""A module within a converted model whose calls programs may stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from inspect import Signature, signature
from typing import Any

from torch import nn

from ..frame.active_frame import ActiveFrame
from .converted_model import ConvertedModel
from .model_watch import AttributeWatch, ModelWatch


@dataclass(eq=False)
class PartForward:
    """Stands in for the forward of a part of a model. A class, so that a deep copy has its own.

    Attributes:
        active: The frame that the model is running.
        part: The part.
    """

    active: ActiveFrame
    part: ModelPart

    def __call__(self, *args, **kwargs) -> Any:
        """See the module's forward."""
        run_part = getattr(self.active.frame, "run_part", None)
        if run_part is None:
            return self.part.run(*args, **kwargs)
        return run_part(self.part, args, kwargs)

    @property
    def __signature__(self) -> Signature:
        """That of the module's forward."""
        return signature(self.part.run)


class ModelPart:
    """A module whose calls programs may stand for, with all modules in it.

    Args:
        converted: The model.
        path: Of the module.
        module: The module.

    Attributes:
        path: As given.
        converted: The part, as a model of its own: its path is ``''`` there.
        watch: Looks at it before each call.
        changes: How often in turn its attributes were others at a call than at the one before.
        recordings: How often in turn it was recorded, and no program ran.
        is_called: It has been called in some frame.
        frames_uncalled: In how many it was not, before that.
        is_over: No program will stand for it any more.
        descends: Its children are to be parts then.
    """

    def __init__(self, converted: ConvertedModel, path: str, module: nn.Module) -> None:
        self.path = path
        self.converted = replace(
            converted, model=module, modules=tuple(nn.Module.named_modules(module))
        )
        self.watch = ModelWatch()
        self.changes = 0
        self.recordings = 0
        self.is_called = False
        self.frames_uncalled = 0
        self.is_over = self.descends = False
        self._attributes = AttributeWatch()
        module.__dict__["forward"] = PartForward(converted.active, self)
        # There is nothing to compare with at the first look.
        seen = self.converted.take_look()
        self.watch.has_moved(self.converted, seen)
        self._attributes.have_changed(self.converted, seen)

    def run(self, *args, **kwargs) -> Any:
        """The module's own forward."""
        module = self.converted.model
        return type(module).forward(module, *args, **kwargs)

    def has_changed(self, seen: object) -> bool:
        """Whether it is another than at the call before.

        Args:
            seen: What a look at it has just given.
        """
        changed = self._attributes.have_changed(self.converted, seen)
        self.changes += changed
        return changed

    def take_away(self) -> None:
        """Give the module its own forward back."""
        module = self.converted.model
        found = module.__dict__.get("forward")
        if isinstance(found, PartForward) and found.part is self:
            del module.__dict__["forward"]


def parts_in(converted: ConvertedModel, path: str, module: nn.Module) -> Iterator[ModelPart]:
    """The largest parts within a module; their forwards are replaced.

    Args:
        converted: The model.
        path: Of the module.
        module: The module.
    """
    for name, child in nn.Module.named_children(module):
        its = f"{path}.{name}" if path else name
        if not child._modules:
            continue
        if "forward" in child.__dict__ or isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from parts_in(converted, its, child)
        else:
            yield ModelPart(converted, its, child)
