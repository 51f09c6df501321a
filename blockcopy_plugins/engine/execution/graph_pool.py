"""What the CUDA graphs over the maps of one store share, and the graphs themselves."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..state.entry import StateEntry
from ..torch_internals import TreeSpec, tree_unflatten
from .capture_backend import Captured
from .replayed_frame import Recorded
from .static_frame import StaticFrame, StaticInputs, StaticLists


@dataclass(eq=False)
class FrameGraph:
    """One captured frame.

    Attributes:
        key: What a frame must have in common with it.
        captured: The work.
        leaves: Tensors (or ``None``) of its results.
        spec: Of which :attr:`leaves` are the leaves: the model's results, and what its dense exits
            gave.
        inputs: What it reads.
        lists: What it reads.
        recorded: What the host did.
        held: The state that stands for a leaf which the graph does not copy, by the leaf's id.
        last_call: Number of the call that last replayed it.
    """

    key: Hashable
    captured: Captured
    leaves: list[Tensor | None]
    spec: TreeSpec
    inputs: StaticInputs
    lists: StaticLists
    recorded: Recorded
    held: dict[int, StateEntry]
    last_call: int = 0

    def copy_results(self, frame: StaticFrame) -> Any:
        """The results in memory of their own; a tensor that is there twice still is one."""
        copies: dict[int, Tensor] = {}
        # Not in inference mode, as results of eager frames are not.
        with torch.inference_mode(False), torch.no_grad():
            for leaf in self.leaves:
                if leaf is None or id(leaf) in copies:
                    continue
                entry = self.held.get(id(leaf))
                copies[id(leaf)] = leaf.clone() if entry is None else frame.copy_result(entry)
        leaves = [None if leaf is None else copies[id(leaf)] for leaf in self.leaves]
        return tree_unflatten(leaves, self.spec)


@dataclass
class GraphPool:
    """Graphs by what a frame must have in common with the captured one.

    Attributes:
        inputs: By number of images.
        warm: Block lists of the warm-up call, for keys that have none of :attr:`graphs`.
        graphs: More than one of a key where maps have more blocks than the grid: how many of those
            are executed is no matter of the grid's count alone.
        sizes: Bytes that a graph of this key was found to need.
        generation: The generation of the graphs of all stores for which all this is valid.
    """

    inputs: dict[int, StaticInputs] = field(default_factory=dict)
    warm: dict[Hashable, StaticLists] = field(default_factory=dict)
    graphs: dict[Hashable, list[FrameGraph]] = field(default_factory=dict)
    sizes: dict[Hashable, int] = field(default_factory=dict)
    generation: int = 0

    def __bool__(self) -> bool:
        return bool(self.graphs)

    def __iter__(self) -> Iterator[FrameGraph]:
        return (graph for graphs in self.graphs.values() for graph in graphs)

    def __reduce__(self):
        # A copied model has maps of its own; graphs over them are captured anew.
        return GraphPool, ()

    def add(self, graph: FrameGraph) -> None:
        """Keep a graph."""
        self.graphs.setdefault(graph.key, []).append(graph)

    def discard(self, graph: FrameGraph) -> None:
        """Give a graph's memory back."""
        left = [other for other in self.graphs.get(graph.key, ()) if other is not graph]
        if left:
            self.graphs[graph.key] = left
        else:
            self.graphs.pop(graph.key, None)

    def clear(self) -> None:
        """Give all memory back."""
        for part in (self.inputs, self.warm, self.graphs, self.sizes):
            part.clear()
