"""Composite ops: those that torch itself makes of others."""

from __future__ import annotations

import torch

_KEY = torch._C.DispatchKey.CompositeImplicitAutograd


def take_apart(func: torch._ops.OpOverload, args, kwargs):
    """Run a composite op as the ops that it is made of. They arrive whole in inference mode.

    Only by torch's own kernels: ``OpOverload.decompose`` prefers decompositions in Python, some of
    which compute something else (nearest resizes by a factor, which keep the size of one side).

    Args:
        func: An op.
        args: Its arguments.
        kwargs: Its keyword arguments.

    Returns:
        Its result, or ``NotImplemented`` if it is no composite op.
    """
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _KEY.name):
        return func._op_dk(_KEY, *args, **kwargs)
    return NotImplemented
