"""Figures of what a converted model has run so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from math import lcm
from numbers import Rational
from typing import TYPE_CHECKING

from torch import Tensor

from .frame.counts import Densified, FrameCounts
from .frame.host_grid import HostGrid

if TYPE_CHECKING:
    from ..policy.agreement_estimate import AgreementEstimate
    from ..policy.guards import GuardCounts
    from .execution.cuda_graphs import GraphReport
    from .execution.model_programs import ModelProgramReport
    from .propagation_report import PropagationReport

# Share of the MACs on blocks below which block-sparse execution hardly saves anything.
_HARDLY_ANY = 0.05
_ROWS = 12
_NAMED = 3
LARGEST_BLOCK = 256
"""The largest block size that is proposed, px; larger blocks contain much that did not change."""


@dataclass(frozen=True)
class ModuleMacs:
    """MACs of one module in a frame, without those of its submodules.

    Attributes:
        executed: MACs that ran on blocks.
        dense: MACs of the same ops on the whole map.
        densified: MACs of ops that got blocks and ran on the whole map.
        outside: MACs of ops on ordinary tensors, counted in the first frames of streams.
    """

    executed: float = 0.0
    dense: float = 0.0
    densified: float = 0.0
    outside: float = 0.0

    @property
    def total(self) -> float:
        """MACs of the module in the dense model."""
        return self.dense + self.densified + self.outside

    def __add__(self, other: ModuleMacs) -> ModuleMacs:
        return ModuleMacs(
            self.executed + other.executed,
            self.dense + other.dense,
            self.densified + other.densified,
            self.outside + other.outside,
        )


@dataclass(frozen=True)
class GuardReport:
    """What a guard did, in blocks of all frames except the streams' first ones.

    Attributes:
        guard: Its name and options.
        demanded: Blocks that it demanded.
        added: Those of them that neither the policy nor a guard earlier in the list had chosen.
        taken: Blocks that the policy had chosen and the guard kept from running.
    """

    guard: str
    demanded: int
    added: int
    taken: int

    def __str__(self) -> str:
        text = f"{self.guard}: demanded {self.demanded} blocks, {self.added} more than were chosen"
        if self.taken and not self.demanded:
            return f"{self.guard}: kept {self.taken} chosen blocks from running"
        return f"{text}, and kept {self.taken} from running" if self.taken else text


@dataclass(frozen=True)
class Report:
    """Figures over all calls since the conversion.

    Attributes:
        frames: Images executed.
        executed_rate: Executed blocks / all blocks, mean over the frames.
        block_size: In pixels of the network's input; ``'auto'`` until the first frame has chosen.
        policy: Class name of the policy.
        target: The policy's target for the executed rate, if it has one.
        macs_dense: MACs of a frame if all that ran on blocks had run dense, with densified ops.
        macs_executed: MACs of a frame that really ran, with densified ops.
        macs_densified: The part of both that got blocks and ran on the whole map.
        macs_outside: MACs on ordinary tensors, not contained in the others: what a model does after
            its dense exits (RoI heads, decoding) or after an op whose result is not a map. Counted
            in the first frame of each stream.
        ms_model: Mean milliseconds of a call in the model.
        ms_policy: Mean milliseconds of a call in the policy, including learning.
        state_bytes: Memory of the state.
        output_bytes: Memory of outputs that callers share, see :class:`~.state.lent_map.LentMap`.
        kernel_bytes: Memory of weights in the kernels' layout and of the kernels' scratch space.
        dense_ops: Ops that ran on the whole map, with module path, reason and share.
        modules: MACs by module path.
        block_sizes: Block sizes, px, that are multiples of all strides that the network has on
            blocks; with others, the layers after such a stride run on whole maps.
        graphs: What was captured and replayed as CUDA graphs; ``None`` if that is off.
        programs: What was recorded and replayed as programs on a CPU; ``None`` if that is off.
        guards: What each guard did.
        agreement: Agreement with the dense output, if the policy's budget compares them, else
            ``None``.
        propagation: How the outputs of blocks that did not run were carried on.
        plain_frames: Images of whole frames that ran as in the plain model, without a state.
        torch_convolutions: Why torch runs convolutions and not the package's own kernels, by module
            path.
    """

    frames: int
    executed_rate: float
    block_size: int | str
    policy: str
    target: float | None
    macs_dense: float
    macs_executed: float
    macs_densified: float
    macs_outside: float
    ms_model: float
    ms_policy: float
    state_bytes: int
    output_bytes: int
    kernel_bytes: int
    dense_ops: tuple[Densified, ...]
    modules: dict[str, ModuleMacs]
    block_sizes: tuple[int, ...]
    graphs: GraphReport | None = None
    programs: ModelProgramReport | None = None
    guards: tuple[GuardReport, ...] = ()
    agreement: AgreementEstimate | None = None
    propagation: PropagationReport | None = None
    plain_frames: int = 0
    torch_convolutions: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def share_on_blocks(self) -> float:
        """Share of the dense model's MACs that runs on blocks, 0 to 1."""
        total = self.macs_dense + self.macs_outside
        return (self.macs_dense - self.macs_densified) / total if total else 0.0

    @property
    def recorded(self) -> int:
        """Calls, of the model or of its parts, that took longer because they were recorded."""
        found = [self.graphs, self.programs, self.programs and self.programs.parts]
        return sum(each.recorded for each in found if each is not None)

    @property
    def why_dense(self) -> str | None:
        """Why hardly anything runs on blocks, and what to do; ``None`` if enough does."""
        if self.macs_dense + self.macs_outside == 0 or self.share_on_blocks >= _HARDLY_ANY:
            return None
        outside = {path: macs.outside for path, macs in self.modules.items() if macs.outside}
        if self.dense_ops:
            op = self.dense_ops[0]
            where = repr(op.path or "(root)")
            why = f"the first op that ended them is {op.op} in {where} ({op.reason})"
        elif outside:
            path = max(outside, key=outside.get)
            why = f"most is computed in {path or '(root)'!r}, which maps on blocks do not reach"
        else:
            why = "no map on blocks met a convolution"
        return (
            f"only {self.share_on_blocks:.1%} of the multiply-accumulates run on blocks, so that "
            f"block-sparse execution saves next to nothing: {why}. print(bc.report(model)) shows "
            "all of them; convert the part of the model that takes (N, C, H, W) and consists of "
            "convolutions, or another model."
        )

    def as_dict(self) -> dict:
        """The figures as plain values, for JSON."""
        return {**asdict(self), "share_on_blocks": self.share_on_blocks}

    def __str__(self) -> str:
        size = self.block_size if isinstance(self.block_size, str) else f"{self.block_size} px"
        lines = [
            f"BlockCopy: {self.frames} frames, blocks of {size}, {self.policy}"
            + ("" if self.target is None else f" (target {self.target:g})"),
            f"  executed rate     {self.executed_rate:8.1%}",
            f"  GMACs per frame   {self.macs_executed / 1e9:8.3g} "
            f"of {self.macs_dense / 1e9:.3g} dense",
            f"  ms per call       {self.ms_model:8.1f} model, {self.ms_policy:.1f} policy",
            f"  state             {self.state_bytes / 2**20:8.1f} MiB",
            f"  outputs           {self.output_bytes / 2**20:8.1f} MiB, shared with the caller",
            f"  kernels' weights  {self.kernel_bytes / 2**20:8.1f} MiB",
        ]
        if self.agreement is not None:
            lines.insert(2, f"  dense agreement   {self.agreement}")
        if self.propagation is not None:
            lines += self.propagation.lines()
        if self.plain_frames:
            lines.append(
                f"  whole frames      {self.plain_frames} ran as the plain model does, without a "
                "state: the policy runs whole frames only"
            )
        if self.graphs is not None:
            lines += self.graphs.lines()
        if self.programs is not None:
            lines += self.programs.lines()
        if self.guards:
            lines += ["  guards:", *(f"    {guard}" for guard in self.guards)]
        return "\n".join(lines + self.shares())

    def shares(self) -> list[str]:
        """Lines of text: the parts of the model, how much of each runs on blocks, and why."""
        lines = self._table() if self.modules else []
        if self.block_sizes:
            sizes = ", ".join(map(str, self.block_sizes))
            lines.append(f"  block sizes that suit the strides: {sizes} px")
        if self.dense_ops:
            lines.append("  ran on whole maps:")
            lines += [
                f"    {op.path or '(root)'}: {op.op} ({op.reason}), {op.count} x, "
                f"{op.macs / max(self.frames, 1) / 1e9:.3g} GMACs per frame"
                for op in self.dense_ops
            ]
        else:
            lines.append("  ran on whole maps: nothing that met blocks")
        if self.torch_convolutions:
            lines.append("  convolutions by torch, not by the package's own kernels:")
            for reasons in dict.fromkeys(map(tuple, self.torch_convolutions.values())):
                paths = [p for p, why in self.torch_convolutions.items() if tuple(why) == reasons]
                more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
                lines.append(f"    {', '.join(paths[:_NAMED])}{more}: {'; '.join(reasons)}")
        return lines

    def _table(self) -> list[str]:
        parts = by_part(self.modules)
        width = max(20, *map(len, parts))
        lines = [
            f"  {'part':{width}}  {'GMACs':>8}  {'on blocks':>9}  {'whole map':>9}  {'outside':>8}"
        ]
        for name, macs in {**parts, "all": sum(parts.values(), ModuleMacs())}.items():
            total = macs.total or 1.0
            lines.append(
                f"  {name:{width}}  {macs.total / 1e9:8.3g}  {macs.dense / total:9.1%}  "
                f"{macs.densified / total:9.1%}  {macs.outside / total:8.1%}"
            )
        return lines


def by_part(modules: Mapping[str, ModuleMacs]) -> dict[str, ModuleMacs]:
    """Sum up the MACs of modules for parts of the model, as finely as a short table can show.

    Args:
        modules: By module path.

    Returns:
        MACs by path of the part, in the order of the modules.
    """
    parts: dict[str, ModuleMacs] = {}
    for depth in range(1, 5):
        finer: dict[str, ModuleMacs] = {}
        for path, macs in modules.items():
            name = ".".join(path.split(".")[:depth]) or "(root)"
            finer[name] = finer.get(name, ModuleMacs()) + macs
        if parts and len(finer) > _ROWS:
            break
        parts = finer
    return parts


def suitable_block_sizes(block_size: int, tiles: Iterable[tuple[Rational, Rational]]) -> tuple:
    """Block sizes for which the blocks of every map are a whole number of pixels wide.

    Args:
        block_size: The current block size, px.
        tiles: Height and width of the blocks of all maps, in pixels of those maps.

    Returns:
        The smallest such size of at least 32 px, and its doubles up to 256 px; only the smallest
        if it is larger.
    """
    strides = {Fraction(block_size) / width for tile in tiles for width in tile}
    if not strides:
        return ()
    unit = lcm(*(stride.numerator for stride in strides))
    size = unit * max(1, -(-32 // unit))
    sizes = [size]
    while sizes[-1] * 2 <= LARGEST_BLOCK:
        sizes.append(sizes[-1] * 2)
    return tuple(sizes)


@dataclass
class Totals:
    """Running sums behind a :class:`Report`."""

    calls: int = 0
    frames: int = 0
    executed: float = 0.0
    counts: FrameCounts = field(default_factory=FrameCounts)
    seconds: dict[str, float] = field(default_factory=dict)
    outside: dict[str, int] = field(default_factory=dict)
    outside_frames: int = 0
    guards: GuardCounts | None = None

    def add(
        self,
        blocks: HostGrid,
        counts: FrameCounts,
        seconds: dict[str, float],
        guards: GuardCounts | None = None,
        twice: Tensor | None = None,
    ) -> None:
        """Add one call.

        Args:
            blocks: The blocks that ran.
            counts: MACs and densified ops of the call.
            seconds: Wall time by part.
            guards: What guards did.
            twice: bool ``(N, GH, GW)``, blocks that ran a second time in the same call.
        """
        self.calls += 1
        self.frames += len(blocks.counts)
        self.executed += sum(blocks.rates)
        if twice is not None:
            self.executed += sum(HostGrid(twice).rates)
        self.counts.add(counts)
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
        if counts.outside is not None:
            self.outside_frames += len(blocks.counts)
            for path, macs in counts.outside.items():
                self.outside[path] = self.outside.get(path, 0) + macs
        if guards is not None:
            # Summed on its device; only the report waits for it.
            self.guards = guards if self.guards is None else self.guards + guards

    def hardly_any_on_blocks(self) -> bool:
        """Whether hardly anything of the model runs on blocks; known without a report."""
        outside = sum(self.outside.values()) * self.frames / max(self.outside_frames, 1)
        on_blocks = self.counts.blocks_dense
        total = on_blocks + self.counts.densified + outside
        return total > 0 and on_blocks < _HARDLY_ANY * total

    def guard_reports(self) -> tuple[GuardReport, ...]:
        """What each guard did."""
        if self.guards is None:
            return ()
        rows = self.guards.blocks.T.tolist()
        return tuple(
            GuardReport(name, *row) for name, row in zip(self.guards.names, rows, strict=True)
        )

    def report(
        self,
        *,
        block_size: int | str,
        policy: str,
        target,
        state_bytes: int,
        output_bytes: int,
        kernel_bytes: int,
        graphs=None,
        programs=None,
        agreement: AgreementEstimate | None = None,
        propagation: PropagationReport | None = None,
        plain_frames: int = 0,
    ) -> Report:
        """The means of the calls that were added."""
        frames, calls, counts = max(self.frames, 1), max(self.calls, 1), self.counts
        by_module = counts.by_module().items()
        outside = {p: m / self.outside_frames for p, m in self.outside.items()}
        modules = {p: ModuleMacs(e / frames, d / frames) for p, (e, d) in by_module}
        for op in counts.by_op.values():
            if op.macs:
                found = modules.get(op.path, ModuleMacs())
                modules[op.path] = found + ModuleMacs(densified=op.macs / frames)
        for path, macs in outside.items():
            modules[path] = modules.get(path, ModuleMacs()) + ModuleMacs(outside=macs)
        return Report(
            frames=self.frames,
            executed_rate=self.executed / frames,
            block_size=block_size,
            policy=policy,
            target=target,
            macs_dense=(counts.blocks_dense + counts.densified) / frames,
            macs_executed=(counts.blocks + counts.densified) / frames,
            macs_densified=counts.densified / frames,
            macs_outside=sum(outside.values()),
            ms_model=1e3 * self.seconds.get("model", 0.0) / calls,
            ms_policy=1e3 * self.seconds.get("policy", 0.0) / calls,
            state_bytes=state_bytes,
            output_bytes=output_bytes,
            kernel_bytes=kernel_bytes,
            dense_ops=tuple(Densified(**vars(op)) for op in counts.by_op.values()),
            modules=modules,
            block_sizes=suitable_block_sizes(block_size, counts.tiles),
            graphs=graphs,
            programs=programs,
            guards=self.guard_reports(),
            agreement=agreement,
            propagation=propagation,
            plain_frames=plain_frames,
            torch_convolutions=dict(counts.by_torch),
        )
