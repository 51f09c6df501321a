"""What is known about each op that runs on blocks, declared by a decorator on its strategy.

A strategy is ``strategy(frame, func, args, kwargs)``. It returns the op's result, or a
:class:`~..decline.Decline` with the reason why these arguments cannot run on blocks; then the op
runs on the whole map. One more op on blocks takes one such function and one test::

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
    """What is known about an op.

    Attributes:
        strategy: Runs it.
        takes_padded: It accepts padded maps and positions of a pooling as they are; any
            other op gets them as dense tensors.
        takes_moved: It moves rows and columns of its first argument, or cuts it into
            windows, and accepts one that is already moved; any other op gets that as a dense map.
        several_frames: Its arguments may be of several frames: of the picture's blocks, of
            windows, of tokens. Any other op gets those that are not of the outer one densely.
        cuts: ``cuts(args)``: whether a dense map that was computed from blocks is cut
            into blocks again for it.
        any_layout: On whole maps it reads a large one in any layout and returns a small one.
    """

    strategy: Strategy
    takes_padded: bool = False
    cuts: Callable[[Sequence], bool] | None = None
    any_layout: bool = False
    takes_moved: bool = False
    several_frames: bool = False


def always(args: Sequence) -> bool:
    """For ops before which any dense map is cut into blocks."""
    return True


def on_blocks(
    *ops: OpOverload,
    takes_padded: bool = False,
    cuts: Callable[[Sequence], bool] | None = None,
    any_layout: bool = False,
    takes_moved: bool = False,
    several_frames: bool = False,
    modules: Iterable[type[nn.Module]] = (),
) -> Callable[[Strategy], Strategy]:
    """Declare a function to be the strategy of some ops; the outer of several decorators counts.

    Args:
        *ops: The ops.
        takes_padded: See :class:`OpOnBlocks`.
        cuts: See :class:`OpOnBlocks`.
        any_layout: See :class:`OpOnBlocks`.
        takes_moved: See :class:`OpOnBlocks`.
        several_frames: See :class:`OpOnBlocks`.
        modules: Classes of modules that consist of such an op and keep no state, so that
            no hook is needed to know when they run.
    """

    def note(strategy: Strategy) -> Strategy:
        entry = OpOnBlocks(strategy, takes_padded, cuts, any_layout, takes_moved, several_frames)
        known, classes = getattr(strategy, _ATTRIBUTE, ((), ()))
        known = (*known, *((op, entry) for op in ops))
        setattr(strategy, _ATTRIBUTE, (known, (*classes, *modules)))
        return strategy

    return note


class OpTable:
    """All ops that run on blocks; it never changes.

    Args:
        strategies: Modules (files) with functions that :func:`on_blocks` decorates.
        elementwise: The strategy of ops that torch tags as pointwise.

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
        """Whether the first argument of an op, a dense map, is cut into blocks for it."""
        known = self.ops.get(func)
        return known is not None and known.cuts is not None and known.cuts(args)

    def takes_several_frames(self, func: OpOverload) -> bool:
        """See :class:`OpOnBlocks`."""
        known = self.ops.get(func)
        return known is not None and known.several_frames

    def run(self, frame: Frame, func: OpOverload, args, kwargs, on_use: bool = False):
        """Execute an aten op that met a BlockTensor of ``frame``; on blocks, it returns some too.

        With ``on_use``, :class:`~..tensor.dense_on_use.DenseOnUse` tensors are among its arguments.
        """
        known = self.ops.get(func)
        as_claimed = known is None or not known.any_layout
        if known is None and torch.Tag.pointwise not in func.tags:
            # In inference mode composite ops arrive whole; elsewhere torch has decomposed them.
            out = take_apart(func, args, kwargs)
            if out is not NotImplemented:
                return out
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
            return _run_on_whole_maps(frame, func, args, kwargs, "no strategy for this op", True)
        out = strategy(frame, func, args, kwargs)
        if isinstance(out, Decline):
            if out.tile is not None:
                frame.counts.tiles.add(out.tile)
            return _run_on_whole_maps(frame, func, args, kwargs, out.reason, as_claimed)
        return out


def _run_on_whole_maps(frame: Frame, func, args, kwargs, reason: str, as_claimed: bool):
    """As :func:`run_dense`; maps that were cut into blocks for this op are used uncut."""

    def before(value):
        if isinstance(value, BlockTensor) and value.source is not None:
            return value.source.contiguous()
        return value

    args, kwargs = tree_map(before, (list(args), dict(kwargs)))
    return run_dense(frame, func, args, kwargs, reason, as_claimed)
