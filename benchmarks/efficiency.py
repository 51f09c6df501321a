"""Sparse efficiency E = (dense time / sparse time) x executed rate.

``python -m benchmarks.efficiency --json results.json --plot speedup.png``

Dense and sparse frames alternate in one process, with the same weights, threads and dtype; medians
are compared. Dense is torch at its best: batch norm folded, channels last or not, whichever is
faster, inference mode, an allocator that keeps its pages. The time of a sparse frame has the policy
in it, its updates included. With --peers other engines run the same dense part in the same loop,
and the speed-up against the fastest of all is told too. The outputs are compared with the dense
model and the masked reference first. Nothing here is a test: the figures are those of the machine
and of the hour.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from . import command
from .efficiency_contest import Contest
from .efficiency_figures import PEERS, Setting
from .efficiency_report import print_tables, save_plot

# torch comes later: the allocator and OpenMP's settings must be in place before it.


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command.new_parser("efficiency", __doc__)
    parser.add_argument(
        "--models",
        type=command.names,
        default=["mask-rcnn_r50_fpn"],
        help="csp_r50, mgan_vgg16, swiftnet_r18, swiftnet_r50 (of configs/_base_/models), "
        "configs of MMDetection and MMSegmentation: mask-rcnn_r50_fpn (default), "
        "deeplabv3plus_r50, retinanet_r50_fpn, or paths of others",
    )
    parser.add_argument(
        "--sizes", type=command.sizes, default=[(1024, 2048)], metavar="HxW,...", help="of frames"
    )
    parser.add_argument(
        "--block-sizes", type=command.integers, default=[128], metavar="PX,...", help="of blocks"
    )
    parser.add_argument(
        "--rates",
        type=command.rates,
        default=[1.0, 0.5, 0.25, 0.125],
        help="executed rates (default 1,0.5,0.25,0.125)",
    )
    parser.add_argument(
        "--dtypes",
        type=command.dtypes,
        default=["float32", "bfloat16"],
        help="of weights and frames: float32, bfloat16, float16 (default the first two)",
    )
    parser.add_argument(
        "--devices", type=command.devices, default=["cpu"], help="cpu, cuda (default cpu)"
    )
    parser.add_argument(
        "--threads", type=command.integers, default=[os.cpu_count()], help="default all cores"
    )
    parser.add_argument(
        "--peers",
        type=command.names,
        default=[],
        help=f"other dense engines beside torch: {','.join(PEERS)} "
        "(pip install 'blockcopy_plugins[peers]'; torch.compile needs a C++ compiler). One that "
        "is not there or fails is reported with the reason",
    )
    parser.add_argument(
        "--calibration-clip",
        metavar="FILE",
        help="video whose frames openvino-int8 is quantised with (default the demo clip)",
    )
    parser.add_argument(
        "--calibration-frames",
        type=int,
        default=24,
        metavar="N",
        help="how many, from all over the clip; one more is compared (default 24)",
    )
    parser.add_argument(
        "--whole-detector",
        action="store_true",
        help="measure the whole model too, with RoI heads and post-processing",
    )
    parser.add_argument(
        "--detections",
        type=int,
        default=20,
        help="detections in a frame of the whole detector: its score threshold is set so "
        "(default 20)",
    )
    parser.add_argument(
        "--cuda-graphs",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="switch CUDA graphs on or off, where this version has them (default: as it does)",
    )
    parser.add_argument(
        "--pattern",
        choices=("random", "clustered"),
        default="random",
        help="executed blocks: each alike, or those around a random point (default random)",
    )
    parser.add_argument(
        "--policy",
        choices=("GainPolicy", "RLPolicy"),
        default="GainPolicy",
        help="the one that works beside the dictated blocks (default GainPolicy, the package's "
        "default; RLPolicy is the paper's)",
    )
    parser.add_argument("--repeats", type=int, default=12, help="rounds that count (default 12)")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them (default 2)")
    parser.add_argument(
        "--frames", type=int, default=3, help="different frames, taken in turn (default 3)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare the outputs with the masked reference first (default yes)",
    )
    command.add_clock(parser)
    parser.add_argument("--json", type=command.json_file, help="file to write")
    parser.add_argument("--plot", help="PNG to write")
    args = parser.parse_args(argv)
    unknown = set(args.peers) - set(PEERS)
    if unknown:
        parser.error(
            f"--peers: {', '.join(sorted(unknown))} unknown; expected some of {','.join(PEERS)}"
        )
    if args.calibration_frames < 1:
        parser.error(f"--calibration-frames {args.calibration_frames}: expected at least 1")
    if args.plot and Path(args.plot).suffix.lower() != ".png":
        parser.error(f"--plot {args.plot}: expected a file that ends in .png")
    return args


def main(argv: Sequence[str] | None = None) -> dict:
    """Measure, print and write.

    Returns:
        What goes into the JSON file.
    """
    args = parse_arguments(argv)
    command.need_matplotlib(args.plot)
    allocator = command.prepare_process(args.clock)
    import torch

    torch.set_num_threads(args.threads[0])
    # The best dense setting on a GPU; frames have one size.
    torch.backends.cudnn.benchmark = True
    from .check import check
    from .machine import describe
    from .quantised import CLIP, Quantiser

    quantiser = Quantiser(args.calibration_clip or CLIP, args.calibration_frames)
    there, absent = command.usable_devices(args.devices)
    results = {
        "benchmark": "efficiency",
        "machine": describe(allocator, there),
        "settings": command.settings_of(args, "json", "plot", "check"),
        "absent": absent,
        "checks": [],
        "rows": [],
        "peers": [],
        "whole": [],
    }
    if args.check:
        for model, device in itertools.product(args.models, there):
            results["checks"].append(check(model, min(args.block_sizes), device, args.seed))
    for device, threads, model, size, dtype in itertools.product(
        there, args.threads, args.models, args.sizes, args.dtypes
    ):
        setting = Setting(model, size, dtype, device, threads)
        contest = Contest(setting, args, quantiser)
        with command.progress(contest.steps(), str(setting)) as bar:
            rows, peers = contest.part(bar)
            results["rows"] += rows
            results["peers"] += peers
            if args.whole_detector:
                results["whole"] += contest.whole(rows, bar)
        del contest  # its models and state, before the next ones are made
        command.write_json(results, args.json)  # what is measured is kept if the rest fails
    results["machine"]["load_1min_end"] = round(os.getloadavg()[0], 2)
    print_tables(results)
    command.write_json(results, args.json)
    if args.plot:
        save_plot(results, args.plot)
    return results


if __name__ == "__main__":
    main()
