"""All that the engine uses of torch beyond its public API, each in one place with a test.

If a new version of torch moves something, only this file and its tests need to change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules import module as _modules
from torch.overrides import _get_current_function_mode_stack, enable_reentrant_dispatch
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
)
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten
from torch.utils.flop_counter import flop_registry

from .module_state import any_has

__all__ = [
    "any_is_compiled",
    "any_mode",
    "OpOverload",
    "StorageWeakRef",
    "TorchDispatchMode",
    "TreeSpec",
    "kernels_of",
    "dispatch_modes",
    "forward_hooks",
    "function_modes",
    "has_global_forward_hooks",
    "is_exporting",
    "is_mutable",
    "is_tracing",
    "marked_as",
    "memory_of",
    "named_arguments",
    "no_modes",
    "no_torch_dispatch",
    "no_torch_function",
    "no_torch_function_of_subclass",
    "packet_of",
    "run_composite",
    "schema_of",
    "tree_builder",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_unflatten",
    "version_of",
    "versions_are_counted",
    "without_grad",
    "wrapper_of",
    "written_argument",
]

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd

no_torch_function_of_subclass = torch._C._disabled_torch_function_impl
"""``__torch_function__`` that does nothing: the ops go to ``__torch_dispatch__``."""


# -- tensor subclasses ----------------------------------------------------------------------------


# No functions around these: they are called for each tensor and op of a frame.
wrapper_of = Tensor._make_wrapper_subclass
"""``wrapper_of(cls, shape, strides=, dtype=, device=)``: a tensor of a subclass without memory."""

marked_as = Tensor._make_subclass
"""``marked_as(cls, tensor)``: a tensor of a subclass on the memory of an ordinary one."""


version_of = attrgetter("_version")
"""How often a tensor's memory was written to, as autograd counts it."""


def memory_of(tensor: Tensor) -> int:
    """A number that tensors share if they are views of one memory; 0 if there is none.

    Unlike ``data_ptr()`` it does not make copy-on-write tensors copy.
    """
    if tensor.layout is not torch.strided:
        return 0
    storage = tensor.untyped_storage()
    return storage._cdata if storage.nbytes() else 0


def tree_builder(spec: TreeSpec) -> Callable[[Sequence[Any]], Any]:
    """A function that does what ``tree_unflatten`` does for one structure, in less time.

    Args:
        spec: Of tuples, lists and dicts, or of anything else that torch knows.
    """
    build = _builder(spec)
    if build is None:
        return lambda leaves: tree_unflatten(leaves, spec)
    return lambda leaves: build(iter(leaves))


def _builder(spec: TreeSpec) -> Callable[[Iterator[Any]], Any] | None:
    if spec.is_leaf():
        return next
    # Newer versions of torch have a method.
    children = spec.children() if hasattr(spec, "children") else spec.children_specs
    parts = [_builder(child) for child in children]
    if None in parts or spec.type not in (tuple, list, dict):
        return None
    if spec.type is dict:
        keys = tuple(spec.context)
        return lambda leaves: {key: part(leaves) for key, part in zip(keys, parts, strict=True)}
    make = spec.type
    return lambda leaves: make([part(leaves) for part in parts])


# -- modes ----------------------------------------------------------------------------------------


def no_modes() -> AbstractContextManager:
    """Inside, no dispatch mode sees what runs."""
    return _disable_current_modes() if torch._C._len_torch_dispatch_stack() else nullcontext()


def without_grad() -> AbstractContextManager:
    """As ``torch.no_grad()``, for nothing where gradients are off already."""
    return torch.no_grad() if torch.is_grad_enabled() else nullcontext()


def any_mode() -> bool:
    """Whether there are dispatch or function modes in this thread, a default device included."""
    return bool(torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack())


def is_tracing() -> bool:
    """Whether torch.jit.trace is at work."""
    return torch._C._is_tracing()


def dispatch_modes() -> list:
    """The dispatch modes that see the ops of this thread, the outermost first."""
    return _get_current_dispatch_mode_stack()


def function_modes() -> list:
    """The function modes that see the ops of this thread, except that of a default device.

    That one does not change ops on existing tensors.
    """
    return [mode for mode in _get_current_function_mode_stack() if type(mode) is not DeviceContext]


def no_torch_function() -> AbstractContextManager:
    """Inside, no function mode or subclass sees what is called."""
    return torch._C.DisableTorchFunction()


def no_torch_dispatch() -> AbstractContextManager:
    """Inside, ops on tensors of a subclass run on their own memory."""
    return torch._C._DisableTorchDispatch()


def versions_are_counted(when: bool = True) -> AbstractContextManager:
    """Inside, views and writes made below ``__torch_dispatch__`` count in their base's version.

    Args:
        when: ``False`` does nothing.
    """
    return enable_reentrant_dispatch() if when else nullcontext()


# -- ops ------------------------------------------------------------------------------------------


schema_of = attrgetter("_schema")
"""Arguments and results of an op."""

is_mutable = attrgetter("_schema.is_mutable")
"""Whether an op writes to an argument."""

packet_of = attrgetter("_overloadpacket")
"""An op with all of its overloads."""

kernels_of = attrgetter("_op")
"""The object that a call of an op calls."""


def run_composite(func: OpOverload, args: Sequence, kwargs: Mapping[str, Any]) -> Any:
    """Run an op as the ops that torch's own kernel consists of.

    Not ``OpOverload.decompose``, which prefers decompositions in Python, some of which compute
    something else (nearest resizes by a factor, which keep the size of one side).

    Returns:
        Its result, or ``NotImplemented`` if it is not composite.
    """
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE.name):
        return func._op_dk(_COMPOSITE, *args, **kwargs)
    return NotImplemented


def named_arguments(func: OpOverload, args: Sequence, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of an op by name, defaults filled in."""
    given = {argument.name: argument.default_value for argument in func._schema.arguments}
    given.update(zip(given, args, strict=False))
    given.update(kwargs)
    return given


def written_argument(func: OpOverload, args: Sequence, kwargs: Mapping[str, Any]) -> Any | None:
    """The argument that an op writes to, or ``None``."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            return args[i] if i < len(args) else kwargs.get(argument.name)
    return None


# -- modules --------------------------------------------------------------------------------------


def forward_hooks(module: nn.Module) -> tuple[dict, dict]:
    """The hooks of a module before and after its forward."""
    return module._forward_pre_hooks, module._forward_hooks


def has_global_forward_hooks() -> bool:
    """Whether there are global forward hooks, which run on all modules."""
    return bool(_modules._global_forward_hooks or _modules._global_forward_pre_hooks)


def any_is_compiled(modules: Iterable[nn.Module]) -> bool:
    """Whether any of these modules is compiled by torch.compile or ``module.compile()``."""
    # What torch.compile gives is known by its attribute.
    return any_has(tuple(modules), "_compiled_call_impl", "dynamo_ctx")


# -- the surrounding program ----------------------------------------------------------------------


def is_exporting() -> bool:
    """Whether torch.export is tracing this code, which torch reports since version 2.7."""
    return getattr(torch.compiler, "is_exporting", bool)()


def flops_of(func: OpOverload) -> Callable[..., int] | None:
    """Torch's formula for the floating-point operations of an op, ``None`` if it has none.

    torch counts all kernels of fused attention except the one for CPUs.
    """
    packet = packet_of(func)
    if packet is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
        packet = torch.ops.aten._scaled_dot_product_flash_attention
    return flop_registry.get(packet)
