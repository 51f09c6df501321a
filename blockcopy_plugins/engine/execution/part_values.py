"""What a part of a model is given, and what it gives: blocks, ordinary tensors and constants."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..frame.frame import Frame
from ..state.entry import StateEntry
from ..tensor.block_tensor import BlockTensor
from ..tensor.dense_map import DenseMap, plain
from ..torch_internals import memory_of, tree_flatten, tree_unflatten
from .capture_guard import CaptureError

_CONSTANTS = (type(None), bool, int, float, str, torch.dtype, torch.device)


@dataclass(frozen=True)
class BlocksForm:
    """A BlockTensor without its packed blocks and its frame.

    Attributes:
        axes: See :class:`BlockTensor`, as all that follows.
        joined: See there.
        size: ``(H, W)`` of the dense map.
        block: See there.
        strides: That it claims to have.
        full: See there.
    """

    axes: str
    joined: int
    size: tuple[int, int]
    block: tuple[int, int]
    strides: tuple[int, ...]
    full: StateEntry | None

    @staticmethod
    def of(x: BlockTensor) -> BlocksForm:
        """The form of a tensor."""
        return BlocksForm(x.axes, x.joined, x.size_of_map, x.block, x.stride(), x.full)

    def filled(self, packed: Tensor, frame: Frame) -> BlockTensor:
        """A tensor of this form.

        Args:
            packed: Its blocks.
            frame: Its frame.
        """
        form = (self.size, self.block, frame, None, self.axes, self.strides, self.joined)
        x = BlockTensor(packed, *form)
        if self.full is not None:
            x.full = self.full
        return x


@dataclass(frozen=True)
class Constant:
    """A leaf that is no tensor."""

    kind: type
    value: Hashable


@dataclass(frozen=True)
class Same:
    """A leaf that is an input, or an earlier result, by its number among both."""

    index: int


class PartInputs:
    """The tensors that one call of a part is given.

    Args:
        frame: The frame being run.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Attributes:
        leaves: The tensors among them, each once; maps are computed.
        tensors: What a program is given for them: packed blocks, or the tensors.
        form: All that is not in the values of the tensors.

    Raises:
        CaptureError: If there is anything that a program could not be given.
    """

    def __init__(self, frame: Frame, args: tuple, kwargs: Mapping[str, Any]) -> None:
        self.leaves: list[Tensor] = []
        self.tensors: list[Tensor] = []
        self._frame = frame
        self.form = self._read(args), self._read(kwargs)
        self._given = _structure((args, kwargs))

    @property
    def has_blocks(self) -> bool:
        """Whether there is a map on blocks among them."""
        return any(isinstance(leaf, BlockTensor) for leaf in self.leaves)

    def fulls(self) -> list[StateEntry | None]:
        """The state that holds each of the maps."""
        return [x.full if type(x) is BlockTensor else None for x in self.leaves]

    def have_changed(self, args: tuple, kwargs: Mapping[str, Any]) -> bool:
        """Whether the part has changed lists or dicts that it was given.

        Args:
            args: See the class.
            kwargs: See the class.
        """
        return _structure((args, kwargs)) != self._given

    def _read(self, value: Any) -> Hashable:
        kind = type(value)
        if isinstance(value, (tuple, list)):
            return (kind, *map(self._read, value))
        if isinstance(value, Mapping):
            return (kind, tuple(value), *map(self._read, value.values()))
        if isinstance(value, _CONSTANTS):
            return Constant(kind, value)
        if not isinstance(value, Tensor):
            raise CaptureError(f"it is given a {kind.__name__}, which a replay would not read")
        for i, leaf in enumerate(self.leaves):
            if leaf is value:
                return Same(i)
        form: Hashable = kind, tuple(value.shape), value.stride()
        packed = value
        if isinstance(value, BlockTensor):
            refuse_ties(value, self._frame)
            packed, found = value.packed, BlocksForm.of(value)
            border = None if found.full is None else found.full.border
            form = found, border, packed.shape[1:], packed.stride()[1:], value.version.shared
        elif kind is DenseMap:
            packed = value.plain
        elif kind is not Tensor:
            raise CaptureError(f"it is given a {kind.__name__}")
        self.leaves.append(value)
        self.tensors.append(packed)
        return form, value.dtype


class PartResults:
    """What a part gives, as tensors and their form.

    Args:
        frame: The frame being run.
        inputs: What the part was given.
    """

    def __init__(self, frame: Frame, inputs: PartInputs) -> None:
        self._frame = frame
        self._inputs = inputs.leaves

    def apart(self, value: Any) -> Any:
        """Results as tensors of their own: computed, and without the bases that views keep alive.

        Args:
            value: The results.
        """
        leaves, spec = tree_flatten(value)
        known = {id(leaf): leaf for leaf in self._inputs}
        for leaf in leaves:
            if isinstance(leaf, BlockTensor):
                leaf.compute()
                if type(leaf) is BlockTensor and leaf._is_view() and id(leaf) not in known:
                    known[id(leaf)] = leaf.apart()
        if len(known) == len(self._inputs):
            return value
        return tree_unflatten([known.get(id(leaf), leaf) for leaf in leaves], spec)

    def leaves_of(self, value: Any) -> tuple[list[Tensor | None], Hashable]:
        """Take results apart.

        Args:
            value: The results; maps among them are computed.

        Returns:
            Packed blocks or tensors, ``None`` for the other leaves; and the form of all leaves,
            with the structure.

        Raises:
            CaptureError: If there is anything that a program could not give.
        """
        leaves, spec = tree_flatten(value)
        known = list(self._inputs)
        memory = {memory_of(x.packed) for x in known if isinstance(x, BlockTensor)}
        tensors: list[Tensor | None] = []
        forms: list[Hashable] = []
        for leaf in leaves:
            tensor, form = None, next((Same(i) for i, x in enumerate(known) if x is leaf), None)
            if form is None and isinstance(leaf, BlockTensor):
                refuse_ties(leaf, self._frame)
                tensor, form = leaf.packed, BlocksForm.of(leaf)
                # Who writes to one in place would not change the other.
                if memory_of(tensor) in memory - {0}:
                    raise CaptureError("maps that it gives share memory with others")
                memory.add(memory_of(tensor))
            elif form is None and type(leaf) in (Tensor, DenseMap):
                tensor, form = plain(leaf), type(leaf)
            elif form is None and isinstance(leaf, _CONSTANTS):
                form = Constant(type(leaf), leaf)
            elif form is None:
                raise CaptureError(f"its results hold a {type(leaf).__name__}")
            if isinstance(leaf, Tensor):
                known.append(leaf)
            tensors.append(tensor)
            forms.append(form)
        return tensors, (spec, tuple(forms))

    def results_of(self, tensors: Sequence[Tensor | None], form: Hashable) -> Any:
        """The inverse of :meth:`leaves_of`."""
        spec, forms = form
        known = list(self._inputs)
        leaves: list[Any] = []
        for tensor, leaf in zip(tensors, forms, strict=True):
            if isinstance(leaf, BlocksForm):
                value = leaf.filled(tensor, self._frame)
            elif isinstance(leaf, Constant):
                value = leaf.value
            elif isinstance(leaf, Same):
                value = known[leaf.index]
            else:
                value = DenseMap.of(tensor, self._frame.maps) if leaf is DenseMap else tensor
            if isinstance(value, Tensor):
                known.append(value)
            leaves.append(value)
        return tree_unflatten(leaves, spec)


def refuse_ties(x: BlockTensor, frame: Frame) -> None:
    """Refuse a map that is tied to others: written to together with them, or made of them on use.

    Raises:
        CaptureError: If it is one.
    """
    version = x.version
    tied = x.cropped or x.source is not None or version.viewed or version.mirrors
    if type(x) is not BlockTensor or x.frame is not frame:
        kind = type(x).__name__ if x.frame is frame else "map of windows or tokens"
        raise CaptureError(f"it is given, or gives, a {kind}")
    if tied or version.mirror is not None or version.others():
        raise CaptureError("it is given, or gives, a map that is a view of another")


def _structure(value: Any) -> Hashable:
    """What lists and dicts hold, tensors by identity."""
    if isinstance(value, (tuple, list)):
        return (type(value), *map(_structure, value))
    if isinstance(value, Mapping):
        return (type(value), tuple(value), *map(_structure, value.values()))
    return id(value) if isinstance(value, Tensor) else Constant(type(value), value)
