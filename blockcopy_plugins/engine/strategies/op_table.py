"""What is known of each op that runs on blocks, told by a decorator beside its strategy.

A strategy is ``strategy(frame, func, args, kwargs)``. It returns the op's result, or a
:class:`~..decline.Decline` with the reason why these arguments cannot run on blocks; then the op
runs on the whole map. To run one more op on blocks is one such function and one test::

    @on_blocks(aten.channel_shuffle.default)
    def shuffle(frame, func, args, kwargs): ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ..composite import take_apart
from ..decline import Decline
from ..frame.frame import Frame
from ..tensor.block_tensor import BlockTensor
from ..tensor.moved_map import MovedMap
from ..torch_internals import OpOverload, tree_leaves, tree_map
from .densify import run_dense

Strategy = Callable[[Frame, OpOverload, Sequence, Mapping[str, Any]], Any]

_ATTRIBUTE = "_on_blocks"


@dataclass(frozen=True)
class OpOnBlocks:
    """What is known of an op.

    Attributes:
        strategy: Runs it.
        takes_padded: It honours a padding, or takes positions of a pooling, as they are; any other
            op gets them as dense tensors.
        takes_moved: It moves rows and columns of its first argument, or cuts it into windows, and
            may get one that is moved already; any other op gets that as a dense map.
        cuts: ``cuts(args)``: whether it has a dense map that was made of blocks cut into blocks
            again.
        any_layout: On whole maps it reads a large one in whatever layout, and gives a small one.
    """

    strategy: Strategy
    takes_padded: bool = False
    cuts: Callable[[Sequence], bool] | None = None
    any_layout: bool = False
    takes_moved: bool = False


def always(args: Sequence) -> bool:
    """For ops that have any dense map cut into blocks."""
    return True


def on_blocks(
    *ops: OpOverload,
    takes_padded: bool = False,
    cuts: Callable[[Sequence], bool] | None = None,
    any_layout: bool = False,
    takes_moved: bool = False,
    modules: Iterable[type[nn.Module]] = (),
) -> Callable[[Strategy], Strategy]:
    """Say that a function is the strategy of some ops; of several such decorators the outer counts.

    Args:
        *ops: The ops.
        takes_padded: See :class:`OpOnBlocks`.
        cuts: See :class:`OpOnBlocks`.
        any_layout: See :class:`OpOnBlocks`.
        takes_moved: See :class:`OpOnBlocks`.
        modules: Classes of modules that are nothing but such an op and keep no state: nobody asks
            when they run.
    """

    def note(strategy: Strategy) -> Strategy:
        entry = OpOnBlocks(strategy, takes_padded, cuts, any_layout, takes_moved)
        known, classes = getattr(strategy, _ATTRIBUTE, ((), ()))
        known = (*known, *((op, entry) for op in ops))
        setattr(strategy, _ATTRIBUTE, (known, (*classes, *modules)))
        return strategy

    return note


class OpTable:
    """All ops that run on blocks; it never changes.

    Args:
        strategies: Modules (files) with functions that :func:`on_blocks` decorates.
        elementwise: The strategy of ops that torch's own tag calls pointwise.

    Attributes:
        ops: By op.
        stateless_modules: Classes of modules that keep no state and are never densified.
    """

    def __init__(self, strategies: Iterable[Any], elementwise: Strategy) -> None:
        found: dict[OpOverload, OpOnBlocks] = {}
        modules: set[type[nn.Module]] = set()
        for file in strategies:
            for function in vars(file).values():
                if getattr(function, "__module__", None) == file.__name__:
                    known, classes = getattr(function, _ATTRIBUTE, ((), ()))
                    found.update(known)
                    modules.update(classes)
        self.ops: Mapping[OpOverload, OpOnBlocks] = MappingProxyType(found)
        self.stateless_modules = frozenset(modules)
        self._elementwise = elementwise

    def cuts(self, func: OpOverload, args: Sequence) -> bool:
        """Whether an op has its first argument, a dense map, cut into blocks."""
        known = self.ops.get(func)
        return known is not None and known.cuts is not None and known.cuts(args)

    def run(self, frame: Frame, func: OpOverload, args, kwargs, on_use: bool = False):
        """Execute an aten op that met a BlockTensor of ``frame``.

        Args:
            frame: The frame being run.
            func: The op.
            args: Its arguments.
            kwargs: Its keyword arguments.
            on_use: There are :class:`~..tensor.dense_on_use.DenseOnUse` tensors among them.

        Returns:
            The op's result: BlockTensors where it ran on blocks.
        """
        known = self.ops.get(func)
        as_claimed = known is None or not known.any_layout
        if on_use and any(type(x) is MovedMap for x in tree_leaves((args, kwargs))):
            out = None
            if known is not None and known.takes_moved and type(args[0]) is MovedMap:
                out = known.strategy(frame, func, args, kwargs)
            undone = out is None or isinstance(out, Decline)
            return frame.dispatch_dense_form(func, args, kwargs) if undone else out
        if on_use and not (known is not None and known.takes_padded):
            reason = "it reads a padding or positions of a pooling"
            return run_dense(frame, func, args, kwargs, reason, as_claimed)
        if known is not None:
            strategy = known.strategy
        elif torch.Tag.pointwise in func.tags:
            strategy = self._elementwise
        else:
            # In inference mode composite ops arrive whole; elsewhere torch has taken them apart.
            out = take_apart(func, args, kwargs)
            if out is not NotImplemented:
                return out
            return _run_on_whole_maps(frame, func, args, kwargs, "no strategy for this op", True)
        out = strategy(frame, func, args, kwargs)
        if isinstance(out, Decline):
            if out.tile is not None:
                frame.counts.tiles.add(out.tile)
            return _run_on_whole_maps(frame, func, args, kwargs, out.reason, as_claimed)
        return out


def _run_on_whole_maps(frame: Frame, func, args, kwargs, reason: str, as_claimed: bool):
    """As :func:`run_dense`; of maps that were cut into blocks for nothing as they were before."""

    def before(value):
        if isinstance(value, BlockTensor) and value.source is not None:
            return value.source.contiguous()
        return value

    args, kwargs = tree_map(before, (list(args), dict(kwargs)))
    return run_dense(frame, func, args, kwargs, reason, as_claimed)
