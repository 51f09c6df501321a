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
from pathlib import Path

from _cli import (
    add_clip_options,
    add_config_options,
    add_policy_options,
    add_video_options,
    import_quietly,
    options_of,
    quiet,
    read_files,
    run,
    train_outputs,
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
    from blockcopy_plugins.integrations.config_kind import is_detectron2_config

    if is_detectron2_config(args.config):
        import _detectron2

        _detectron2.train_policy(args)
        return
    quiet(args.verbose)
    from _policy_training import train

    from blockcopy_plugins.errors import ConfigError
    from blockcopy_plugins.file_protection import check_outputs
    from blockcopy_plugins.integrations.mmengine import video_config, video_dataloader

    config = video_config.read_config(args.config, args.cfg_options)
    if not args.verbose:
        import_quietly(config.get("default_scope", "mmdet"))
    if not video_config.has_hook(config):
        print(
            "note: the config has no BlockCopyHook; added one with block_size=128 and "
            "GainPolicy(target=0.3)",
            file=sys.stderr,
        )
    video_config.set_options(config, **options_of(args))
    if args.data_root:
        video_dataloader.set_data_root(config, args.data_root)
    own_clips = not args.video and config.get("policy_warm_up")
    if own_clips:
        if args.clips == 0 or args.start or args.frames is not None:
            raise ConfigError(
                "--start and --frames need --video, and --clips must be at least 1; which frames a "
                "clip of policy_warm_up has is set by its dataset's clip=(first, last)."
            )
        loader = video_dataloader.warm_up_dataloader(config, args.clips)
    else:
        loader = video_dataloader.video_dataloader(
            config,
            args.video,
            start=args.start,
            frames=args.frames,
            shuffle=True,
            clips=args.clips,
            strict_frames=args.strict_frames,
        )
    epochs = args.epochs
    if epochs is None:
        epochs = video_dataloader.warm_up_epochs(config) if own_clips else 1
    checkpoint = video_config.set_weights(config, args.checkpoint)
    work_dir = Path(args.work_dir or Path("work_dirs") / f"{Path(args.config).stem}_policy")
    check_outputs(
        [
            *read_files(args, checkpoint, resumes=True),
            *video_config.files_in(config, resumes=True),
            *(("the video", path) for path in video_dataloader.files_of(loader)[0]),
        ],
        [
            *train_outputs(work_dir),
            ("MMEngine's copy of the config", work_dir / Path(args.config).name),
        ],
    )
    config.work_dir = str(work_dir)
    done = train(
        config, loader, epochs, args.verbose, args.log_interval, args.save_interval, args.stop
    )
    for path in done.files:
        print(f"wrote {path}")
    print(f"use it with --policy-checkpoint {done.policy}")


if __name__ == "__main__":
    arguments = parse_args()
    sys.exit(run(main, arguments))
