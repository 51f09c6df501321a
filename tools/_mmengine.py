"""How the tools handle a config of MMEngine; the tools themselves call these functions."""

from __future__ import annotations

import copy
import gc
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _cli import (
    downloads,
    import_quietly,
    keep_part,
    leave_process_group,
    options_of,
    quiet,
    read_files,
    test_outputs,
    train_outputs,
)
from _results import print_results, results_of, write_results
from _runner import make_runner
from _stopping import StopRequest

_NO_HOOK = (
    "the config has no BlockCopyHook; added one with block_size=128 and GainPolicy(target=0.3)"
)


@dataclass(frozen=True)
class Training:
    """The result of a run.

    Args:
        policy: The file of the policy.
        files: All files that were written, the policy first.
        clips: Number of videos.
        frames: Number of frames over all epochs.
    """

    policy: Path
    files: tuple[Path, ...]
    clips: int
    frames: int


def train(
    config: Any,
    loader: dict[str, Any],
    epochs: int,
    verbose: bool,
    log_interval: int = 50,
    save_interval: int = 500,
    stop: StopRequest | None = None,
) -> Training:
    """Train the policy of a config's hook; the model's weights do not change.

    Args:
        config: Its ``work_dir`` and weights are set; changed in place.
        loader: Dataloader of the videos.
        epochs: How often to run the videos.
        verbose: Show MMEngine's log.
        log_interval: Frames between two lines of the log.
        save_interval: Frames between two saves of the policy within an epoch.
        stop: Whether the tool was asked to end.

    However the training ends, the files contain what was learned by then.
    """
    from blockcopy_plugins.integrations.mmengine import (
        PolicyCheckpointHook,
        PolicyCurveHook,
        video_config,
    )

    video_config.for_policy_training(config, loader, max_epochs=epochs, progress=True)
    config.default_hooks["logger"] = dict(type="LoggerHook", interval=max(1, log_interval))
    config.custom_hooks = [
        *config.custom_hooks,
        dict(type="blockcopy_plugins.CheckpointCheckHook"),
        dict(type="blockcopy_plugins.PolicyCheckpointHook", interval=save_interval),
        dict(type="blockcopy_plugins.PolicyCurveHook"),
    ]
    runner = make_runner(config, verbose, stop)
    try:
        with downloads(config.load_from):
            runner.train()
    except (Exception, KeyboardInterrupt):
        _keep_policy(runner)
        raise
    files: list[Path] = []
    for hook in runner.hooks:
        if isinstance(hook, PolicyCheckpointHook):
            files.insert(0, hook.path)
        elif isinstance(hook, PolicyCurveHook):
            files += hook.paths
    loop = runner.train_loop
    return Training(files[0], tuple(files), len(loop.dataloader.dataset.videos), loop.iter)


def _keep_policy(runner: Any) -> None:
    """Write what was learned in a training that ended early, and say so."""
    from blockcopy_plugins.integrations.mmengine import PolicyCheckpointHook, PolicyCurveHook

    loop = runner.train_loop if not isinstance(runner._train_loop, dict) else None
    if loop is None or not loop.iter:
        return  # nothing was learned
    for kind in (PolicyCheckpointHook, PolicyCurveHook):
        for hook in runner.hooks:
            if isinstance(hook, kind):
                try:
                    written = hook.end_early(runner)
                except OSError as error:
                    print(f"note: not written: {error}", file=sys.stderr)
                    continue
                for path in written:
                    print(f"wrote {path}, after {loop.iter} of {loop.max_iters} frames")


def test_video(args: Any) -> None:
    """tools/test_video.py for MMEngine."""
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
        notes.append(_NO_HOOK)
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
        loop, show_dir = runner.test_loop, Path(args.show_dir or out.parent)
        results = _results(args, config, checkpoint, loop, warm_up)
        files = [*warm_up.files] if warm_up else []
        files += write_results(out, show_dir, results, loop.entries)
        print_results(args, results, [*files, *videos])
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
        show_dir = Path(args.show_dir or out.parent)
        files = [
            *keep_part(lambda: write_results(out, show_dir, results, loop.entries), results),
            *files,
        ]
    for path in files:
        print(f"wrote {path}")


def _videos(runner) -> list[Path]:
    from blockcopy_plugins.integrations.mmengine.video_hook import BlockCopyVideoHook

    hooks = [hook for hook in runner.hooks if isinstance(hook, BlockCopyVideoHook)]
    return [path for hook in hooks for path in hook.paths]


def _results(args, config, checkpoint: str, loop, warm_up) -> dict:
    from blockcopy_plugins.integrations.mmengine.video_config import hook_of

    model, policy_file = config.model.get("type", "?"), hook_of(config).get("policy_checkpoint")
    carried = not loop.options.restart_policy
    return results_of(args, model, checkpoint, loop.summary, policy_file, carried, warm_up)


def train_policy(args: Any) -> None:
    """tools/train_policy.py for MMEngine."""
    quiet(args.verbose)
    from blockcopy_plugins.errors import ConfigError
    from blockcopy_plugins.file_protection import check_outputs
    from blockcopy_plugins.integrations.mmengine import video_config, video_dataloader

    config = video_config.read_config(args.config, args.cfg_options)
    if not args.verbose:
        import_quietly(config.get("default_scope", "mmdet"))
    if not video_config.has_hook(config):
        print(f"note: {_NO_HOOK}", file=sys.stderr)
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
