"""Light networks: dense and block-sparse frames in turn, by CPU time, without a policy.

``python -m benchmarks.light --models enet,erfnet,yolox_nano@416x416 --json light.json``

The grid is dictated, so that the times are of the model alone. Dense is torch in the faster memory
layout, batch norms folded into the convolutions before them (for both sides), in inference mode.
Networks of MMDetection and MMSegmentation are as these libraries run them.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import statistics
from collections.abc import Sequence

from . import command

# torch comes later: the allocator and OpenMP's settings must be in place before it.


def folded(net):
    """A copy of a network with batch norms folded into the convolutions before them."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    net = copy.deepcopy(net)
    for parent in net.modules():
        if not isinstance(parent, nn.Sequential):
            continue
        names = list(parent._modules)
        for first, second in zip(names, names[1:], strict=False):
            conv, norm = parent._modules[first], parent._modules[second]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parent._modules[first] = fuse_conv_bn_eval(conv, norm)
                parent._modules[second] = nn.Identity()
    return net.eval()


def measure(name: str, size: tuple[int, int], dtype: str, args: argparse.Namespace) -> dict:
    """Medians of one network at one size and in one dtype."""
    import torch

    import blockcopy_plugins as bc
    from blockcopy_plugins.policy.dictated import DictatedPolicy

    from .clock import Clock
    from .grids import draw_grid, executed_blocks
    from .networks import build
    from .openmmlab_networks import OPENMMLAB, build_openmmlab

    clock, block, element = Clock("cpu", args.clock), args.block_size, getattr(torch, dtype)
    make = build_openmmlab if name in OPENMMLAB else build
    net = make(name, seed=args.seed)
    net = net if name in OPENMMLAB else folded(net)
    net = net.to(element, memory_format=torch.channels_last)
    layouts = {
        "channels_last": torch.channels_last,
        "contiguous": torch.contiguous_format,
    }
    dense = {key: copy.deepcopy(net).to(memory_format=layouts[key]) for key in layouts}
    policy = DictatedPolicy()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=block, policy=policy, programs=args.programs))
    draw = torch.Generator().manual_seed(args.seed)
    frames = [
        torch.randn(1, 3, *size, generator=draw).to(element, memory_format=torch.channels_last)
        for _ in range(3)
    ]
    grid = -(-size[0] // block), -(-size[1] // block)
    blocks = grid[0] * grid[1]
    times: dict[object, list[float]] = {}

    def timed(key, model, frame) -> None:
        start = clock.start()
        model(frame)
        times.setdefault(key, []).append(1e3 * clock.between(start, clock.stop()))

    with torch.inference_mode():
        policy.grid = torch.ones(1, *grid, dtype=torch.bool)
        net(frames[0])
        for step in range(args.warmup + args.repeats):
            if step == args.warmup:
                times.clear()
            frame = frames[step % 3]
            for key, model in dense.items():
                timed(key, model, frame.contiguous(memory_format=layouts[key]))
            for rate in args.rates:
                policy.grid = draw_grid(executed_blocks(rate, blocks), grid, draw)
                timed(rate, net, frame)
    medians = {key: statistics.median(found) for key, found in times.items()}
    layout = min(dense, key=medians.get)
    rows = []
    for rate in args.rates:
        executed = executed_blocks(rate, blocks) / blocks
        rows.append(
            {
                "rate": executed,
                "sparse_ms": medians[rate],
                "efficiency": medians[layout] / medians[rate] * executed,
            }
        )
    programs = bc.report(net).programs
    return {
        "model": name,
        "size": list(size),
        "dtype": dtype,
        "block_size": block,
        "dense_layout": layout,
        "dense_ms": medians[layout],
        "replayed": 0 if programs is None else programs.replayed,
        "rows": rows,
    }


def main(argv: Sequence[str] | None = None) -> dict:
    """Measure, print and write.

    Returns:
        What goes into the JSON file.
    """
    parser = command.new_parser("light", __doc__)
    parser.add_argument(
        "--models",
        type=command.names,
        default=["enet", "erfnet", "cgnet"],
        metavar="NAME[@HxW],...",
        help="of benchmarks.networks and openmmlab_networks, each with its own size or --sizes",
    )
    command.add_frames(parser)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--programs", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    command.add_clock(parser)
    parser.add_argument("--json", type=command.json_file, help="file to write")
    args = parser.parse_args(argv)
    allocator = command.prepare_process(args.clock)
    import torch

    from .machine import describe

    torch.set_num_threads(args.threads)
    results = {
        "benchmark": "light",
        "machine": describe(allocator),
        "settings": command.settings_of(args, "json"),
        "networks": [],
    }
    for model in args.models:
        name, _, own = model.partition("@")
        sizes = command.sizes(own) if own else args.sizes
        for size, dtype in itertools.product(sizes, args.dtypes):
            found = measure(name, size, dtype, args)
            results["networks"].append(found)
            command.write_json(results, args.json)
            told = ", ".join(
                f"{row['rate']:.1%} {row['sparse_ms']:.1f} ms (E {row['efficiency']:.2f})"
                for row in found["rows"]
            )
            print(f"{name} {size[0]}x{size[1]} {dtype}: dense {found['dense_ms']:.1f} ms; {told}")
    return results


if __name__ == "__main__":
    main()
