"""``python -m benchmarks.policies``: see the package."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import integers, json_file, new_parser, prepare_process, rates


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from benchmarks.policies import __doc__ as about

    parser = new_parser("policies", about)
    parser.add_argument(
        "--clip",
        action="append",
        default=[],
        help="[NAME=]PATH[:FROM-TO][,ann=PATH][,warm_up=FROM-TO][,ignore_label=N]: video file or "
        "folder of frames, and a COCO json, MOT gt.txt or folder of label images; may be repeated",
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        help="[NAME=]SOURCE[,weights=PATH][,block_size=N][,OPTION=VALUE...]: a config of "
        "MMDetection or MMSegmentation, or file.py:factory or package.module:factory (see "
        "benchmarks/policies/torch_network.py); may be repeated",
    )
    parser.add_argument("--plan", help="YAML file with clips and models, and perhaps policies")
    parser.add_argument(
        "--data-root",
        action="append",
        default=[],
        help="folder that clips, ground truth and weights are looked for in; may be repeated",
    )
    parser.add_argument(
        "--policies",
        nargs="+",
        help="names, or \"dict(type='GainPolicy', per_frame=True)\"; default: all that can be told "
        "a rate, oracle, and 'oracle with neighbours'",
    )
    parser.add_argument(
        "--propagate",
        nargs="+",
        choices=("copy", "move", "auto"),
        default=["copy"],
        help="what becomes of the outputs of blocks that did not run; each policy runs with each "
        "(default copy)",
    )
    parser.add_argument("--motion", help="where the motion comes from, as for tools/test_video.py")
    parser.add_argument("--targets", type=rates, help="rates (default 0.1,0.2,0.3,0.5,0.7)")
    parser.add_argument("--periods", type=integers, help="of every n-th frame (default 10,5,3,2)")
    parser.add_argument("--frames", type=int, help="frames of each clip at most")
    parser.add_argument("--block-size", type=int, help="in pixels, for all models")
    parser.add_argument(
        "--epochs", type=int, default=1, help="passes over a clip's warm_up frames (default 1)"
    )
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--json", type=json_file, required=True, help="file for the figures")
    parser.add_argument("--resume", action="store_true", help="go on with the file's runs")
    parser.add_argument("--pictures", help="folder for the pictures")
    args = parser.parse_args(arguments)
    for name in ("frames", "block_size", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} {value}: expected at least 1")
    if args.epochs < 0:
        parser.error(f"--epochs {args.epochs}: expected at least 0")
    return args


def plan_of(args: argparse.Namespace):
    """The plan of a command line: that of the plan file, with what else is named.

    Args:
        args: Of :func:`parse_args`.
    """
    from blockcopy_plugins.policy.policy_text import parse_text

    from .plan import Plan, parse_clip, parse_model, read_plan
    from .sweep import ORACLES

    found = read_plan(args.plan, args.data_root) if args.plan else {}
    found["clips"] = (
        *found.get("clips", ()),
        *(parse_clip(text, args.data_root) for text in args.clip),
    )
    found["models"] = (
        *found.get("models", ()),
        *(parse_model(text, args.data_root) for text in args.model),
    )
    for key in ("targets", "periods"):
        if getattr(args, key) is not None:
            found[key] = tuple(getattr(args, key))
    if args.policies is not None:
        found["policies"] = tuple(
            text if text in ORACLES else parse_text(text, "policy") for text in args.policies
        )
    motion = None if args.motion is None else parse_text(args.motion, "motion")
    return Plan(**found, propagate=tuple(dict.fromkeys(args.propagate)), motion=motion)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write, draw, print."""
    args = parse_args(arguments)
    allocator = prepare_process()
    import torch

    from benchmarks.machine import describe
    from blockcopy_plugins.errors import BlockCopyError

    from .experiment import measure
    from .pictures import draw
    from .report import ReportFile
    from .tables import policies_tables

    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        plan = plan_of(args)
        report = ReportFile(args.json, describe(allocator), args.resume)
        measure(plan, report, args.frames, args.block_size, args.epochs)
    except BlockCopyError as error:
        sys.exit(f"error: {error}")
    print(policies_tables(report.content))
    if args.pictures:
        for path in draw(report.content, Path(args.pictures)):
            print(path)


if __name__ == "__main__":
    main()
