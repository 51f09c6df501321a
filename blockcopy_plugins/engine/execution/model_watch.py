"""Notices what would make a replayed frame differ from a call of the model."""

from __future__ import annotations

import torch
from torch import nn

from ..module_state import addresses_of, are_alike, have_values, lie_at, values_of
from ..tensor.block_tensor import BlockTensor
from ..torch_internals import forward_hooks, has_global_forward_hooks
from .converted_model import ConvertedModel

_DATA = (type(None), bool, int, float, str, bytes, torch.dtype, torch.device)
_UNCALLED = "module {!r} has a forward hook, which a replay would not call"


class ModelWatch:
    """Checks a converted model before each call."""

    def __init__(self) -> None:
        self._seen: object = None
        self._modules: tuple[tuple[str, nn.Module], ...] | None = None
        self._children: tuple[dict, ...] = ()
        self._children_seen: list[object] = []
        self._obstacle: str | None = None
        self._values: tuple[dict, ...] = ()
        self._inner: str | None = None
        self._memory: list[int] | None = None
        self._is_rebuilt = False

    def obstacle(self, converted: ConvertedModel, seen: object) -> str | None:
        """Why the model cannot be replayed, ``None`` if it can.

        Args:
            converted: The model.
            seen: What a look at it has just given.
        """
        if has_global_forward_hooks():
            return "there are forward hooks on all modules, which a replay would not call"
        self._look_at(converted, seen)
        if self._inner is not None and converted.adapter.is_observed():
            return _UNCALLED.format(self._inner)
        return self._obstacle

    def has_moved(self, converted: ConvertedModel, seen: object) -> bool:
        """Whether a parameter, buffer or module was moved or replaced since the last call.

        Args:
            converted: See :meth:`obstacle`.
            seen: See :meth:`obstacle`.
        """
        self._look_at(converted, seen)
        rebuilt, self._is_rebuilt = self._is_rebuilt, False
        if self._memory is not None and not rebuilt and lie_at(self._values, self._memory):
            return False
        before, self._memory = self._memory, addresses_of(self._values)
        return before is not None

    def _look_at(self, converted: ConvertedModel, seen: object) -> None:
        if seen is self._seen:
            return
        self._seen = seen
        self._look_at_hooks(converted)
        same = self._modules is converted.modules
        if same and have_values(self._children, self._children_seen):
            return
        self._is_rebuilt = same
        self._modules = converted.modules
        modules = converted.look.modules
        self._children = tuple(module._modules for module in modules)
        self._children_seen = values_of(self._children)
        parts = ("_parameters", "_buffers")
        self._values = tuple(getattr(m, part) for part in parts for m in modules)

    def _look_at_hooks(self, converted: ConvertedModel) -> None:
        self._inner = self._obstacle = None
        for path, module in nn.Module.named_modules(converted.model):
            # Hooks of the model itself run around the whole call, also around a replay.
            own = (h for found in forward_hooks(module) for h in found.values() if path)
            for hook in own:
                # The package's own hooks stay.
                if getattr(hook, "active", None) is converted.active:
                    continue
                if converted.adapter.is_inner_hook(hook):
                    self._inner = path
                else:
                    self._obstacle = self._obstacle or _UNCALLED.format(path)


class AttributeWatch:
    """Checks whether attributes, parameters, buffers or modules were replaced since the last call.

    It compares identities and does not look inside lists or objects. Forwards note sizes and maps
    in each call: what was replaced by equal numbers and strings counts as the same, and so do
    BlockTensors, which nobody can use once their frame is over.
    """

    def __init__(self) -> None:
        self._seen: object = None
        self._modules: tuple[tuple[str, nn.Module], ...] | None = None
        self._values: list[object] = []

    def __reduce__(self):
        # A copy has other modules.
        return AttributeWatch, ()

    def have_changed(self, converted: ConvertedModel, seen: object) -> bool:
        """Whether any was replaced since the last call; True at the first.

        Args:
            converted: The model.
            seen: What a look at it has just given.
        """
        same_model = self._modules is converted.modules
        if same_model and seen is self._seen:
            return False
        self._seen, self._modules = seen, converted.modules
        modules = converted.look.modules
        # A tensor that lies elsewhere is still the same, and a program reads it where it lies.
        kept = (part for m in modules for part in (m._parameters, m._buffers, m._modules))
        before, self._values = self._values, values_of((*modules, *kept))
        return not (same_model and are_alike(before, self._values, _are_alike))


def _are_alike(one: object, other: object) -> bool:
    if isinstance(one, BlockTensor) and isinstance(other, BlockTensor):
        return one.frame.is_over and other.frame.is_over
    if type(one) is not type(other):
        return False
    if isinstance(one, _DATA):
        return one == other
    if type(one) is dict:
        return list(one) == list(other) and _are_alike([*one.values()], [*other.values()])
    if type(one) not in (list, tuple, torch.Size) or len(one) != len(other):
        return False
    return all(map(_are_alike, one, other))
