"""What is worked out once for frames of one geometry, and dropped with their state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..frame.plans import FramePlans
from ..state.store import StateStore
from .graph_pool import GraphPool
from .program_pool import ProgramPool


@dataclass
class GeometryCache:
    """The cache for one geometry.

    Attributes:
        plans: Index tables and plans of ops.
        graphs: CUDA graphs.
        programs: Programs of whole frames.
        parts: Programs of parts of the model.
        idle: The state that the graphs read and write, kept for the next video once no
            stream is left.
    """

    plans: FramePlans = field(default_factory=FramePlans)
    graphs: GraphPool = field(default_factory=GraphPool)
    programs: ProgramPool = field(default_factory=ProgramPool)
    parts: ProgramPool = field(default_factory=ProgramPool)
    idle: StateStore | None = None


class GeometryCaches:
    """The caches of a converted model, by geometry: ``(C, H, W, dtype, device)`` of frames."""

    def __init__(self) -> None:
        self._caches: dict[tuple, GeometryCache] = {}

    def __reduce__(self):
        # A copied model has its own maps, and another process its own tables.
        return GeometryCaches, ()

    def __iter__(self) -> Iterator[GeometryCache]:
        return iter(self._caches.values())

    def of(self, geometry: tuple) -> GeometryCache:
        """The cache of a geometry that has streams from now on."""
        found = self._caches.get(geometry)
        if found is None:
            found = self._caches[geometry] = GeometryCache()
        return found

    def take_idle(self, geometry: tuple) -> StateStore | None:
        """The state that graphs use, for new streams of the geometry."""
        cache = self._caches.get(geometry)
        if cache is None:
            return None
        store, cache.idle = cache.idle, None
        return store

    def retire(self, geometry: tuple, store: StateStore) -> None:
        """Free the memory of a geometry without streams, except what graphs hold."""
        if geometry in self._caches:
            self._caches[geometry].idle = store
        self.forget_idle()

    def forget_idle(self) -> None:
        """Free the memory of geometries that have neither streams nor graphs."""
        for geometry, cache in list(self._caches.items()):
            if cache.idle is not None and not cache.graphs:
                del self._caches[geometry]

    def idle_bytes(self) -> int:
        """Memory of the maps that have no streams, in bytes."""
        return sum(cache.idle.bytes() for cache in self if cache.idle is not None)
