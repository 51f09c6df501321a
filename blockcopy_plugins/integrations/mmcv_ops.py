"""Gives whole maps to mmcv's compiled ops.

A compiled op (deformable convolution, CARAFE) reads memory through a pointer and bypasses torch's
dispatcher, so the engine does not see it. It does pass through ``forward`` of an
``autograd.Function``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from types import MappingProxyType

from torch.autograd import Function
from torch.utils._pytree import tree_leaves

_GIVE_MAPS = frozenset(
    {
        "DeformConv2dFunction",
        "ModulatedDeformConv2dFunction",
        "CARAFEFunction",
        "CARAFENaiveFunction",
    }
)
# By the place of the argument whose tokens those of the result are.
_GIVE_TOKENS = MappingProxyType({"MultiScaleDeformableAttnFunction": 3})


def teach_compiled_ops() -> None:
    """Let the functions of ``mmcv.ops`` take BlockTensors; a second call does nothing.

    It changes classes of mmcv for the whole process; with ordinary tensors they behave as before.
    """
    for function in _functions():
        if not hasattr(function.forward, "__wrapped__"):
            function.forward = staticmethod(_with_whole_maps(function.forward, function.__name__))


def _functions() -> Iterator[type[Function]]:
    for name, module in list(sys.modules.items()):
        if name.startswith("mmcv.ops."):
            for value in vars(module).values():
                if isinstance(value, type) and issubclass(value, Function):
                    if value is not Function:
                        yield value


def _with_whole_maps(forward: Callable, name: str) -> Callable:
    @functools.wraps(forward)
    def with_whole_maps(ctx, *args):
        blocks = next((v for v in tree_leaves(args) if hasattr(v, "call_whole")), None)
        if blocks is None:
            return forward(ctx, *args)
        return blocks.call_whole(
            functools.partial(forward, ctx),
            args,
            name.removesuffix("Function"),
            "a compiled op, which knows no blocks",
            name in _GIVE_MAPS,
            args[_GIVE_TOKENS[name]] if name in _GIVE_TOKENS else None,
        )

    return with_whole_maps
