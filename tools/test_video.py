#!/usr/bin/env python
r"""Run a detector or segmentor on video, each frame dense and block-sparse, and compare the two.

    python tools/test_video.py configs/maskrcnn_blockcopy.py mask_rcnn.pth --video street.mp4
    python tools/test_video.py configs/deeplabv3plus_blockcopy.py --video street/ --ann labels/

Any detection config of MMDetection and any segmentation config of MMSegmentation works: its test
pipeline loads the frames, and if it has no BlockCopyHook, one with the defaults is added. A
Detectron2 config, YAML or lazy, works too; its options are also given by --cfg-options KEY=VALUE.

A tracker of MMDetection is tested on the config's own dataset, by the config's own metrics (MOTA,
IDF1, HOTA, AP of videos), without --video.

A config that brings its own clips needs no --video. With a key policy_warm_up, the policy first
learns on other clips, without labels (it is kept as WORK_DIR/warm_up/policy.pth), and is then
evaluated; this is the paper's protocol in one command:

    python tools/test_video.py configs/csp_blockcopy.py csp.pth --data-root data/cityscapes
    python tools/test_video.py configs/csp_blockcopy.py csp.pth --warm-up-clips 20 --clips 10

It writes results.json (see below), one line of figures per frame beside it, a plot of the executed
rate over the frames, and with --show-dir a video with results and executed blocks.

However the run ends (Ctrl-C, SIGTERM, an error), the videos and results.json contain what was done
by then, and "partial" says why that is not everything. Frames that cannot be read are skipped, keep
their numbers, and are listed as "skipped_frames"; annotations that cannot be used are counted by
reason under "annotations".

results.json contains, among others: executed_rate (mean over all frames; the first frame of each
video is executed fully and counts), macs_dense and macs_blockcopy (per frame, without the policy's
own macs_policy), ms_dense and ms_blockcopy (mean of the same timed frames, policy included),
speedup (their ratio), metrics (with ground truth: COCO AP, or mIoU and accuracies, from 0 to 1),
fidelity (AP of the block-sparse detections with the dense ones of score >= 0.3 as ground truth; for
a segmentor, mIoU and the share of equal pixels, aAcc, with the dense labels as ground truth),
policy_warm_up (clips and frames that the policy learned on first), policy_over_videos (carried from
one video to the next, or restarted), guards (what each had run or kept from running, in blocks of
all frames except the videos' first ones), propagation (how many frames' outputs were copied, moved
or given again without the network, and how well moved and copied ones agreed with whole frames),
dense_ops (ops that could not run on blocks).

Label images for a segmentor (--ann, a folder) hold one class index per pixel. They are named like
their frames, except for the suffixes of the config's dataset; for a video file, their names end in
the number of the frame, from 0. Not every frame needs one. reduce_zero_label and ignore_index are
taken from the config.

Several clips in several processes, with the same metrics:

    torchrun --nproc-per-node 2 tools/test_video.py CONFIG CHECKPOINT --video a.mp4 b.mp4 \
        --launcher pytorch
"""

from __future__ import annotations

import argparse
import sys

from _cli import (
    add_annotation_options,
    add_clip_options,
    add_config_options,
    add_policy_options,
    add_video_options,
    check_score,
    run,
    tools_of,
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file of a detector or segmentor")
    parser.add_argument(
        "checkpoint",
        nargs="?",
        help="the model's weights, a file or URL; default: the config's load_from",
    )
    add_video_options(parser)
    add_annotation_options(parser)
    add_clip_options(parser, "evaluate on this many of the config's own clips")
    add_policy_options(parser)
    parser.add_argument(
        "--warm-up-clips",
        type=int,
        metavar="N",
        help="let the policy learn on this many clips of the config's policy_warm_up first, 0 for "
        "none. Default: as the config says; none with --video or --policy-checkpoint",
    )
    parser.add_argument(
        "--dense-too",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also run each frame dense, for fidelity and speed-up (default). Without it fidelity, "
        "ms_dense and speedup are null",
    )
    parser.add_argument(
        "--carry-policy",
        action=argparse.BooleanOptionalAction,
        help="carry what the policy learns from one video over to the next, as in the paper; with "
        "--no-carry-policy each video starts with the policy as loaded, so that results depend "
        "neither on the order of the videos nor on the number of processes. Default: as the "
        "config's test_cfg says, else not",
    )
    parser.add_argument(
        "--temporal-consistency",
        action=argparse.BooleanOptionalAction,
        help="for segmentors, also compute how consistent labels are from frame to frame (default: "
        "as the config's test_cfg says, else yes)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="where to write the results (default WORK_DIR/results.json)",
    )
    parser.add_argument(
        "--show-dir", metavar="DIR", help="also write videos with results and executed blocks here"
    )
    parser.add_argument(
        "--show-score", type=float, default=0.3, help="lowest score that is drawn (default 0.3)"
    )
    parser.add_argument(
        "--work-dir", metavar="DIR", help="for MMEngine's logs (default work_dirs/NAME OF CONFIG)"
    )
    parser.add_argument(
        "--launcher",
        choices=("none", "pytorch"),
        default="none",
        help="pytorch: the processes were started by torchrun; each takes whole videos",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    add_config_options(parser)
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    check_score("--show-score", args.show_score)
    tools_of(args.config).test_video(args)


if __name__ == "__main__":
    arguments = parse_args()
    sys.exit(run(main, arguments))
