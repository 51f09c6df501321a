"""The data that the learned policy gathers between two updates: a few batches to learn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Recalled:
    """The network's intermediate results of a decision; the update need not compute them again."""

    features: tuple[Tensor, ...]  # each of n images
    revision: int  # of the weights

    def chosen(self, index: Tensor) -> Recalled:
        """Return the results of some of the images."""
        return Recalled(tuple(feature[index] for feature in self.features), self.revision)


@dataclass(frozen=True, eq=False)
class Experience:
    """One batch to learn from."""

    cells: Tensor  # float32 (n, 11, h, w)
    recalled: Recalled | None
    per_block: int
    grid: Tensor  # bool (n, GH, GW): the executed blocks
    credited: Tensor  # bool (n, GH, GW): where execution agrees with the policy's sample
    reward: Tensor  # float32 (n, GH, GW)


def joined(items: list[Experience], revision: int | None) -> Iterator[Experience]:
    """Join items of the same shape: one pass over four frames costs half of four passes.

    Joining copies, even a single item: outside inference mode this makes ordinary tensors, which
    the gradients' graph may keep.

    Args:
        items: The items to join.
        revision: Revision of the weights; results of other weights are dropped.
    """
    groups: dict[tuple, list[Experience]] = {}
    for item in items:
        groups.setdefault((item.cells.shape[1:], item.per_block), []).append(item)
    for (_, per_block), group in groups.items():
        recalled = None
        if all(item.recalled and item.recalled.revision == revision for item in group):
            features = zip(*(item.recalled.features for item in group), strict=True)
            recalled = Recalled(tuple(map(torch.cat, features)), revision)
        yield Experience(
            torch.cat([item.cells for item in group]),
            recalled,
            per_block,
            torch.cat([item.grid for item in group]),
            torch.cat([item.credited for item in group]),
            torch.cat([item.reward for item in group]),
        )
