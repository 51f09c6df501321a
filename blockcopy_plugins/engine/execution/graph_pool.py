"""The CUDA graphs over the maps of one store, and what they share."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..state.entry import StateEntry
from .call_kind import ResultForm
from .capture_backend import Captured
from .replayed_frame import Recorded
from .static_frame import StaticFrame, StaticInputs, StaticLists


@dataclass(eq=False)
class FrameGraph:
    """One captured frame.

    Attributes:
        key: What a frame must have in common with it.
        captured: The captured work.
        leaves: Tensors (or ``None``) of its results.
        form: What the results are apart from :attr:`leaves`: the model's results,
            and those of its dense exits.
        inputs: Inputs that it reads.
        lists: Block lists that it reads.
        recorded: What the host did.
        held: The state that holds a leaf which the graph does not copy, by the leaf's id.
        last_call: Number of the call that last replayed it.
    """

    key: Hashable
    captured: Captured
    leaves: list[Tensor | None]
    form: ResultForm
    inputs: StaticInputs
    lists: StaticLists
    recorded: Recorded
    held: dict[int, StateEntry]
    last_call: int = 0

    def copy_results(self, frame: StaticFrame) -> Any:
        """The results in fresh memory; a tensor that occurs twice is copied once."""
        copies: dict[int, Tensor] = {}
        # Not in inference mode, since results of eager frames are not inference tensors.
        with torch.inference_mode(False), torch.no_grad():
            for leaf in self.leaves:
                if leaf is None or id(leaf) in copies:
                    continue
                entry = self.held.get(id(leaf))
                copies[id(leaf)] = leaf.clone() if entry is None else frame.copy_result(entry)
        leaves = [None if leaf is None else copies[id(leaf)] for leaf in self.leaves]
        return self.form.build(leaves)


@dataclass
class GraphPool:
    """Graphs by what a frame must have in common with the captured one.

    Attributes:
        inputs: By number of images.
        warm: Block lists of the warm-up call, for keys that have none of :attr:`graphs`.
        graphs: By key. A key has several where maps have more blocks than the grid,
            because the grid's count does not tell how many of those are executed.
        sizes: Bytes that a graph of this key needed.
        generation: The generation of the graphs of all stores for which this pool is valid.
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
        # A copied model has its own maps, whose graphs are captured again.
        return GraphPool, ()

    def add(self, graph: FrameGraph) -> None:
        """Keep a graph."""
        self.graphs.setdefault(graph.key, []).append(graph)

    def discard(self, graph: FrameGraph) -> None:
        """Free a graph's memory."""
        left = [other for other in self.graphs.get(graph.key, ()) if other is not graph]
        if left:
            self.graphs[graph.key] = left
        else:
            self.graphs.pop(graph.key, None)

    def clear(self) -> None:
        """Free all memory."""
        for part in (self.inputs, self.warm, self.graphs, self.sizes):
            part.clear()
