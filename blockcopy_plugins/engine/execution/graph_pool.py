"""What the CUDA graphs over the maps of one store share, and the graphs themselves."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cuda_graphs import FrameGraph
    from .static_frame import StaticInputs, StaticLists


@dataclass
class GraphPool:
    """Graphs by what a frame must have in common with the captured one.

    Attributes:
        inputs: By number of images.
        warm: Block lists of the warm-up call, for keys that have none of :attr:`graphs`.
        graphs: More than one of a key where maps have more blocks than the grid: how many of those
            are executed is no matter of the grid's count alone.
        sizes: Bytes that a graph of this key was found to need.
        generation: That of :class:`~.cuda_graphs.FrameGraphs` for which all this is good.
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
