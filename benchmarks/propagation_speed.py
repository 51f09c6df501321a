r"""What a frame costs whose outputs are copied, moved, or moved where the picture moves.

A network runs over the same frames dense, and with every n-th frame executed as a whole, in turn
and in one process, several times. The figures are CPU times of the whole call, policy, motion and
check included: medians of whole frames and of those between them, and the mean that follows.

    python -m benchmarks.propagation_speed --network light_segmentor --size 360x480 \
        --clip pan_camel=clips/pan_camel --data-root DATA --json propagation_speed.json
    python -m benchmarks.propagation_speed --config configs/demo/maskrcnn_blockcopy_demo.py \
        --clip vtest=vtest.avi:397-427 --data-root DATA --json propagation_speed.json --add
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from math import ceil, lcm
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.command import (
    integers,
    json_file,
    new_parser,
    prepare_process,
    settings_of,
    sizes,
    write_json,
)
from benchmarks.markdown import table

# Frames of each run that do not count: kernels, weights and the two ways of whole frames are tried.
_FIRST = 2
# Whole frames after which the faster way to run them is known.
_TRIED = 12


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = new_parser("propagation_speed", __doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--network", help="of benchmarks.networks, with random weights")
    what.add_argument("--config", help="as for benchmarks.policies")
    parser.add_argument("--weights", help="checkpoint of the config (default: its own)")
    parser.add_argument("--size", type=sizes, default="360x480", help="of the network's input")
    parser.add_argument("--clip", required=True, help="as for benchmarks.policies")
    parser.add_argument("--data-root", action="append", default=[], help="folder of the clip")
    parser.add_argument("--block-size", type=int, default=64, help="px (default 64)")
    parser.add_argument("--periods", type=integers, default=[3, 5], help="frames (default 3,5)")
    parser.add_argument("--frames", type=int, default=31, help="of the clip (default 31)")
    parser.add_argument("--rounds", type=int, default=3, help="of all ways in turn (default 3)")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--json", type=json_file, required=True, help="file for the figures")
    parser.add_argument("--add", action="store_true", help="add to what is in the file")
    return parser.parse_args(arguments)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of a network on a clip."""
    from tqdm import tqdm

    module, calls, name = _calls(args)
    # The clip is shown again and again as one stream: each round begins with a whole frame.
    calls = calls[: len(calls) // lcm(*args.periods) * lcm(*args.periods)]
    if not calls:
        raise SystemExit(f"--frames {args.frames} are fewer than {lcm(*args.periods)}")
    ways = [(n, way) for n in args.periods for way in ("copy", "move", "auto")]
    dense: list[float] = []
    whole: dict[tuple[int, str], list[float]] = {way: [] for way in ways}
    between: dict[tuple[int, str], list[float]] = {way: [] for way in ways}
    moved: dict[tuple[int, str], int] = {}
    for _ in tqdm(range(args.rounds), desc=name, unit="round", disable=None):
        dense += _times(calls)[_FIRST:]
        for n, way in ways:
            seconds, moved[n, way] = _converted(module, calls, args.block_size, n, way)
            for index, value in enumerate(seconds):
                if index >= _FIRST:
                    (between if index % n else whole)[n, way].append(value)
    dense_ms = 1e3 * median(dense)
    rows = []
    for n, way in ways:
        its = 1e3 * median(whole[n, way]), 1e3 * median(between[n, way])
        mean = (its[0] + (n - 1) * its[1]) / n
        rows.append(
            {
                "period": n,
                "propagate": way,
                "whole_ms": its[0],
                "between_ms": its[1],
                "mean_ms": mean,
                "speedup": dense_ms / mean,
                "moved_frames": moved[n, way],
            }
        )
    clip = args.clip.partition("=")[0]
    return {"network": name, "clip": clip, "dense_ms": dense_ms, "rows": rows}


def propagation_speed_table(report: Mapping[str, Any]) -> str:
    """CPU time of a frame whose outputs are copied or moved, and how much faster than dense.

    Args:
        report: Of the JSON file.
    """
    head = ["network, clip", "dense ms", "every", "outputs", "whole ms", "between ms", "mean ms"]
    rows = []
    for result in report["results"]:
        for row in result["rows"]:
            rows.append(
                [
                    f"{result['network']}, {result['clip']}",
                    f"{result['dense_ms']:.1f}",
                    str(row["period"]),
                    row["propagate"],
                    *(f"{row[key]:.1f}" for key in ("whole_ms", "between_ms", "mean_ms")),
                    f"**{row['speedup']:.2f}×**",
                ]
            )
    return table([*head, "speed-up"], rows)


def _converted(module, calls, block_size: int, n: int, way: str) -> tuple[list[float], int]:
    import blockcopy_plugins as bc

    policy = dict(type="EveryNthFramePolicy", n=n)
    bc.blockcopy_(module, bc.BlockCopyConfig(block_size, policy, propagate=way))
    try:
        # Which way of whole frames is faster is found out before the clock runs.
        for _ in range(max(2, ceil(_TRIED * n / len(calls)))):
            _times(calls)
        before = bc.report(module).propagation.moved
        seconds = _times(calls)
        return seconds, bc.report(module).propagation.moved - before
    finally:
        bc.restore_(module)


def _times(calls: Sequence[Callable[[], Any]]) -> list[float]:
    seconds = []
    for call in calls:
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return seconds


def _calls(args: argparse.Namespace) -> tuple[Any, list[Callable[[], Any]], str]:
    """The module, a call for each frame, and the network's name."""
    import cv2
    import torch

    from benchmarks.networks import build
    from benchmarks.policies.network import build_network
    from benchmarks.policies.plan import Model, parse_clip
    from blockcopy_plugins.datasets import open_frames

    clip = parse_clip(args.clip, args.data_root)
    if args.config:
        network = build_network(Model("network", args.config, args.weights))
        start = clip.frames[0]
        frames = list(network.frames(clip, (start, start + args.frames)))

        def call(frame):
            with torch.inference_mode():
                return network.run(frame)

        calls = [lambda frame=frame: call(frame) for frame in frames]
        return network.module, calls, Path(args.config).stem
    module = build(args.network)
    (size,) = args.size
    source = open_frames(clip.path)
    inputs = []
    for picture in source.frames(clip.frames[0], source.count(clip.frames[0] + args.frames)):
        pixels = torch.from_numpy(cv2.resize(picture, size[::-1])).permute(2, 0, 1)[None].float()
        inputs.append(((pixels - pixels.mean()) / pixels.std()).contiguous())

    def run(pixels):
        with torch.inference_mode():
            return module(pixels)

    return module, [lambda pixels=pixels: run(pixels) for pixels in inputs], args.network


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, print."""
    args = parse_args(arguments)
    allocator = prepare_process("cpu")
    import torch

    from benchmarks.machine import describe

    if args.threads:
        torch.set_num_threads(args.threads)
    machine = describe(allocator)
    found = measure(args)
    known = args.add and args.json.exists()
    results = json.loads(args.json.read_text())["results"] if known else []
    same = (found["network"], found["clip"])
    results = [r for r in results if (r["network"], r["clip"]) != same]
    settings = settings_of(args, "json", "data_root", "add")
    content = {
        "benchmark": "propagation_speed",
        "machine": machine,
        "results": [*results, {**found, "settings": settings}],
    }
    write_json(content, args.json)
    print(f"dense {found['dense_ms']:.1f} ms")
    for row in found["rows"]:
        print(
            f"every {row['period']}, {row['propagate']}: {row['mean_ms']:.1f} ms "
            f"({row['whole_ms']:.1f} whole, {row['between_ms']:.1f} between), "
            f"{row['speedup']:.2f}x"
        )


if __name__ == "__main__":
    main()
