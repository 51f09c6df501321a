"""What ran in a frame: multiply-accumulates, and ops on whole maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Rational


@dataclass
class Densified:
    """How often and why an op of one module ran on the whole map."""

    path: str
    op: str
    reason: str
    count: int = 0
    macs: int = 0


@dataclass
class FrameCounts:
    """Multiply-accumulates of one frame.

    Attributes:
        blocks: MACs that ran on executed blocks.
        blocks_dense: MACs of the same ops on the whole map.
        densified: MACs of ops that got a BlockTensor and ran on the whole map.
        tiles: Block sizes of the maps that ops on blocks returned, in pixels of those maps;
            fractions if an op ran on the whole map because its stride does not divide the block.
        by_op: Densified ops by ``(path, op)``.
        modules: ``path -> [executed MACs, dense MACs]`` of the ops that ran on blocks.
        outside: ``path -> MACs`` of ops on ordinary tensors: after the exits (RoI heads), or after
            an op whose result is not a map. Counted on first frames, ``None`` on others.
        by_torch: ``path -> reasons`` why the package's own kernels did not run its convolution.
    """

    blocks: int = 0
    blocks_dense: int = 0
    densified: int = 0
    tiles: set[tuple[Rational, Rational]] = field(default_factory=set)
    by_op: dict[tuple[str, str], Densified] = field(default_factory=dict)
    modules: dict[str, list[int]] = field(default_factory=dict)
    outside: dict[str, int] | None = None
    by_torch: dict[str, Sequence[str]] = field(default_factory=dict)

    def add(self, other: FrameCounts) -> None:
        """Add what ran in a part of the same frame.

        Args:
            other: Of the part; ``outside`` is left out.
        """
        self.blocks += other.blocks
        self.blocks_dense += other.blocks_dense
        self.densified += other.densified
        self.tiles |= other.tiles
        other.add_by_place(self.by_op, self.modules)
        self.by_torch.update(other.by_torch)

    def add_by_place(
        self, by_op: dict[tuple[str, str], Densified], modules: dict[str, list[int]]
    ) -> None:
        """Add what ran to sums by op and by module.

        Args:
            by_op: Sums in the form of :attr:`by_op`.
            modules: Sums in the form of :attr:`modules`.
        """
        for key, op in self.by_op.items():
            found = by_op.setdefault(key, Densified(op.path, op.op, op.reason))
            found.count += op.count
            found.macs += op.macs
        for path, (executed, dense) in self.modules.items():
            sums = modules.setdefault(path, [0, 0])
            sums[0] += executed
            sums[1] += dense
