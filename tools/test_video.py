#!/usr/bin/env python
r"""Run a detector or segmentor on video, each frame dense and block-sparse, and compare the two.

    python tools/test_video.py configs/maskrcnn_blockcopy.py mask_rcnn.pth --video street.mp4
    python tools/test_video.py configs/deeplabv3plus_blockcopy.py --video street/ --ann labels/

Any detection config of MMDetection and any segmentation config of MMSegmentation works: its test
pipeline loads the frames, and if it has no BlockCopyHook, one with the defaults is added. A
Detectron2 config, YAML or lazy, works too; its options are also given by --cfg-options KEY=VALUE.

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
import copy
import gc
import json
import sys
from pathlib import Path

from _cli import (
    add_annotation_options,
    add_clip_options,
    add_config_options,
    add_policy_options,
    add_video_options,
    downloads,
    import_quietly,
    keep_part,
    leave_process_group,
    make_runner,
    options_of,
    quiet,
    read_files,
    run,
    say_what_was_left_out,
    test_outputs,
)

_OF_TRUTH = " (ground truth)"


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
    from blockcopy_plugins.integrations.config_kind import is_detectron2_config

    if is_detectron2_config(args.config):
        import _detectron2

        _detectron2.test_video(args, _write, _table)
        return
    quiet(args.verbose)
    from blockcopy_plugins.errors import ConfigError
    from blockcopy_plugins.file_protection import check_outputs
    from blockcopy_plugins.integrations.mmengine import video_config, video_dataloader
    from blockcopy_plugins.integrations.mmengine.video_hook import OVERLAY_ENDING

    config = video_config.read_config(args.config, args.cfg_options)
    if not args.verbose:
        import_quietly(config.get("default_scope", "mmdet"))
    notes = []
    if not video_config.has_hook(config):
        notes.append(
            "the config has no BlockCopyHook; added one with block_size=128 and "
            "GainPolicy(target=0.3)"
        )
    video_config.set_options(config, **options_of(args))
    if args.data_root:
        video_dataloader.set_data_root(config, args.data_root)
    loader = video_dataloader.video_dataloader(
        config,
        args.video,
        args.ann,
        start=args.start,
        frames=args.frames,
        clips=args.clips,
        strict_frames=args.strict_frames,
        first_frame_number=args.ann_first,
    )
    warm_up_loader = _warm_up_loader(args, config, notes)
    checkpoint = video_config.set_weights(config, args.checkpoint)
    work_dir = Path(args.work_dir or Path("work_dirs") / Path(args.config).stem)
    out = Path(args.out or work_dir / "results.json")
    if out.suffix != ".json":
        raise ConfigError(f"--out {str(out)!r} must be a file that ends in .json.")
    videos, annotations = video_dataloader.files_of(loader)
    outputs = [
        *test_outputs(out, args.show_dir, videos, OVERLAY_ENDING),
        ("MMEngine's copy of the config", work_dir / Path(args.config).name),
    ]
    if warm_up_loader is not None:
        outputs.append(("the policy of the warm-up", work_dir / "warm_up/policy.pth"))
    check_outputs(
        [
            *read_files(args, checkpoint),
            *video_config.files_in(config),
            *(("the video", path) for path in videos),
            *(("--ann", path) for path in annotations),
        ],
        outputs,
    )
    warm_up = None
    if warm_up_loader is not None:
        video_dataloader.check_files(loader)  # not only hours later
        warm_up = _warm_up(config, warm_up_loader, work_dir / "warm_up", args)
        video_config.set_options(config, policy_checkpoint=str(warm_up.policy))
    config.work_dir = str(work_dir)
    video_config.for_testing(
        config,
        loader,
        dense=args.dense_too,
        restart_policy=None if args.carry_policy is None else not args.carry_policy,
        temporal_consistency=args.temporal_consistency,
        progress=True,
    )
    hooks = [*config.custom_hooks, dict(type="blockcopy_plugins.CheckpointCheckHook")]
    if args.show_dir:
        hooks.append(
            dict(
                type="blockcopy_plugins.BlockCopyVideoHook",
                out_dir=args.show_dir,
                score_threshold=args.show_score,
            )
        )
    config.custom_hooks = hooks
    video_config.set_launcher(config, args.launcher)

    from mmengine.dist import all_gather_object, is_main_process

    runner = make_runner(config, args.verbose, args.stop)
    if is_main_process():
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    try:
        with downloads(config.load_from):
            runner.test()
    except (Exception, KeyboardInterrupt):
        _keep_part(args, runner, config, checkpoint, out, warm_up)
        raise
    videos = [path for part in all_gather_object(_videos(runner)) for path in part]
    if is_main_process():
        loop = runner.test_loop
        results = _results(args, config, checkpoint, loop, warm_up)
        files = list(warm_up.files) if warm_up else []
        files += _write(out, Path(args.show_dir) if args.show_dir else out.parent, results, loop)
        say_what_was_left_out(results)
        print(_table(results))
        if args.ann and not _annotated(results):
            print("note: none of the frames is annotated in --ann", file=sys.stderr)
        for path in [*files, *videos]:
            print(f"wrote {path}")
    if args.launcher != "none":
        leave_process_group()


def _warm_up_loader(args, config, notes: list[str]) -> dict | None:
    """Dataloader of the clips that the policy should learn on first."""
    from blockcopy_plugins.errors import ConfigError
    from blockcopy_plugins.integrations.mmengine import video_config, video_dataloader

    clips = args.warm_up_clips
    if clips is not None and clips < 0:
        raise ConfigError(f"--warm-up-clips {clips}, expected at least 0.")
    if clips is None:
        if args.video or args.policy_checkpoint or not config.get("policy_warm_up"):
            return None
        if not video_config.policy_learns(config):
            notes.append("the policy does not learn, so it is not warmed up")
            return None
    loader = video_dataloader.warm_up_dataloader(config, clips)
    if loader is not None and args.launcher != "none":
        raise ConfigError(
            "several processes would each warm up a policy of their own. Train one policy first, "
            "with tools/train_policy.py CONFIG in one process, and pass --policy-checkpoint."
        )
    return loader


def _warm_up(config, loader: dict, work_dir: Path, args):
    """Let the policy learn on unlabelled clips; the config stays as it is."""
    from _policy_training import train

    from blockcopy_plugins.integrations.mmengine import video_dataloader

    own = copy.deepcopy(config)
    own.work_dir = str(work_dir)
    own.experiment_name = f"{Path(config.filename).stem}_warm_up"
    print("warming the policy up, then testing", file=sys.stderr)
    epochs = video_dataloader.warm_up_epochs(config)
    done = train(own, loader, epochs, args.verbose, stop=args.stop)
    gc.collect()  # reference cycles keep the runner, and with it a whole model, alive
    return done


def _keep_part(args, runner, config, checkpoint: str, out: Path, warm_up) -> None:
    """End the videos, and write the results up to the point at which a run ended early."""
    from blockcopy_plugins.integrations.mmengine.loops import BlockCopyTestLoop
    from blockcopy_plugins.integrations.mmengine.video_hook import BlockCopyVideoHook

    for hook in runner.hooks:
        if isinstance(hook, BlockCopyVideoHook):
            hook.end_early()
    files, loop = _videos(runner), runner._test_loop
    if isinstance(loop, BlockCopyTestLoop) and loop.summary:
        results = _results(args, config, checkpoint, loop, warm_up)
        show_dir = Path(args.show_dir) if args.show_dir else out.parent
        files = [*keep_part(lambda: _write(out, show_dir, results, loop), results), *files]
    for path in files:
        print(f"wrote {path}")


def _videos(runner) -> list[Path]:
    from blockcopy_plugins.integrations.mmengine.video_hook import BlockCopyVideoHook

    hooks = [hook for hook in runner.hooks if isinstance(hook, BlockCopyVideoHook)]
    return [path for hook in hooks for path in hook.paths]


def _results(args, config, checkpoint: str, loop, warm_up) -> dict:
    import platform

    import torch

    from blockcopy_plugins.addresses import masked
    from blockcopy_plugins.integrations.mmengine.video_config import hook_of

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    summary = loop.summary
    first = ("frames", "size", "block_size", "policy", "target")
    policy_file = hook_of(config).get("policy_checkpoint")
    return {
        "model": config.model.get("type", "?"),
        "config": args.config,
        # Only the file's name: results are shown to others, who have other folders.
        "checkpoint": masked(checkpoint).rpartition("/")[2],
        **{name: summary.get(name) for name in first},
        # What the policy knew when the first video started, and when the following ones did.
        "policy_file": None if policy_file is None else Path(policy_file).name,
        "policy_over_videos": "restarted" if loop.options.restart_policy else "carried",
        "policy_warm_up": None
        if warm_up is None
        else {
            "clips": warm_up.clips,
            "frames": warm_up.frames,
            "file": f"{warm_up.policy.parent.name}/{warm_up.policy.name}",
        },
        **{name: value for name, value in summary.items() if name not in first},
        "machine": {
            "device": gpu or platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }


def _write(out: Path, show_dir: Path, results: dict, loop) -> list[Path]:
    from dataclasses import asdict

    from blockcopy_plugins.integrations.common.comparison import plain
    from blockcopy_plugins.part_files import whole_file
    from blockcopy_plugins.visualization import plot_policy_curve

    by_frame = out.with_name(f"{out.stem}_frames.jsonl")
    lines = "".join(json.dumps(plain(asdict(entry))) + "\n" for entry in loop.entries)
    for target, text in ((out, json.dumps(results, indent=2) + "\n"), (by_frame, lines)):
        with whole_file(target) as path:
            path.write_text(text)
    files = [out, by_frame]
    if loop.entries:
        records = [
            {"executed_rate": entry.executed_rate, **entry.scalars} for entry in loop.entries
        ]
        plot = show_dir / f"{out.stem}_curve.png"
        title = f"{results['policy']}, {results['frames']} frames"
        with whole_file(plot) as path:
            plot_policy_curve(records, path, results["target"], title=title)
        files.append(plot)
    return files


def _table(results: dict) -> str:
    """The results as a table, dense and block-sparse side by side."""
    from blockcopy_plugins.engine.propagation_report import PropagationReport
    from blockcopy_plugins.engine.report import GuardReport

    def figure(value, scale=1.0, digits=1, unit="") -> str:
        return "-" if value is None else f"{value * scale:.{digits}f}{unit}"

    target = "" if results["target"] is None else f", target {100 * results['target']:.4g} %"
    size = results["size"]
    size = f"{size[1]}x{size[0]} px" if size and isinstance(size[0], int) else "several sizes"
    rows = [
        ("ms per frame", figure(results["ms_dense"]), figure(results["ms_blockcopy"])),
        ("  of which policy", "-", figure(results["ms_policy"], digits=2)),
        (
            "GMACs per frame",
            figure(results["macs_dense"], 1e-9, 2),
            figure(results["macs_blockcopy"], 1e-9, 2),
        ),
        ("  policy, in addition", "-", figure(results["macs_policy"], 1e-9, 4)),
        ("executed rate", "100.0 %", figure(results["executed_rate"], 100, 1, " %")),
        (
            "  after first frames",
            "100.0 %",
            figure(results["executed_rate_after_first"], 100, 1, " %"),
        ),
    ]
    if results.get("agreement"):
        told = results["agreement"]
        between = f"{100 * told['low']:.1f}-{100 * told['high']:.1f} %"
        rows.append(("  of which comparisons", "-", figure(told["compared_rate"], 100, 1, " %")))
        rows.append(("agreement, as compared", "100.0 %", figure(told["mean"], 100, 1, " %")))
        rows.append(("  90 % interval", "", between))
    dense, sparse = (results["metrics"].get(name) or {} for name in ("dense", "blockcopy"))
    for name in sparse:
        words = _in_words(name.rpartition("/")[2])
        if words:
            rows.append((words, figure(dense.get(name), 100), figure(sparse[name], 100)))
    if 0 < _annotated(results) < results["frames"]:
        rows.append(("  annotated frames", "", f"{_annotated(results):.0f}"))
    for name, value in (results["fidelity"] or {}).items():
        words = _in_words(name)
        if words:
            words = words.replace(_OF_TRUTH, "")
            rows.append((f"fidelity {words}", "100.0", figure(value, 100)))
    width = max(len(row[0]) for row in rows)
    line = "-" * (width + 28)
    lines = [
        f"{results['model']}, {results['frames']} frames of {size}, blocks of "
        f"{results['block_size']} px, {results['policy']}{target}",
        line,
        f"{'':{width}}  {'dense':>12}  {'block-sparse':>12}",
        line,
        *(f"{name:{width}}  {a:>12}  {b:>12}" for name, a, b in rows),
        line,
        f"{'speed-up':{width}}  {'':>12}  {figure(results['speedup'], digits=2, unit=' x'):>12}",
    ]
    if results.get("fidelity_reason"):
        lines.append(f"fidelity: {results['fidelity_reason']}")
    if results["policy_warm_up"]:
        clips, frames = (results["policy_warm_up"][name] for name in ("clips", "frames"))
        lines.append(f"policy: warmed up on {clips} clips, {frames} frames")
    lines += [f"guard {GuardReport(**guard)}" for guard in results["guards"]]
    lines += [line.strip() for line in PropagationReport(**results["propagation"]).lines()]
    if results["dense_ops"]:
        names = ", ".join(f"{op['path'] or '(root)'}: {op['op']}" for op in results["dense_ops"])
        lines.append(f"ran on whole maps: {names}")
    return "\n".join(lines)


def _annotated(results: dict) -> float:
    return (results["metrics"]["blockcopy"] or {}).get("video/annotated_frames", 0)


def _in_words(name: str) -> str | None:
    """The name of a metric in the table; None if it is not in the table."""
    if name.startswith("MR_"):
        return f"MR^-2 {name[3:].replace('_', ' ')}, lower is better"
    if name == "temporal_consistency":
        return "temporal consistency"
    if name.endswith(("_AP", "_AP50")):
        return name.replace("_", " ") + _OF_TRUTH
    words = {"mIoU": "mIoU", "aAcc": "pixel accuracy", "mAcc": "class accuracy"}.get(name)
    return words and words + _OF_TRUTH


if __name__ == "__main__":
    arguments = parse_args()
    sys.exit(run(main, arguments))
