"""What ran in a frame: multiply-accumulates, and ops on whole maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Rational

# With more in one sum, their MACs are summed by module at once.
_MOST_PROGRAMS = 64


@dataclass
class Densified:
    """How often and why an op of one module ran on the whole map."""

    path: str
    op: str
    reason: str
    count: int = 0
    macs: int = 0


@dataclass(eq=False)
class MacsOfProgram:
    """MACs by module of what a program runs, which depend on the numbers of executed blocks.

    Attributes:
        modules: ``path -> (factors, dense MACs)``; the executed MACs are the sum of each factor
            times the executed blocks of its map, and of the factor of ``None``.
    """

    modules: Mapping[str, tuple[Mapping[tuple[int, int] | None, int], int]]

    def add_to(self, modules: dict[str, list[int]], runs: BlocksOfRuns) -> None:
        """Add what some runs executed to sums by module.

        Args:
            modules: Sums in the form of :attr:`FrameCounts.modules`.
            runs: The runs.
        """
        for path, (factors, dense) in self.modules.items():
            sums = modules.setdefault(path, [0, 0])
            for blocks, factor in factors.items():
                sums[0] += factor * (runs.number if blocks is None else runs.executed[blocks])
            sums[1] += dense * runs.number


@dataclass
class BlocksOfRuns:
    """How often a program has run, and on how many blocks altogether.

    Attributes:
        number: Of the runs.
        executed: Executed blocks of all runs, by rows and columns of blocks of the map.
    """

    number: int = 0
    executed: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, other: BlocksOfRuns) -> None:
        """Add other runs of the same program."""
        self.number += other.number
        for blocks, executed in other.executed.items():
            self.executed[blocks] = self.executed.get(blocks, 0) + executed


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
        modules: ``path -> [executed MACs, dense MACs]`` of the ops that ran on blocks, without
            those of programs; :meth:`by_module` has all.
        programs: What ran in programs. Their MACs by module are summed when somebody asks, which
            hardly anybody does for one frame.
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
    programs: dict[MacsOfProgram, BlocksOfRuns] = field(default_factory=dict)
    outside: dict[str, int] | None = None
    by_torch: dict[str, Sequence[str]] = field(default_factory=dict)

    def add(self, other: FrameCounts) -> None:
        """Add what ran in a part of the same frame, or in another frame.

        Args:
            other: Of the part; ``outside`` is left out.
        """
        self.blocks += other.blocks
        self.blocks_dense += other.blocks_dense
        self.densified += other.densified
        self.tiles |= other.tiles
        for key, op in other.by_op.items():
            found = self.by_op.setdefault(key, Densified(op.path, op.op, op.reason))
            found.count += op.count
            found.macs += op.macs
        for path, (executed, dense) in other.modules.items():
            sums = self.modules.setdefault(path, [0, 0])
            sums[0] += executed
            sums[1] += dense
        for program, runs in other.programs.items():
            self.programs.setdefault(program, BlocksOfRuns()).add(runs)
        if len(self.programs) > _MOST_PROGRAMS:
            self.by_module()
        self.by_torch.update(other.by_torch)

    def by_module(self) -> dict[str, list[int]]:
        """``path -> [executed MACs, dense MACs]`` of the ops that ran on blocks."""
        for program, runs in self.programs.items():
            program.add_to(self.modules, runs)
        self.programs.clear()
        return self.modules
