"""How the tools handle a config of Detectron2; the tools themselves call these functions."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any


def quiet(verbose: bool) -> None:
    """Silence messages of Detectron2 that a user can do nothing about."""
    if verbose:
        return
    from _cli import quiet_listing

    quiet_listing()
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="detectron2|torch|fvcore")
    for name in ("detectron2", "fvcore", "torch.fx._symbolic_trace"):
        logging.getLogger(name).setLevel(logging.ERROR)


def integration() -> Any:
    """The package's integration; raises one of our errors if Detectron2 is missing."""
    from blockcopy_plugins.errors import ConfigError

    try:
        import blockcopy_plugins.integrations.detectron2 as found
    except ImportError as error:
        raise ConfigError(str(error)) from error
    return found


def read(config: str, options: Any) -> Any:
    """The config with the command line's options applied, name=value or NAME value."""
    found = integration()
    if isinstance(options, dict):
        options = [f"{name}={value}" for name, value in options.items()]
    return found.ModelConfig.of(config, options or ())


def blockcopy(source: Any, args: Any) -> Any:
    """How the model should run, from the config and the options of ``add_policy_options``."""
    from _cli import options_of

    return integration().blockcopy_config(source.cfg, **options_of(args))


def weights_of(source: Any, checkpoint: str | None) -> str:
    """Where the model's weights come from."""
    from blockcopy_plugins.errors import ConfigError

    found = checkpoint or source.weights
    if not found:
        raise ConfigError(
            "no weights are given: pass the model's checkpoint, or set MODEL.WEIGHTS (in a lazy "
            "config, train.init_checkpoint)."
        )
    return found


def fetched(source: Any, weights: str) -> Any:
    """The model; raises an error that says so if the weights cannot be downloaded."""
    from blockcopy_plugins.addresses import masked
    from blockcopy_plugins.errors import ConfigError

    try:
        return source.build(weights)
    except OSError as error:
        raise ConfigError(
            f"the weights {masked(weights)} cannot be fetched ({masked(error)}). Fetch the file by "
            "hand, on another machine if this one has no network, and give its path."
        ) from error


def videos_of(args: Any) -> list[str]:
    """The videos of a command line, patterns resolved."""
    from blockcopy_plugins.datasets.video_list import list_videos
    from blockcopy_plugins.errors import ConfigError

    if not args.video:
        raise ConfigError("no video is given: pass --video PATH, a file or a folder of frames.")
    return list_videos(args.video)


def loader_of(source: Any, args: Any, shuffle: bool = False, keep: bool = False) -> Any:
    """The loader of the videos of a command line."""
    found = integration()
    stop = None if args.frames is None else args.start + args.frames
    ann = getattr(args, "ann", None)
    dataset = found.VideoFrameDataset(
        videos_of(args),
        ann_file=ann[0] if ann and len(ann) == 1 else ann,
        frames=(args.start, stop),
        classes=source.classes(),
        strict_frames=args.strict_frames,
        first_frame_number=getattr(args, "ann_first", None),
    )
    mapper = found.VideoFrameMapper(source.augmentations(), source.input_format, keep)
    return found.build_video_test_loader(dataset, mapper, shuffle=shuffle)


def test_video(args: Any) -> None:
    """tools/test_video.py for Detectron2."""
    quiet(args.verbose)
    from _cli import keep_part, read_files, test_outputs
    from _results import print_results, results_of, write_results

    from blockcopy_plugins.datasets.video_list import name_videos
    from blockcopy_plugins.errors import ConfigError
    from blockcopy_plugins.file_protection import check_outputs

    found = integration()
    _refuse_clips(args)
    source = read(args.config, args.cfg_options)
    config = blockcopy(source, args)
    work_dir = Path(args.work_dir or Path("work_dirs") / Path(args.config).stem)
    out = Path(args.out or work_dir / "results.json")
    if out.suffix != ".json":
        raise ConfigError(f"--out {str(out)!r} must be a file that ends in .json.")
    weights = weights_of(source, args.checkpoint)
    videos = videos_of(args)
    check_outputs(
        [
            *read_files(args, weights),
            *(("--video", path) for path in videos),
            *(("--ann", path) for path in args.ann or ()),
        ],
        test_outputs(out, args.show_dir, videos, found.OVERLAY_ENDING),
    )
    launch(args.launcher)
    from detectron2.utils import comm

    loader = loader_of(source, args, keep=bool(args.show_dir))
    model = fetched(source, weights)
    drawers: list[Any] = []

    def draw(run: Any) -> Any:
        colours = dict(classes=source.classes(), palette=source.palette())
        drawers.append(found.VideoDrawer(run, args.show_dir, args.show_score, **colours))
        drawers[-1].plan(videos, name_videos(videos))
        return drawers[-1]

    shown = Shown(loader, comm.is_main_process(), args.stop)

    show_dir = Path(args.show_dir or out.parent)

    def written(own: Any) -> tuple[dict[str, Any], Callable[[], list[Path]]]:
        policy_file, carried = _policy_file(source, args), bool(args.carry_policy)
        figures = results_of(args, source.name, str(weights), own.summary, policy_file, carried)
        return figures, partial(write_results, out, show_dir, figures, own.entries)

    def keep(own: Any) -> None:
        figures, write = written(own)
        for path in keep_part(write, figures):
            print(f"wrote {path}")

    try:
        _, own = found.inference_on_video(
            model,
            shown,
            [draw] if args.show_dir else [],
            config,
            on_partial=keep,
            dense=args.dense_too,
            restart_policy=not args.carry_policy,
        )
    except (Exception, KeyboardInterrupt):
        for drawer in drawers:
            drawer.end_early()
            for path in drawer.paths:
                print(f"wrote {path}")
        raise
    videos = [path for part in comm.gather([p for d in drawers for p in d.paths]) for path in part]
    if comm.is_main_process():
        figures, write = written(own)
        print_results(args, figures, [*write(), *videos])
    if args.launcher != "none":
        import torch

        torch.distributed.destroy_process_group()


def _policy_file(source: Any, args: Any) -> str | None:
    node = source.cfg.MODEL.get("BLOCKCOPY") if "MODEL" in source.cfg else None
    node = node if node is not None else source.cfg.get("blockcopy") or {}
    named = node.get("POLICY_CHECKPOINT") or node.get("policy_checkpoint")
    return args.policy_checkpoint or (named if args.policy is None else None) or None


def _refuse_clips(args: Any) -> None:
    """Refuse the options for configs that bring their own clips."""
    from blockcopy_plugins.errors import ConfigError

    for name in ("data_root", "clips", "warm_up_clips"):
        if getattr(args, name, None) is not None:
            raise ConfigError(
                f"--{name.replace('_', '-')} is for configs that name their own clips, which "
                "Detectron2's configs do not. Give the videos with --video."
            )


def train_policy(args: Any) -> None:
    """tools/train_policy.py for Detectron2."""
    quiet(args.verbose)
    from _cli import read_files, train_outputs

    from blockcopy_plugins.file_protection import check_outputs
    from blockcopy_plugins.integrations.common.comparison import plain
    from blockcopy_plugins.integrations.detectron2.policy_training import train_policy as train
    from blockcopy_plugins.part_files import whole_file
    from blockcopy_plugins.policy.policy_file import save_policy
    from blockcopy_plugins.visualization import plot_policy_curve

    _refuse_clips(args)
    source = read(args.config, args.cfg_options)
    config = blockcopy(source, args)
    weights = weights_of(source, args.checkpoint)
    folder = Path(args.work_dir or Path("work_dirs") / f"{Path(args.config).stem}_policy")
    check_outputs(
        [
            *read_files(args, weights, resumes=True),
            *(("--video", path) for path in videos_of(args)),
        ],
        train_outputs(folder),
    )
    loader = loader_of(source, args, shuffle=True)
    model = fetched(source, weights)
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, float]] = []
    policy, files = config.policy, [folder / "policy.pth"]

    def after_frame(figures: dict[str, float]) -> None:
        records.append(figures)
        if args.save_interval and len(records) % args.save_interval == 0:
            save_policy(policy, files[0])

    def after_epoch(epoch: int | None) -> None:
        save_policy(policy, files[0])
        target = getattr(policy, "target", None)
        log = folder / "policy_log.json"
        figures = {"policy": type(policy).__name__, "target": target, "partial": epoch is None}
        with whole_file(log) as path:
            path.write_text(json.dumps(plain({**figures, "frames": records}), indent=1) + "\n")
        title, plot = f"{type(policy).__name__}, {len(records)} frames", folder / "policy_curve.png"
        plot_policy_curve(records, plot, target, title=title)
        files[1:] = [plot, log]

    shown = Shown(loader, True, args.stop)
    try:
        train(model, shown, config, args.epochs or 1, after_frame, after_epoch)
    except (Exception, KeyboardInterrupt):
        if records:  # the policy has learned something
            try:
                after_epoch(None)
                print(f"wrote {files[0]}, after {len(records)} frames")
            except OSError as error:
                print(f"note: the policy could not be written: {error}", file=sys.stderr)
        raise
    if not getattr(policy, "updates", 1):
        print(f"note: the policy was not updated in {len(records)} frames", file=sys.stderr)
    for path in files:
        print(f"wrote {path}")
    print(f"use it with --policy-checkpoint {files[0]}")


def launch(launcher: str) -> None:
    """Join the processes that torchrun started."""
    if launcher == "none":
        return
    import torch

    from blockcopy_plugins.errors import ConfigError

    if "RANK" not in os.environ:
        raise ConfigError(
            "--launcher pytorch is for processes that torchrun starts: torchrun --nproc-per-node 2 "
            "tools/test_video.py ... --launcher pytorch"
        )
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


class Shown:
    """A loader with a progress bar that leaves out frames that cannot be read."""

    def __init__(self, loader: Any, show: bool, stop: Any) -> None:
        from blockcopy_plugins.integrations.common.readable_batches import ReadableBatches

        self.skipped: list[str] = []
        self.loader = ReadableBatches(loader, self.skipped)
        self.dataset = loader.dataset
        self.show = show
        self.stop = stop
        self.sampler = loader.sampler
        self.batch_sampler = loader.batch_sampler

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        batches = self.loader
        if self.show:
            from tqdm import tqdm

            batches = tqdm(batches, desc="frames", unit="frame", dynamic_ncols=True)
        for batch in batches:
            self.stop.check()
            yield batch
