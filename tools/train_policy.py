#!/usr/bin/env python
r"""Train a policy online on video, without labels; the model's weights do not change.

    python tools/train_policy.py configs/maskrcnn_blockcopy.py --checkpoint mask_rcnn.pth \
        --video street.mp4 --epochs 2

Without --video, it uses the clips of the config's policy_warm_up, or else the config's own videos:

    python tools/train_policy.py configs/csp_blockcopy.py --checkpoint csp.pth

The config is one of MMDetection, MMSegmentation or Detectron2 (YAML or lazy).

It writes to WORK_DIR: policy.pth (the policy alone, after each epoch and every --save-interval
frames), policy_curve.png and policy_log.json (executed rate, information gain, reward and loss over
the frames), and MMEngine's log. Use the policy with

or with policy_checkpoint='.../policy.pth' in the config's BlockCopyHook. A policy also learns while
tools/test_video.py runs; training gives it a better start.
"""

from __future__ import annotations

import argparse
import sys

from _cli import (
    add_clip_options,
    add_config_options,
    add_policy_options,
    add_video_options,
    run,
    tools_of,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file of a detector or segmentor")
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="the model's weights, a file or URL; default: the config's load_from",
    )
    add_video_options(parser)
    add_clip_options(parser, "use this many clips of the config's policy_warm_up")
    parser.add_argument("--epochs", type=int, help="how often to run the videos (default 1)")
    add_policy_options(parser, checkpoint="--resume-policy")
    parser.add_argument(
        "--work-dir",
        metavar="DIR",
        help="folder for everything that is written (default work_dirs/NAME OF CONFIG_policy)",
    )
    parser.add_argument(
        "--log-interval", type=int, default=50, metavar="N", help="frames between two log lines"
    )
    parser.add_argument(
        "--save-interval",
        type=int,
        default=500,
        metavar="N",
        help="frames between two saves of policy.pth within an epoch (default 500, 0: none)",
    )
    add_config_options(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    tools_of(args.config).train_policy(args)


if __name__ == "__main__":
    arguments = parse_args()
    sys.exit(run(main, arguments))
