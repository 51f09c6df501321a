"""What is worked out once for frames of one geometry, and goes with the state of such frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ..frame.plans import FramePlans
from ..state.store import StateStore
from .graph_pool import GraphPool
from .program_pool import ProgramPool


@dataclass
class GeometryCache:
    """All of it for one geometry.

    Attributes:
        plans: Index tables and plans of ops.
        graphs: CUDA graphs.
        programs: Programs.
        idle: The state that the graphs read and write, where no stream is left: they serve the next
            video.
    """

    plans: FramePlans = field(default_factory=FramePlans)
    graphs: GraphPool = field(default_factory=GraphPool)
    programs: ProgramPool = field(default_factory=ProgramPool)
    idle: StateStore | None = None


class GeometryCaches:
    """Those of a converted model, by geometry: ``(C, H, W, dtype, device)`` of frames."""

    def __init__(self) -> None:
        self._caches: dict[tuple, GeometryCache] = {}

    def __reduce__(self):
        # A copied model has maps of its own, and another process other tables.
        return GeometryCaches, ()

    def __iter__(self) -> Iterator[GeometryCache]:
        return iter(self._caches.values())

    def of(self, geometry: tuple) -> GeometryCache:
        """The cache of a geometry, whose streams are live from now on."""
        return self._caches.setdefault(geometry, GeometryCache())

    def take_idle(self, geometry: tuple) -> StateStore | None:
        """The state over which there are graphs, for new streams of the geometry."""
        cache = self._caches.get(geometry)
        if cache is None:
            return None
        store, cache.idle = cache.idle, None
        return store

    def retire(self, geometry: tuple, store: StateStore) -> None:
        """No stream is left of a geometry: memory is given back, but for what graphs hold."""
        if geometry in self._caches:
            self._caches[geometry].idle = store
        self.forget_idle()

    def forget_idle(self) -> None:
        """Give back the memory of geometries that have neither streams nor graphs."""
        for geometry, cache in list(self._caches.items()):
            if cache.idle is not None and not cache.graphs:
                del self._caches[geometry]

    def idle_bytes(self) -> int:
        """Memory of the maps that have no streams, in bytes."""
        return sum(cache.idle.bytes() for cache in self if cache.idle is not None)
