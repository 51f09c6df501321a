r"""Two cameras under one budget: what the busy one gains by what the quiet one does not need.

A detector runs on the frames of a clip (the busy camera) and on its first frame again and
again, with the noise of a sensor (the quiet camera). Under a shared executed rate the quiet camera
gives to the busy one; beside it the busy camera alone, at the same rate and at a higher one.

    python -m benchmarks.shared_budget configs/demo/maskrcnn_blockcopy_demo.py \
        --clip vtest.avi:397-597,ann=pets09-s2l1/gt.txt --data-root DATA --json shared_budget.json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from benchmarks.command import (
    json_file,
    new_parser,
    prepare_process,
    rates,
    settings_of,
    write_json,
)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = new_parser("shared_budget", __doc__)
    parser.add_argument("config", help="of a detector of MMDetection")
    parser.add_argument("--weights", help="checkpoint (default: that of the config)")
    parser.add_argument("--clip", required=True, help="as for benchmarks.policies")
    parser.add_argument("--data-root", action="append", default=[], help="folder of the clip")
    parser.add_argument("--policy", default="GainPolicy", help="default: GainPolicy")
    parser.add_argument("--shared", type=rates, default=[0.2], help="shared rates (default 0.2)")
    parser.add_argument(
        "--alone", type=rates, default=[0.2, 0.3], help="of the busy camera alone (0.2,0.3)"
    )
    parser.add_argument(
        "--noise", type=float, default=2.0, help="deviation of the quiet camera's, grey levels"
    )
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--json", type=json_file, required=True, help="file for the figures")
    return parser.parse_args(arguments)


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for the dense network, each shared rate and each rate alone."""
    from benchmarks.policies.network import build_network
    from benchmarks.policies.plan import Model, parse_clip
    from benchmarks.policies.scores import DetectionScores

    clip = parse_clip(args.clip, args.data_root)
    network = build_network(Model("detector", args.config, args.weights))
    frames = network.frames(clip, clip.frames)
    settings = [
        None,
        *(("busy", rate) for rate in args.alone),
        *(("busy and quiet", rate) for rate in args.shared),
    ]
    rows, dense = [], None
    for setting in settings:
        found, truth, rates_ = _run(network, frames, setting, args)
        dense = found if dense is None else dense
        scores = DetectionScores(dense)
        for answer, its in zip(found, truth, strict=True):
            scores.add(answer, its)
        cameras, asked = setting or ("busy", 1.0)
        row = {"cameras": cameras, "asked_rate": asked, **scores.figures(slice(0, len(found)))}
        # Without the first frames, which are executed fully and not counted.
        shares = {camera: fmean(values[1:]) for camera, values in rates_.items() if values}
        rows.append({**row, "rates": shares, "rate": fmean(shares.values()) if shares else 1.0})
    return rows


def _run(network, frames, setting: tuple[str, float] | None, args):
    """Run the cameras in turn: the busy one's answers and truths, what each has executed."""
    import torch
    from tqdm import tqdm

    import blockcopy_plugins as bc

    noise = torch.Generator().manual_seed(0)
    found, truth = [], []
    executed: dict[str, list[float]] = {"busy": [], "quiet": []}
    if setting is not None:
        policy = dict(type=args.policy, target=setting[1])
        config = bc.BlockCopyConfig(block_size=network.block_size, policy=policy)
        bc.blockcopy_(network.module, config, network.adapter)
    quiet = None
    try:
        for frame in tqdm(frames, desc=str(setting or "dense"), leave=False, disable=None):
            for camera in ("busy", "quiet"):
                if camera == "quiet":
                    if setting is None or "quiet" not in setting[0]:
                        continue
                    quiet = frame if quiet is None else quiet
                    shown = _with_noise(quiet, args.noise, noise)
                else:
                    shown = frame
                with torch.inference_mode():
                    if setting is None:
                        answer = network.run(shown)
                    else:
                        with bc.streams(network.module, [camera]):
                            answer = network.run(shown)
                        executed[camera].append(bc.handle(network.module).last.executed_rate)
                if camera == "busy":
                    found.append(answer)
                    truth.append(network.truth(frame))
    finally:
        if setting is not None:
            bc.restore_(network.module)
    return found, truth, executed


def _with_noise(frame: dict[str, Any], deviation: float, draw) -> dict[str, Any]:
    """The same picture with the noise of another moment."""
    import torch

    (picture,) = frame["inputs"]
    noise = torch.randn(picture.shape, generator=draw) * deviation
    noisy = (picture + noise).round_().clamp_(0, 255).to(picture.dtype)
    return {**frame, "inputs": [noisy]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    args = parse_args(arguments)
    allocator = prepare_process()
    import torch

    from benchmarks.machine import describe

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    rows = measure(args)
    for row in rows:
        shares = ", ".join(f"{camera} {rate:.3f}" for camera, rate in row["rates"].items())
        name = "AP50" if "AP50" in row else "fidelity_AP50"
        print(f"{row['cameras']:15} {row['asked_rate']:.2f}: {name} {row[name]:.3f}, {shares}")
    results = {
        "benchmark": "shared_budget",
        "machine": describe(allocator),
        "settings": settings_of(args, "json", "data_root"),
        "rows": rows,
    }
    write_json(results, args.json)


if __name__ == "__main__":
    main()
