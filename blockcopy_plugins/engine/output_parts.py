"""A model's outputs, split into parts that can be moved and the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..propagation import MapPart, Objects, Region
from ..shared_copy import shared_copy
from .torch_internals import TreeSpec, tree_flatten, tree_unflatten

Parts = Mapping[str, MapPart | Objects]
"""The parts of one image's outputs by name."""

_SIMPLE = (type(None), bool, int, float, complex, str)


class OutputParts:
    """The outputs of one call.

    Args:
        images: The parts of each image, in the outputs' own tensors.
    """

    def __init__(self, images: Sequence[Parts]) -> None:
        self.images = tuple(images)

    def join(self, images: Sequence[Parts], call: Any) -> Any:
        """The same outputs with other parts in place of these; the rest is copied.

        Args:
            images: The parts of each image, under the same names.
            call: The call that gets the outputs: the one that these came from, or a later one that
                asks for the same.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement join()")

    def forget_outputs(self) -> None:
        """Release the images' tensors: the caller may change them from now on."""
        self.images = ()


class TreeParts(OutputParts):
    """Tensors in lists, tuples and dicts.

    Args:
        images: The maps of each image, by their places among the leaves.
        leaves: All leaves of the outputs, ``None`` in place of maps.
        spec: Structure of the tree.
    """

    def __init__(self, images: Sequence[Parts], leaves: Sequence[Any], spec: TreeSpec) -> None:
        super().__init__(images)
        self._leaves = [_own(leaf) for leaf in leaves]
        self._places = [int(place) for place in images[0]]
        self._spec = spec

    def join(self, images: Sequence[Parts], call: Any) -> Any:
        """See :meth:`OutputParts.join`."""
        joined = [_own(leaf) for leaf in self._leaves]
        for place in self._places:
            maps = [parts[str(place)].value for parts in images]
            joined[place] = maps[0].unsqueeze(0) if len(maps) == 1 else torch.stack(maps)
        return tree_unflatten(joined, self._spec)


def take_tree_apart(
    outputs: Any, images: int, size: tuple[int, int], movable: int | None = None
) -> OutputParts | None:
    """Split outputs that consist of tensors in lists, tuples and dicts.

    Maps are tensors ``(N, C, h, w)``, and integer and bool ``(N, h, w)``, whose pixels are roughly
    square in the network's input. Everything else is copied.

    Args:
        outputs: What a model returned.
        images: N, images of the batch.
        size: ``(H, W)`` of the network's input, px.
        movable: How many of the outputs' leaves, from the first, are moved if they are maps; the
            others are copied. By default all are moved.

    Returns:
        The parts, or ``None`` if the outputs contain something of an unknown kind.
    """
    leaves, spec = tree_flatten(outputs)
    if not all(isinstance(leaf, (Tensor, *_SIMPLE)) for leaf in leaves):
        return None
    region = Region.whole(size)
    places = [i for i, leaf in enumerate(leaves[:movable]) if _is_map(leaf, images, region)]
    parts = tuple(
        {str(i): MapPart(leaves[i][image], region) for i in places} for image in range(images)
    )
    rest = [None if i in places else leaf for i, leaf in enumerate(leaves)]
    return TreeParts(parts, rest, spec)


def _is_map(leaf: Any, images: int, region: Region) -> bool:
    if not isinstance(leaf, Tensor) or leaf.dim() not in (3, 4) or len(leaf) != images:
        return False
    of_labels = leaf.dim() == 3
    if of_labels and (leaf.is_floating_point() or leaf.is_complex()):
        return False
    return not leaf.is_complex() and region.is_map(leaf.shape)


def _own(leaf: Any) -> Any:
    return shared_copy(leaf) if isinstance(leaf, Tensor) else leaf
