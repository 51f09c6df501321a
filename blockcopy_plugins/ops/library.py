"""Registration of the ``blockcopy::`` operators with ``torch.library``.

The compiled extension ``blockcopy_plugins._C`` brings schemas and kernels (always for CPUs, and for
CUDA if it was built for it). Without the extension, the schemas are defined here. Either way, each
operator's pure-PyTorch twin is registered as its ``CompositeExplicitAutograd`` kernel, so that a
device for which no native kernel exists is still served, only more slowly.

Set ``BLOCKCOPY_DISABLE_EXTENSION=1`` before the first import to use the twins everywhere.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final, ParamSpec, Protocol, TypeVar

import torch

NAMESPACE: Final = "blockcopy"
EXTENSION_MODULE: Final = "blockcopy_plugins._C"
DISABLE_VARIABLE: Final = "BLOCKCOPY_DISABLE_EXTENSION"

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


class Operator(Protocol[P, R]):
    """A function that :func:`operator` has turned into an operator.

    Attributes:
        reference: The function as it was written: the operator's pure-PyTorch twin.
        overload: ``torch.ops.blockcopy.<name>.default``, which a call runs.
    """

    reference: Callable[P, R]
    overload: torch._ops.OpOverload

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the operator's kernel for the device of the arguments."""


def _build_note() -> dict[str, Any]:
    """The note that setup.py wrote about the build: why it lacks the extension, or CUDA."""
    try:
        return json.loads((Path(__file__).parents[1] / "_build.json").read_text())
    except (OSError, ValueError):
        return {}


def _load_extension() -> tuple[bool, str]:
    """Import the extension; say whether it is there and, in words, why not."""
    if os.environ.get(DISABLE_VARIABLE, "").strip().lower() not in ("", "0", "false"):
        return False, f"disabled by the environment variable {DISABLE_VARIABLE}"
    try:
        importlib.import_module(EXTENSION_MODULE)
    except ModuleNotFoundError as error:
        if error.name != EXTENSION_MODULE:
            raise
        failure = _build_note().get("extension")
        remedy = "fix that" if failure else "install a C++ compiler"
        return False, (
            f"not built ({failure or error}); {remedy} and run "
            "`pip install -e . --no-build-isolation` to build it"
        )
    except ImportError as error:
        # The usual cause is an extension built against another PyTorch than the one imported.
        return False, (
            f"built, but it does not load with PyTorch {torch.__version__} ({error}); rebuild it "
            "with `pip install -e . --no-build-isolation`"
        )
    return True, "loaded"


# The one piece of process-wide state that torch.library requires: registrations live as long as
# this object does. FRAGMENT, because with the extension the namespace is defined in C++.
_LIBRARY: Final = torch.library.Library(NAMESPACE, "FRAGMENT")
_HAS_EXTENSION, _LOAD_MESSAGE = _load_extension()


def has_extension() -> bool:
    """Whether the compiled kernels are used (False: the pure-PyTorch twins)."""
    return _HAS_EXTENSION


def extension_module() -> ModuleType | None:
    """The compiled extension, ``None`` where it is not used."""
    return sys.modules[EXTENSION_MODULE] if _HAS_EXTENSION else None


def has_kernel(name: str, device: str) -> bool:
    """Whether an operator has a native kernel for a kind of device.

    Args:
        name (str): Such as ``'gather'``.
        device (str): ``'cpu'`` or ``'cuda'``.
    """
    key = f"{NAMESPACE}::{name}"
    return torch._C._dispatch_has_kernel_for_dispatch_key(key, device.upper())


def extension_status() -> str:
    """Which kernels are used, or why the compiled ones are not.

    Returns:
        str: ``'loaded, with CPU kernels'`` or ``'loaded, with CPU and CUDA kernels'`` if the
        extension is used, otherwise the reason why it is not, with the remedy. If the CUDA kernels
        were to be built and could not be, the reason follows.
    """
    if not _HAS_EXTENSION:
        return _LOAD_MESSAGE
    note = _build_note()
    if has_kernel("gather", "cuda"):
        built_for = note.get("architectures")
        return f"{_LOAD_MESSAGE}, with CPU and CUDA kernels" + (
            f" (compute capabilities {built_for})" if built_for else ""
        )
    problem = note.get("cuda")
    return f"{_LOAD_MESSAGE}, with CPU kernels" + (
        f"; the CUDA kernels are not built: {problem}" if problem else ""
    )


def register_operator(schema: str, reference: Callable, fake: Callable) -> torch._ops.OpOverload:
    """Register one operator of the ``blockcopy`` namespace.

    Args:
        schema (str): Schema as in ``gather(Tensor state, ...) -> Tensor``. If the extension has
            already defined the operator, it must be the same.
        reference (Callable): Pure-PyTorch twin, the kernel of every device without a native one.
        fake (Callable): Shape function for meta and fake tensors.

    Returns:
        OpOverload: The callable ``torch.ops.blockcopy.<name>.default``.

    Raises:
        ImportError: If the extension has another schema: it was built from other sources.
    """
    name = schema.partition("(")[0]
    qualified_name = f"{NAMESPACE}::{name}"
    if not hasattr(getattr(torch.ops, NAMESPACE), name):
        _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    else:
        _check_schema(schema, getattr(getattr(torch.ops, NAMESPACE), name).default._schema)
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(qualified_name, fake, lib=_LIBRARY)
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def operator(schema: str, fake: Callable) -> Callable[[Callable[P, R]], Operator[P, R]]:
    """Turn a pure-PyTorch twin into an operator; a call then runs the kernel for the device.

    Args:
        schema (str): As for :func:`register_operator`, with the name and arguments of the function.
        fake (Callable): Shape function for meta and fake tensors; it takes those of the function's
            arguments that it names.

    Returns:
        Callable: The decorator, see :class:`Operator`.
    """
    named = inspect.signature(fake).parameters

    def decorate(reference: Callable[P, R]) -> Operator[P, R]:
        signature = inspect.signature(reference)
        names = tuple(signature.parameters)
        defaults = {
            name: parameter.default
            for name, parameter in signature.parameters.items()
            if parameter.default is not parameter.empty
        }

        def shape(*args, **kwargs):
            given = signature.bind(*args, **kwargs).arguments
            return fake(*(given[name] if name in given else defaults[name] for name in named))

        overload = register_operator(schema, reference, shape)

        @functools.wraps(reference)
        def call(*args, **kwargs):
            if len(args) < len(names):  # The schema need not have the function's defaults.
                rest = {name: defaults[name] for name in names[len(args) :] if name in defaults}
                kwargs = rest | kwargs
            return overload(*args, **kwargs)

        call.reference, call.overload = reference, overload
        return call

    return decorate


def _check_schema(schema: str, compiled: torch.FunctionSchema) -> None:
    wanted = torch._C.parse_schema(f"{NAMESPACE}::{schema}")
    if str(wanted) != str(compiled):
        raise ImportError(
            f"the compiled extension of blockcopy_plugins is of another version: it has {compiled} "
            f"instead of {wanted}. Rebuild it with `pip install -e . --no-build-isolation`, or set "
            f"{DISABLE_VARIABLE}=1 to do without."
        )
