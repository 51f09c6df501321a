"""One look at all that the modules of a model hold, for everybody who asks in a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from ..module_state import have_values, values_of
from ..torch_internals import forward_hooks

T = TypeVar("T")
Question = Callable[[tuple[nn.Module, ...]], T]
"""Something that can be asked about modules: a function without memory."""


class ModuleLook:
    """Notices what was replaced in the modules of a model.

    A call asks several things about hundreds of modules, of which hardly anything changes from call
    to call. Only whether it has is looked up each time, by the identity of all attributes,
    parameters, buffers, children and forward hooks: a few microseconds for each hundred modules.

    Attributes:
        modules: All modules of the model, as of the last look.
    """

    def __init__(self) -> None:
        self.modules: tuple[nn.Module, ...] = ()
        self._root: nn.Module | None = None
        self._objects: tuple[object, ...] = ()
        self._values: list[object] = []
        self._seen = object()
        self._answers: dict[Question, Any] = {}

    def __reduce__(self):
        # A copy has other modules.
        return ModuleLook, ()

    def take(self, root: nn.Module) -> object:
        """Look at a model.

        Args:
            root: The model, the same in all calls.

        Returns:
            Another object than after the last look if something was replaced since.
        """
        if self._root is not root or not have_values(self._objects, self._values):
            self._root = root
            # Modules may have come.
            self.modules = tuple(nn.Module.modules(root))
            parts = (part for module in self.modules for part in _parts_of(module))
            self._objects = (*self.modules, *parts)
            self._values = values_of(self._objects)
            self._seen = object()
            self._answers = {}
        return self._seen

    def ask(self, root: nn.Module, question: Question[T]) -> T:
        """The answer to a question about the modules as they are now.

        Args:
            root: See :meth:`take`.
            question: Is only asked again if something was replaced.
        """
        self.take(root)
        if question not in self._answers:
            self._answers[question] = question(self.modules)
        return self._answers[question]


def _parts_of(module: nn.Module) -> tuple[dict, ...]:
    parts = module._parameters, module._buffers, module._modules
    return (*parts, *forward_hooks(module))
