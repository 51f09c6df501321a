"""Whether :func:`blockcopy_plugins.estimate` is right: what it predicts, and what is then measured.

``python -m benchmarks.estimates --models enet@360x480,whole:mask-rcnn_r50_fpn --json found.json``

In one process, the estimate of a model is made first. Then the same model, unconverted, and a copy
of it, converted, run on the same frames in turn, with the same policy beside the dictated grids.
Frames that are recorded are left out, and medians are compared. The figures that count are ratios,
predicted / measured: load on the machine disturbs them little, and with --clock cpu hardly. Rows
that the file has from other environments stay.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import command

if TYPE_CHECKING:
    from torch import Tensor, nn

# torch comes later: the allocator and OpenMP's settings must be in place before it.

WHOLE = "whole:"
POLICY = "GainPolicy"


@dataclass
class Subject:
    """A user's model.

    Attributes:
        name: As on the command line.
        model: In eval mode, not converted.
        call: Runs a frame ``(1, 3, H, W)``, as its user would.
    """

    name: str
    model: nn.Module
    call: Callable[[nn.Module, Tensor], Any]

    @property
    def is_contiguous(self) -> bool:
        """Whether its weights are, so that its frames are to be."""
        return all(weight.is_contiguous() for weight in self.model.parameters())


def build_subject(name: str, dtype: str, seed: int = 0) -> Subject:
    """Build a model by its name on the command line.

    Args:
        name: Of :mod:`.networks` or :mod:`.openmmlab_networks`; ``package:name`` as in
            :mod:`.zoo.families`; a config, see :func:`.region.find_config`, of which backbone, neck
            and dense heads run, or after ``whole:`` all of it.
        dtype: Of weights and frames.
        seed: Of the weights.
    """
    import torch

    from .light import folded
    from .networks import NETWORKS, build
    from .openmmlab_networks import OPENMMLAB, build_openmmlab

    element = getattr(torch, dtype)
    if name.startswith(WHOLE):
        from .region import build_model
        from .whole_model import WholeModel, as_it_can_run

        model = build_model(name.removeprefix(WHOLE), element, seed)
        model = as_it_can_run(model, torch.channels_last)
        return Subject(name, model, lambda model, frame: WholeModel(model)(frame))
    if ":" in name:
        model = _named(name, element)
    elif name in OPENMMLAB:
        model = build_openmmlab(name, seed)
    elif name in NETWORKS:
        model = folded(build(name, seed=seed))
    else:
        from .region import build_region

        model = build_region(name, element, seed)
    model = model.to(element, memory_format=torch.channels_last)
    return Subject(name, model, lambda model, frame: model(frame))


def _named(name: str, element) -> nn.Module:
    from dataclasses import replace

    from .zoo.families import NETWORKS
    from .zoo.named import build_named

    network = next(network for network in NETWORKS if str(network) == name)
    return build_named(replace(network, dtype=str(element).removeprefix("torch.")))


def measure(
    subject: Subject, size: tuple[int, int], args: argparse.Namespace
) -> tuple[float, dict[float, tuple[float, float, float]], int]:
    """What a user gets.

    Args:
        subject: The model; is not changed.
        size: ``(H, W)`` of the frames in pixels.
        args: The command line.

    Returns:
        Milliseconds of a dense frame; by asked rate the executed rate, and milliseconds in the
        model and in the policy; and how many of the frames programs have run.
    """
    import torch

    import blockcopy_plugins as bc
    from blockcopy_plugins.policy import build_policy
    from blockcopy_plugins.policy.dictated import DictatedPolicy

    from .clock import Clock
    from .conversion import sparse_copy
    from .grids import draw_grid, executed_blocks

    clock = Clock("cpu", args.clock)
    beside = None if args.policy == "none" else build_policy(args.policy)
    policy = DictatedPolicy(beside, clock.mark, clock.between)
    sparse = sparse_copy(subject.model, args.block_size, policy)
    draw = torch.Generator().manual_seed(args.seed + 1)
    dtype = next(subject.model.parameters()).dtype
    # mmcv's RoIAlign takes any map for a contiguous one, so that a model with RoI heads is.
    layout = torch.contiguous_format if subject.is_contiguous else torch.channels_last
    frames = [
        torch.randn(1, 3, *size, generator=draw).to(dtype, memory_format=layout)
        for _ in range(args.frames)
    ]
    grid = -(-size[0] // args.block_size), -(-size[1] // args.block_size)
    blocks = grid[0] * grid[1]
    counts = {rate: executed_blocks(rate, blocks) for rate in args.rates}
    dense: list[float] = []
    in_model: dict[float, list[float]] = {rate: [] for rate in args.rates}
    in_policy: list[float] = []
    recorded, pictures = 0, itertools.cycle(frames)

    def timed(model, frame) -> float:
        start = clock.start()
        subject.call(model, frame)
        return 1e3 * clock.between(start, clock.stop())

    with torch.inference_mode():
        subject.call(subject.model, frames[0])
        for step in range(args.warmup + args.repeats):
            spent = timed(subject.model, frames[step % len(frames)])
            if step >= args.warmup:
                dense.append(spent)
            # Not always in the same order: a policy learns every few frames.
            first = step % len(args.rates)
            for rate in (*args.rates[first:], *args.rates[:first]):
                policy.grid = draw_grid(counts[rate], grid, draw, args.pattern)
                # Another picture than the one before, or all regions of a detector would repeat.
                spent = timed(sparse, next(pictures))
                aside = 1e3 * policy.seconds()
                before, recorded = recorded, bc.report(sparse).recorded
                if step >= args.warmup and recorded == before:
                    in_model[rate].append(spent - aside)
                    in_policy.append(aside)
    of_policy = statistics.fmean(in_policy)
    programs = bc.report(sparse).programs
    replayed = 0 if programs is None else programs.replayed
    if programs is not None and programs.parts is not None:
        replayed += programs.parts.replayed
    sparse_ms = {
        rate: (counts[rate] / blocks, statistics.median(times), of_policy)
        for rate, times in in_model.items()
    }
    return statistics.median(dense), sparse_ms, replayed


def compare(name: str, size: tuple[int, int], dtype: str, args: argparse.Namespace) -> dict:
    """One row: predicted, measured and the ratios."""
    import time

    import torch

    import blockcopy_plugins as bc

    subject = build_subject(name, dtype, args.seed)
    found = None
    if name.startswith(WHOLE):
        from .whole_model import WholeModel

        draw = torch.Generator().manual_seed(args.seed)
        frame = torch.randn(1, 3, *size, generator=draw).to(getattr(torch, dtype))
        found = WholeModel(subject.model).set_threshold(frame, args.detections)
    predicted = bc.estimate(
        subject.model,
        size,
        args.block_size,
        rates=args.rates,
        policy=args.policy,
        call=subject.call,
        budget_s=args.budget,
        clock=time.process_time if args.clock == "cpu" else time.perf_counter,
    )
    dense, sparse, replayed = measure(subject, size, args)
    rows = []
    for expected in predicted.of(args.block_size).rates:
        executed, model_ms, policy_ms = sparse[expected.rate]
        speedup = dense / (model_ms + policy_ms)
        rows.append(
            {
                "rate": expected.rate,
                "executed": executed,
                "predicted_model_ms": expected.model_ms,
                "predicted_policy_ms": expected.policy_ms,
                "predicted_speedup": expected.speedup,
                "model_ms": model_ms,
                "policy_ms": policy_ms,
                "speedup": speedup,
                "sparse_ratio": expected.sparse_ms / (model_ms + policy_ms),
                "speedup_ratio": expected.speedup / speedup,
            }
        )
    return {
        "model": name,
        "size": list(size),
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "block_size": args.block_size,
        "detections": found,
        "estimate_seconds": predicted.seconds,
        "measured_on": [list(s) for s in predicted.of(args.block_size).measured_on],
        "replayed": replayed,
        "predicted_dense_ms": predicted.dense_ms,
        "dense_ms": dense,
        "dense_ratio": predicted.dense_ms / dense,
        "rows": rows,
    }


def main(argv: Sequence[str] | None = None) -> dict:
    """Compare, print and write.

    Returns:
        What goes into the JSON file.
    """
    parser = command.new_parser("estimates", __doc__)
    parser.add_argument(
        "--models",
        type=command.names,
        default=["enet", "mask-rcnn_r50_fpn", "whole:retinanet_r50_fpn"],
        metavar="NAME[@HxW],...",
        help="of benchmarks.networks, openmmlab_networks and zoo.families (timm:resnet50/features),"
        " or configs; each with its own size or --sizes",
    )
    command.add_frames(parser)
    parser.add_argument("--threads", type=command.integers, default=[1], metavar="N,...")
    parser.add_argument("--policy", default=POLICY, help=f"default {POLICY}; 'none' costs nothing")
    parser.add_argument("--pattern", choices=("random", "clustered"), default="random")
    parser.add_argument("--budget", type=float, default=30.0, help="of the estimate, seconds")
    parser.add_argument(
        "--detections", type=int, default=20, help="in a frame of a whole detector (default 20)"
    )
    parser.add_argument("--frames", type=int, default=3, help="different ones, taken in turn")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    command.add_clock(parser)
    parser.add_argument("--json", type=command.json_file, help="file to write")
    args = parser.parse_args(argv)
    allocator = command.prepare_process(args.clock)
    import torch

    from .machine import describe

    settings = command.settings_of(args, "json", "models", "sizes", "dtypes", "threads")
    networks = {}
    if args.json and args.json.exists():
        kept = json.loads(args.json.read_text())["networks"]
        networks = {_key(network): network for network in kept}
    results = {"benchmark": "estimates", "networks": []}
    machines = {}
    for threads in args.threads:
        torch.set_num_threads(threads)
        machines[threads] = describe(allocator)
    for threads, model in itertools.product(args.threads, args.models):
        torch.set_num_threads(threads)
        name, _, own = model.partition("@")
        sizes = command.sizes(own) if own else args.sizes
        for size, dtype in itertools.product(sizes, args.dtypes):
            found = compare(name, size, dtype, args)
            found |= {"machine": machines[threads], "settings": settings}
            networks[_key(found)] = found
            results["networks"] = list(networks.values())
            command.write_json(results, args.json)
            print(_in_a_line(found), flush=True)
    return results


def _key(network: dict) -> tuple:
    keys = ("model", "size", "dtype", "threads", "block_size")
    return tuple(str(network[key]) for key in keys)


def _in_a_line(found: dict) -> str:
    told = ", ".join(
        f"{row['rate']:.1%} {row['sparse_ratio']:.2f} ({row['speedup']:.2f}x: "
        f"{row['speedup_ratio']:.2f})"
        for row in found["rows"]
    )
    height, width = found["size"]
    return (
        f"{found['model']} {height}x{width} {found['dtype']}: dense {found['dense_ms']:.1f} ms "
        f"{found['dense_ratio']:.2f}; {told}; {found['estimate_seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
