"""Accuracy against executed rate, for several policies on one video.

``python -m benchmarks.policies CONFIG CHECKPOINT --video V --ann GT --train 0:397 --test 397:795``

The detector runs dense once, and block-sparsely once for each policy and rate. Policies that learn
first run over the training frames (no labels are used) and go on learning while they are tested.
Accuracy is COCO AP against the ground truth, fidelity is COCO AP against the dense detections.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from mmengine.config import DictAction
from mmengine.runner import Runner, load_checkpoint
from tqdm import tqdm

import blockcopy_plugins as bc
from benchmarks.machine import describe
from blockcopy_plugins.evaluation import FrameDetectionMetric, detection_ap, detection_fidelity
from blockcopy_plugins.integrations.mmengine.video_config import (
    hook_of,
    read_config,
    set_weights,
    video_dataloader,
)
from blockcopy_plugins.policy.policy_file import save_policy
from blockcopy_plugins.visualization import plot_rate_accuracy

KINDS = ("learned", "difference", "random", "nth")


def policies(
    kinds: Iterable[str], targets: Iterable[float], periods: Iterable[int]
) -> Iterator[tuple[str, dict]]:
    """Name and config of each policy at each rate.

    Args:
        kinds: Which policies: names from ``KINDS``.
        targets: Executed rates, of the policies that have a target.
        periods: Periods in frames, of executing every n-th frame.
    """
    for kind in kinds:
        if kind == "nth":
            for n in periods:
                yield "every n-th frame", dict(type="EveryNthFramePolicy", n=n)
            continue
        for target in targets:
            if kind == "learned":
                yield "learned (RLPolicy)", dict(type="RLPolicy", target=target, seed=0)
            elif kind == "difference":
                yield "frame difference", dict(type="FrameDifferencePolicy", target=target)
            else:
                yield "random", dict(type="RandomPolicy", rate=target, seed=0)


class Experiment:
    """A detector, a video, and what a run over its frames gives.

    Args:
        args: Of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        config = read_config(args.config, args.cfg_options)
        self.block_size = args.block_size or hook_of(config)["block_size"]
        weights = set_weights(config, args.checkpoint)
        from mmdet.registry import MODELS
        from mmdet.utils import register_all_modules

        register_all_modules()
        self.model = MODELS.build(config.model).eval()
        load_checkpoint(self.model, weights, map_location="cpu")
        self.loaders = {}
        for name, (start, stop) in (("train", args.train), ("test", args.test)):
            loader = video_dataloader(config, [args.video], [args.ann], start, stop - start)
            self.loaders[name] = Runner.build_dataloader(loader)

    def run(self, part: str, title: str) -> dict:
        """One pass over the frames of a part.

        Args:
            part: ``'train'`` or ``'test'``.
            title: For the progress bar.

        Returns:
            Results of each frame, mean milliseconds and mean executed rate.
        """
        metric = FrameDetectionMetric()
        metric.dataset_meta = self.loaders[part].dataset.metainfo
        converted = "_blockcopy" in self.model.__dict__
        seconds, rates = 0.0, []
        for batch in tqdm(self.loaders[part], desc=title, unit="frame", leave=False):
            start = time.perf_counter()
            with torch.no_grad():
                outputs = self.model.test_step(batch)
            seconds += time.perf_counter() - start
            metric.process(batch, [sample.to_dict() for sample in outputs])
            rates.append(bc.handle(self.model).last.executed_rate if converted else 1.0)
        metric.evaluate(len(rates))
        return dict(
            results=metric.last_results,
            ms=1e3 * seconds / len(rates),
            executed_rate=sum(rates) / len(rates),
        )


def measure(experiment: Experiment, args: argparse.Namespace) -> dict:
    """All runs.

    Args:
        experiment: The detector and the video.
        args: Of the command line.

    Returns:
        The figures of the dense run and of each policy.
    """
    dense = experiment.run("test", "dense")
    predictions = [r.predictions for r in dense["results"]]
    truth = [r.ground_truth for r in dense["results"]]
    report = dict(
        machine=describe("as the process was started"),
        video=Path(args.video).name,
        train=args.train,
        test=args.test,
        epochs=args.epochs,
        block_size=experiment.block_size,
        dense=dict(ms=dense["ms"], **detection_ap(truth, predictions, "bbox", sizes=False)),
        runs=_earlier_runs(args),
    )
    print(f"{'dense':<20} AP50 {report['dense']['AP50']:.3f}  {dense['ms']:.0f} ms", flush=True)
    for name, config in policies(args.kinds, args.targets, args.periods):
        options = bc.BlockCopyConfig(block_size=experiment.block_size, policy=config)
        bc.blockcopy_(experiment.model, options)
        try:
            policy = bc.handle(experiment.model).policy
            if policy.state_dict() and getattr(policy, "online", False):
                for epoch in range(args.epochs):
                    experiment.run("train", f"{name}: learning, epoch {epoch + 1}")
                    bc.reset_(experiment.model)
                if args.save_policies:
                    folder = Path(args.save_policies)
                    folder.mkdir(parents=True, exist_ok=True)
                    save_policy(policy, folder / f"policy_{config['target']:g}.pth")
            found = experiment.run("test", name)
        finally:
            bc.restore_(experiment.model)
        sparse = [r.predictions for r in found["results"]]
        row = dict(
            policy=name,
            config=config,
            executed_rate=found["executed_rate"],
            ms=found["ms"],
            **detection_ap(truth, sparse, "bbox", sizes=False),
            fidelity=detection_fidelity(sparse, predictions),
        )
        report["runs"].append(row)
        print(
            f"{name:<20} rate {row['executed_rate']:.3f}  AP50 {row['AP50']:.3f}  "
            f"{row['ms']:.0f} ms",
            flush=True,
        )
        if args.json:
            Path(args.json).write_text(json.dumps(report, indent=1))
    return report


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.policies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="config of a detector")
    parser.add_argument("checkpoint", nargs="?", help="its weights; default: load_from")
    parser.add_argument("--video", required=True, help="video file or folder of frames")
    parser.add_argument("--ann", required=True, help="COCO json or MOTChallenge gt.txt")
    parser.add_argument("--train", type=_window, required=True, help="frames to learn on, FROM:TO")
    parser.add_argument("--test", type=_window, required=True, help="frames to test on, FROM:TO")
    parser.add_argument("--epochs", type=int, default=2, help="passes over the training frames")
    parser.add_argument("--block-size", type=int, help="default: that of the config's hook")
    parser.add_argument(
        "--targets", type=_floats, default=[0.1, 0.2, 0.3, 0.5], help="rates, such as 0.1,0.3"
    )
    parser.add_argument("--periods", type=_ints, default=[10, 5, 3, 2], help="such as 10,5,2")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="which policies")
    parser.add_argument("--json", help="file for the figures; runs in it are kept")
    parser.add_argument("--plot", help="file for the plot, PNG")
    parser.add_argument("--save-policies", help="folder for what the policies learned")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, help="changes, KEY=VALUE")
    return parser.parse_args()


def _earlier_runs(args: argparse.Namespace) -> list[dict]:
    """Runs of an earlier call on the same frames, of policies that this one does not measure."""
    path = Path(args.json) if args.json else None
    if path is None or not path.exists():
        return []
    before = json.loads(path.read_text())
    if before["test"] != list(args.test):
        return []
    again = [config for _, config in policies(args.kinds, args.targets, args.periods)]
    return [run for run in before["runs"] if run["config"] not in again]


def _window(text: str) -> tuple[int, int]:
    start, _, stop = text.partition(":")
    return int(start), int(stop)


def _floats(text: str) -> list[float]:
    return [float(value) for value in text.split(",")]


def _ints(text: str) -> list[int]:
    return [int(value) for value in text.split(",")]


def main() -> None:
    """Measure, print, write."""
    args = parse_args()
    report = measure(Experiment(args), args)
    if args.plot:
        series: dict[str, list] = {}
        for row in report["runs"]:
            series.setdefault(row["policy"], []).append((row["executed_rate"], row["AP50"]))
        plot_rate_accuracy(series, args.plot, dense=report["dense"]["AP50"])


if __name__ == "__main__":
    main()
