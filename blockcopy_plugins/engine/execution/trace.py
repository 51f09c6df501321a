"""What a frame did: the torch ops that ran on ordinary tensors, and their arguments.

Underneath the BlockTensors a frame is a list of ops on packed blocks, kept maps, parameters and
tables. :class:`TraceRecorder` records it while the frame runs eagerly.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from ..composite import take_apart
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_map import DenseMap
from ..torch_internals import (
    OpOverload,
    TorchDispatchMode,
    is_mutable,
    memory_of,
    named_arguments,
    no_torch_function,
    schema_of,
    tree_leaves,
)
from .capture_guard import BY_INDEX, READS
from .constant_reads import ConstantReads
from .steps import Given, Kept, Register, Root, Step

aten = torch.ops.aten

# Reading ops whose results are no tensors.
_TO_PYTHON = frozenset(
    {
        aten._local_scalar_dense.default,
        aten.item.default,
        aten.is_nonzero.default,
        aten.equal.default,
    }
)
# Methods of tensors that return values to Python without an op; all but the first give memory away.
_READING_METHODS = frozenset(
    {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__, Tensor.__repr__}
)


@dataclass
class Trace:
    """The ops of one frame.

    Attributes:
        steps: The ops, in order.
        roots: The tensors that they were given, in the order of first use.
        results: What the frame returned: registers and roots, ``None`` for what is not a tensor.
        sizes: Number of executed blocks, by rows and columns of blocks of a map.
        constants: Small tensors whose values Python has read, and these values.
        leaves_more: Whether somebody keeps a tensor that it made and that is no result.
        obstacle: Why the frame cannot be repeated by its ops, ``None`` if it can.
    """

    steps: list[Step] = field(default_factory=list)
    roots: list[Given | Kept] = field(default_factory=list)
    results: list[Register | Root | None] = field(default_factory=list)
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    constants: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    leaves_more: bool = False
    obstacle: str | None = None


class TraceRecorder(TorchDispatchMode):
    """Records the ops of a frame and changes nothing.

    Args:
        path: Returns the path of the module being run.
    """

    def __init__(self, path: Callable[[], str]) -> None:
        super().__init__()
        self._path = path
        self._trace = Trace()
        self._known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._registers = 0
        self._roots: list[Tensor | Kept] = []
        self._written: set[int] = set()
        # Memory of the roots so far, which stays theirs. Other memory that a frame writes to may
        # be freed and reused for a later root.
        self._of_roots: set[int] = set()
        self._constants = ConstantReads()
        self._methods = _ReadingMethods(self._read, self._refuse)

    def __enter__(self):
        self._methods.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._methods.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(issubclass(t, (BlockTensor, DenseMap)) for t in types):
            return NotImplemented
        # Reads in here do not count as reads by the model.
        with no_torch_function():
            return self._dispatch(func, args, kwargs or {})

    def _dispatch(self, func, args, kwargs):
        if func in READS or (func in BY_INDEX and _by_mask(args[1])):
            self._read(args, f"{func} reads values")
            if func in _TO_PYTHON:
                return func(*args, **kwargs)
        elif _draws(func, args, kwargs):
            self._refuse(f"{func} draws random numbers")
        elif func is not torch.ops.prim.device.default:
            # Composite ops arrive whole in inference mode; inside they may read values.
            with self:
                out = take_apart(func, args, kwargs)
            if out is not NotImplemented:
                return out
        if func is aten.lift_fresh.default and args[0] not in self._known:
            out = func(*args, **kwargs)
            root = self._root(Kept(args[0].detach().clone(), fresh=True))
            self._add(aten.clone.default, (root,), {}, out)
            return out
        given = self._refer(args), {name: self._refer(value) for name, value in kwargs.items()}
        out = func(*args, **kwargs)
        written = self._written_by(func, args, kwargs) if is_mutable(func) else set()
        self._written |= written & self._of_roots
        self._add(func, *given, out, written)
        return out

    def finish(
        self,
        results: Sequence[Tensor | None],
        given: Sequence[tuple[Hashable, Tensor]],
        own: Sequence[Tensor],
        sizes: dict[tuple[int, int], int],
    ) -> Trace:
        """Return the trace, once the frame has run.

        Args:
            results: Tensors that the frame returned.
            given: The roots that differ from frame to frame, by name.
            own: Memory that the engine writes to: kept maps and scratch.
            sizes: See :class:`Trace`.

        Returns:
            The trace, which keeps no tensor of the frame itself.
        """
        trace = self._trace
        trace.results = [None if value is None else self._refer(value) for value in results]
        trace.sizes = dict(sizes)
        named = {id(tensor): Given(name) for name, tensor in given}
        trace.roots = [
            root if isinstance(root, Kept) else named.get(id(root)) or Kept(root)
            for root in self._roots
        ]
        # Tensors without memory have no address.
        engine = {memory_of(tensor) for tensor in own}
        if self._written - engine - {0}:
            self._refuse("it writes into a tensor that existed before the frame")
        constants = self._constants.of(trace.roots, engine | self._written)
        if isinstance(constants, str):
            trace.obstacle = trace.obstacle or constants
        else:
            trace.constants = constants
        trace.leaves_more = self._leaves_more(engine)
        # This must not keep the frame's inputs alive.
        self._roots, self._trace = [], Trace()
        return trace

    def _leaves_more(self, own: set[int]) -> bool:
        """Whether something that the ops made still lives, and is neither a result nor ``own``."""
        known = self._known.items()
        made = ((tensor, value) for tensor, value in known if isinstance(value, Register))
        results = set(self._trace.results)
        return any(value not in results and memory_of(tensor) not in own for tensor, value in made)

    def _add(self, func, args, kwargs, out, written: set[int] | frozenset = frozenset()) -> None:
        first = self._registers
        parts = out if type(out) in (list, tuple) else [out]
        made = [self._made(part) for part in parts]
        step = Step(func, args, kwargs, made if parts is out else made[0])
        self._trace.steps.append(step)
        pairs = zip(made, parts, strict=True)
        new = [(r, memory_of(v)) for r, v in pairs if isinstance(r, Register) and r.index >= first]
        self._constants.note(step, new, written)

    def _refer(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            found = self._known.get(value)
            if found is None:
                found = self._known[value] = self._root(value)
            return found
        if type(value) in (list, tuple):
            return type(value)(self._refer(item) for item in value)
        return value

    def _root(self, value: Tensor | Kept) -> Root:
        self._roots.append(value)
        if isinstance(value, Tensor):
            self._of_roots.add(memory_of(value))
        return Root(len(self._roots) - 1)

    def _made(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            if type(value) in (list, tuple) and any(isinstance(v, Tensor) for v in value):
                self._refuse("an op returns lists of tensors within its results")
            return None
        found = self._known.get(value)
        if found is None:
            found = self._known[value] = Register(self._registers)
            self._registers += 1
        return found

    @staticmethod
    def _written_by(func, args, kwargs) -> set[int]:
        """The memory that an op writes to."""
        places = set()
        for i, argument in enumerate(schema_of(func).arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = args[i] if i < len(args) else kwargs.get(argument.name)
                places |= {memory_of(t) for t in tree_leaves(value) if isinstance(t, Tensor)}
        return places

    def _read(self, values: Any, what: str) -> None:
        """Note that Python reads tensors."""
        what = f"{what} in module {self._path() or '(root)'!r}"
        for value in tree_leaves(values):
            if isinstance(value, Tensor) and not self._constants.read(self._refer(value), what):
                self._trace.obstacle = self._trace.obstacle or what

    def _refuse(self, what: str) -> None:
        if self._trace.obstacle is None:
            self._trace.obstacle = f"{what} in module {self._path() or '(root)'!r}"


class _ReadingMethods(TorchFunctionMode):
    """Notices methods that read values without an op."""

    def __init__(self, read: Callable[[Any, str], None], refuse: Callable[[str], None]) -> None:
        super().__init__()
        self._read = read
        self._refuse = refuse

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in _READING_METHODS:
            what = f"Tensor.{func.__name__} reads values"
            if func is Tensor.tolist and type(args[0]) in (Tensor, Parameter):
                self._read(args, what)
            else:
                self._refuse(what)
        return func(*args, **(kwargs or {}))


def nearly_the_same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal up to a few roundings; NaN equals NaN.

    The same op may sum in another order if its operands have moved in memory.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if torch.equal(a, b):
        return True
    if not a.is_floating_point():
        return False
    scale = a.nan_to_num(0.0, 0.0, 0.0).abs().max().item()
    close = 64 * torch.finfo(a.dtype).eps * scale
    return torch.allclose(a, b, rtol=0.0, atol=close, equal_nan=True)


def _draws(func: OpOverload, args, kwargs) -> bool:
    """Whether an op draws random numbers; some that can do not, such as attention in eval mode."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    given = named_arguments(func, args, kwargs)
    never = given.get("dropout_p") == 0 or given.get("train") is False
    return not never and given.get("training") is not False


def _by_mask(indices: Sequence[Tensor | None]) -> bool:
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)
