"""What a converted model has done so far, in figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from torch import Tensor

from .frame import Densified, FrameCounts


@dataclass(frozen=True)
class Report:
    """Figures over all calls since the conversion.

    Attributes:
        frames: Images executed.
        executed_rate: Executed blocks / all blocks, mean over the frames.
        block_size: In pixels of the network's input.
        policy: Class name of the policy.
        target: The executed rate that the policy is to hold, if it has one.
        macs_dense: MACs of a frame if all that ran on blocks ran dense, densified ops included.
        macs_executed: MACs of a frame that really ran, densified ops included. What a model does
            after its dense exits (RoI heads, decoding) is in neither.
        macs_densified: The part of both that met blocks and ran on the whole map.
        ms_model: Milliseconds of a call in the model, mean.
        ms_policy: Milliseconds of a call in the policy, learning included, mean.
        state_bytes: Memory of the state.
        dense_ops: Ops that ran on the whole map, with module path, reason and share.
        modules: MACs executed and dense by module path, for a frame.
    """

    frames: int
    executed_rate: float
    block_size: int
    policy: str
    target: float | None
    macs_dense: float
    macs_executed: float
    macs_densified: float
    ms_model: float
    ms_policy: float
    state_bytes: int
    dense_ops: tuple[Densified, ...]
    modules: dict[str, tuple[float, float]]

    def as_dict(self) -> dict:
        """The figures as plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"BlockCopy: {self.frames} frames, blocks of {self.block_size} px, {self.policy}"
            + ("" if self.target is None else f" (target {self.target:g})"),
            f"  executed rate     {self.executed_rate:8.1%}",
            f"  GMACs per frame   {self.macs_executed / 1e9:8.2f} "
            f"of {self.macs_dense / 1e9:.2f} dense",
            f"  ms per call       {self.ms_model:8.1f} model, {self.ms_policy:.1f} policy",
            f"  state             {self.state_bytes / 2**20:8.1f} MiB",
        ]
        if self.dense_ops:
            lines.append(f"  ran dense         {len(self.dense_ops):8d} ops")
            lines += [
                f"    {op.path or '(root)'}: {op.op} ({op.reason}), {op.count} times, "
                f"{op.macs / max(self.frames, 1) / 1e9:.3f} GMACs per frame"
                for op in self.dense_ops
            ]
        else:
            lines.append("  ran dense             none: every op met blocks")
        return "\n".join(lines)


@dataclass
class Totals:
    """Running sums behind a :class:`Report`."""

    calls: int = 0
    frames: int = 0
    executed: float = 0.0
    macs_blocks: int = 0
    macs_blocks_dense: int = 0
    macs_densified: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    dense_ops: dict[tuple[str, str], Densified] = field(default_factory=dict)
    modules: dict[str, list[int]] = field(default_factory=dict)

    def add(self, grid: Tensor, counts: FrameCounts, seconds: dict[str, float]) -> None:
        """Add one call.

        Args:
            grid: bool ``(N, GH, GW)``.
            counts: MACs and densified ops of the call.
            seconds: Wall time by part.
        """
        self.calls += 1
        self.frames += len(grid)
        self.executed += grid.flatten(1).float().mean(1).sum().item()
        self.macs_blocks += counts.blocks
        self.macs_blocks_dense += counts.blocks_dense
        self.macs_densified += counts.densified
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
        for key, op in counts.by_op.items():
            kept = self.dense_ops.setdefault(key, Densified(op.path, op.op, op.reason))
            kept.count += op.count
            kept.macs += op.macs
        for path, (executed, dense) in counts.modules.items():
            kept = self.modules.setdefault(path, [0, 0])
            kept[0] += executed
            kept[1] += dense

    def report(self, *, block_size: int, policy: str, target, state_bytes: int) -> Report:
        """Means of what was added."""
        frames, calls = max(self.frames, 1), max(self.calls, 1)
        return Report(
            frames=self.frames,
            executed_rate=self.executed / frames,
            block_size=block_size,
            policy=policy,
            target=target,
            macs_dense=(self.macs_blocks_dense + self.macs_densified) / frames,
            macs_executed=(self.macs_blocks + self.macs_densified) / frames,
            macs_densified=self.macs_densified / frames,
            ms_model=1e3 * self.seconds.get("model", 0.0) / calls,
            ms_policy=1e3 * self.seconds.get("policy", 0.0) / calls,
            state_bytes=state_bytes,
            dense_ops=tuple(Densified(**vars(op)) for op in self.dense_ops.values()),
            modules={p: (e / frames, d / frames) for p, (e, d) in self.modules.items()},
        )
