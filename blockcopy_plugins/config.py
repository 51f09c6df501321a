"""Options of a conversion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from .engine.buckets import check_buckets
from .errors import ConfigError

AUTO = "auto"
"""The block size that is chosen at the first frame."""

PROPAGATE = ("copy", "move", "auto")
"""What can be done with the outputs of blocks that did not run."""


def default_policy() -> dict[str, Any]:
    """The policy that picks the blocks unless another one is given."""
    return dict(type="GainPolicy", target=0.3)


@dataclass(frozen=True)
class BlockCopyConfig:
    """How a model should run block-sparsely.

    Attributes:
        block_size: Side of a block in pixels of the network's input. A multiple of the network's
            total stride keeps every layer on blocks; otherwise, layers whose stride does not divide
            their block run dense. ``'auto'`` means 64, or what the strides need from 32 to 256; to
            find out, the first frame is run once more.
        policy: What picks the blocks: ``dict(type='GainPolicy', target=0.3)``, the name of a
            built-in policy (``'all'``), a policy object, or a callable ``f(frame, context) ->
            grid``.
        strict: Raise :class:`~blockcopy_plugins.errors.DensifiedError` if an op cannot run on
            blocks, instead of running it on the whole map.
        max_streams: Largest number of live streams; each has a slot in every map of the state.
        check_finite: Refuse frames with NaN or infinity before they reach the state.
        pack_whole_frames: Also run fully executed frames on packed blocks, rather than on the whole
            map at once. Slower, and the same to float rounding: for tests.
        fuse: Let a convolution apply the batch norm, the addition and the clamping activation that
            follow it in the same pass over memory, where the package's own CPU kernels run it.
        winograd: Let these kernels run 3x3 convolutions of stride 1 by Winograd's algorithm, with a
            quarter of the multiplications (in float32 also 3x1 and 1x3 with half of them, 5x5 with
            36 %, 5x1 and 1x5 with 60 %), and rounding errors about five times as large (about 1e-6
            of the values' scale in float32; below the rounding of bfloat16).
        repack: When a convolution, pooling or resize reads a map that an op made dense, cut the map
            into blocks again: an op that cannot run on blocks then makes nothing else dense. Turn
            it off for a model whose tensors happen to look like maps of the frame but are not.
        buckets: Round the number of executed blocks of a batch up to one of a few, by the policy's
            next-best blocks: how many equal steps, or the executed rates themselves. ``None``:
            about 13 rates where frames run as CUDA graphs, which need few different counts, and no
            rounding elsewhere.
        cuda_graphs: Capture the work of frames on CUDA, one graph for each number of executed
            blocks, and replay it without the Python of the model. A model whose forward depends on
            more than its arguments, parameters and buffers (for example on a counter of its own)
            needs ``False``. Calls that cannot be captured run normally; the report says why.
        programs: Record what frames do on a CPU, and repeat it without the model's Python. A model
            whose forward depends on something that no attribute of its modules shows (for example a
            global counter) needs ``False``. Calls that cannot be recorded run normally; the report
            says why.
        graph_memory_mib: Largest memory of all graphs together, in MiB.
        guards: Promises that hold whatever the policy picks: a list of ``dict(type='MaxAge',
            frames=60)``, names (``'SceneCut'``) or
            :class:`~blockcopy_plugins.policy.guards.Guard` objects, which are copied. All of them
            apply; their order matters only to those that grow a grid.
        propagate: What the model delivers for blocks that did not run: ``'copy'``, what was there
            before; ``'move'``, the same moved to where it is now, which is approximate; ``'auto'``,
            moved if most of the picture moves, else copied. Moved outputs are compared with whole
            frames, and if they are no better than copied ones, copied ones are delivered.
        motion: Where the motion comes from: ``'DISMotion'`` (the default of ``'move'``),
            ``'AutoMotion'`` (the default of ``'auto'``), ``'CodecMotion'``,
            ``dict(type='GlobalMotion', model='affine')``, a
            :class:`~blockcopy_plugins.propagation.Motion`, or a function ``f(frame, context)``
            (:class:`~blockcopy_plugins.propagation.CallableMotion`).

    Raises:
        ConfigError: If a value is out of range.
    """

    block_size: int | str = 128
    policy: Any | Callable = field(default_factory=default_policy)
    strict: bool = False
    max_streams: int = 64
    check_finite: bool = True
    pack_whole_frames: bool = False
    fuse: bool = True
    winograd: bool = True
    repack: bool = True
    buckets: int | Sequence[float] | None = None
    cuda_graphs: bool = True
    programs: bool = True
    graph_memory_mib: int = 4096
    guards: Sequence[Any] = ()
    propagate: str = "copy"
    motion: Any | Callable = None

    def __post_init__(self) -> None:
        for name in ("block_size", "max_streams", "graph_memory_mib"):
            value = getattr(self, name)
            if name == "block_size" and isinstance(value, str) and value == AUTO:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                auto = f", px, or {AUTO!r}" if name == "block_size" else ""
                raise ConfigError(f"{name}={value!r}, expected an integer of at least 1{auto}.")
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type == "bool" and not isinstance(value, bool):
                # A text such as 'false' would count as true.
                raise ConfigError(f"{item.name}={value!r}, expected True or False.")
        if self.buckets is not None:
            check_buckets(self.buckets)
        if self.propagate not in PROPAGATE:
            raise ConfigError(
                f"propagate={self.propagate!r}, expected one of {', '.join(map(repr, PROPAGATE))}."
            )
        if self.propagate == "copy" and self.motion is not None:
            raise ConfigError(
                f"motion={self.motion!r} is given, but propagate='copy' moves nothing: set "
                "propagate='move' or 'auto', or omit motion."
            )
