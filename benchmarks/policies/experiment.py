"""Runs a plan: every clip, model, policy and rate, one after the other."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from tqdm import tqdm

import blockcopy_plugins as bc
from blockcopy_plugins.engine.propagation import Propagation
from blockcopy_plugins.errors import BlockCopyError
from blockcopy_plugins.policy import InformationGain, NonePolicy, Policy, build_policy
from blockcopy_plugins.policy.information_gain import build_information_gain

from .answers import DenseAnswers
from .network import Frames, Network, build_network
from .oracle import DenseRecorder, OraclePolicy
from .plan import Clip, Model, Plan
from .report import ReportFile, describe_pair, run_of
from .runs import Run, run_dense, run_policy
from .scores import Scores, new_scores, windows
from .sweep import Entry, propagated, sweep


class PairExperiment:
    """A model on a clip: its dense answers, made when they are first needed, and its runs.

    Args:
        network: The model.
        clip: The clip.
        frames: The clip's frames.
        block_size: In pixels.
        epochs: Passes over the frames of the warm-up.
    """

    def __init__(
        self, network: Network, clip: Clip, frames: Frames, block_size: int, epochs: int
    ) -> None:
        self.network, self.clip, self.frames = network, clip, frames
        self.block_size = block_size
        self._warm_up: tuple[Frames, int] | None = None
        if clip.warm_up is not None and epochs:
            self._warm_up = network.frames(clip, clip.warm_up), epochs
        self._dense: DenseAnswers | None = None
        self._recorded: tuple[list[Any], InformationGain] | None = None

    def run_dense(self) -> dict[str, Any]:
        """The dense network's own figures."""
        self.close()
        dense, scores = DenseAnswers(), None

        def keep(frame, answer):
            nonlocal scores
            dense.append(answer)
            scores = scores or new_scores(dense)
            scores.add(answer, self.network.truth(frame))

        run = run_dense(self.network, self.frames, keep)
        self._dense = dense
        return _entry(run, scores)

    def run(self, entry: Entry) -> dict[str, Any]:
        """A policy's figures.

        Args:
            entry: The policy and its rate.
        """
        if entry.is_oracle:
            options = {key: value for key, value in entry.config.items() if key != "type"}
            policy: Policy = OraclePolicy(*self._record(), **options)
        else:
            policy = build_policy(entry.config)
        rate = {k: v for k, v in entry.config.items() if k in ("target", "rate", "n")}
        title = " ".join([entry.policy, *(f"{k}={v}" for k, v in rate.items())])
        warm_up = None if entry.is_oracle else self._warm_up
        return self._measure(policy, title, warm_up, entry.propagation)

    def run_nothing(self) -> dict[str, Any]:
        """The figures of executing the first frame alone."""
        return self._measure(NonePolicy(), "nothing", None)

    def close(self) -> None:
        """Forget the dense answers."""
        if self._dense is not None:
            self._dense.close()
        self._dense = self._recorded = None

    def _measure(
        self,
        policy: Policy,
        title: str,
        warm_up: tuple[Frames, int] | None,
        propagation: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        if self._dense is None:
            self.run_dense()
        scores = new_scores(self._dense)

        def score(frame, answer):
            scores.add(answer, self.network.truth(frame))

        frames = self.frames
        options = bc.BlockCopyConfig(self.block_size, policy, **(propagation or {}))
        if policy.needs_motion or Propagation.of(options).needs_vectors:
            start = self.clip.frames[0]
            frames = self.network.frames(self.clip, (start, start + len(frames)), motion=True)
            if warm_up is not None:
                warm_up = self.network.frames(self.clip, self.clip.warm_up, motion=True), warm_up[1]
        run = run_policy(self.network, frames, options, score, title, warm_up)
        return _entry(run, scores)

    def _record(self) -> tuple[list[Any], InformationGain]:
        """What policies are shown of fully executed frames, which by law 1 are the dense ones."""
        if self._recorded is None:
            gain = build_information_gain("auto")
            recorder = DenseRecorder(gain)
            run_policy(
                self.network,
                self.frames,
                bc.BlockCopyConfig(self.block_size, recorder),
                lambda frame, answer: None,
                "dense outputs for the oracles",
            )
            self._recorded = recorder.summaries, gain
        return self._recorded


def _entry(run: Run, scores: Scores) -> dict[str, Any]:
    found: dict[str, Any] = {
        **run.milliseconds(),
        "windows": {
            name: {"executed_rate": run.rate(part), **scores.figures(part)}
            for name, part in windows(len(run.rates)).items()
        },
    }
    if run.size is not None:
        found |= {"size": list(run.size), "grid": list(run.grid)}
    if run.propagation is not None and run.propagation.propagate != "copy":
        found["propagation"] = asdict(run.propagation)
    return found


def measure(
    plan: Plan,
    report: ReportFile,
    frames: int | None = None,
    block_size: int | None = None,
    epochs: int = 1,
) -> None:
    """Run a plan, and write the report after each run.

    A policy that cannot run on a clip is noted with the reason, and the others go on.

    Args:
        plan: What to run.
        report: Where the figures go; runs that it has are not repeated.
        frames: Frames of each clip at most.
        block_size: In pixels, for all models; None as the plan or the model says.
        epochs: Passes over the frames of a clip's warm-up.

    Raises:
        BlockCopyError: If a clip or a model cannot be used.
    """
    entries = sweep(plan.policies, plan.targets, plan.periods)
    entries = propagated(entries, plan.propagate, plan.motion)
    # All that can be refused is refused before the first run.
    jobs = []
    for model, clips in _by_model(plan):
        network = build_network(model)
        blocks = block_size or model.block_size or network.block_size
        for clip in clips:
            shown = network.frames(clip, clip.frames)
            if frames is not None and len(shown) > frames:
                start = clip.frames[0]
                shown = network.frames(clip, (start, start + frames))
            described = describe_pair(clip, model, blocks, len(shown), epochs)
            pair = PairExperiment(network, clip, shown, blocks, epochs)
            jobs.append((pair, report.result_of(described)))
    total = len(jobs) * (len(entries) + 2)
    with tqdm(total=total, desc="runs", unit="run", disable=None, file=sys.stderr) as bar:
        for pair, result in jobs:
            try:
                _measure_pair(pair, entries, result, report, bar)
            finally:
                pair.close()


def _measure_pair(
    pair: PairExperiment,
    entries: Sequence[Entry],
    result: dict[str, Any],
    report: ReportFile,
    bar: tqdm,
) -> None:
    where = f"{result['model']} on {result['clip']}"
    if result["dense"] is None:
        with _step(bar, f"{where}: dense"):
            result["dense"] = pair.run_dense()
            first = next(iter(result["dense"]["windows"].values()))
            result["figures"] = [name for name in first if name != "executed_rate"]
        report.write()
    else:
        bar.update()
    if result["nothing"] is None:
        with _step(bar, f"{where}: nothing"):
            result["nothing"] = pair.run_nothing()
        report.write()
    else:
        bar.update()
    for entry in entries:
        config = entry.described
        if run_of(result, entry.policy, config) is not None:
            bar.update()
            continue
        run: dict[str, Any] = {"policy": entry.policy, "config": config}
        with _step(bar, f"{where}: {entry.policy}"):
            try:
                run |= pair.run(entry)
            except BlockCopyError as error:
                # Without the folders of this machine.
                text = str(error).replace(pair.clip.path, pair.clip.name)
                run["reason"] = f"{type(error).__name__}: {text}"
                bar.write(f"{where}: {entry.policy} {config}: {run['reason']}", file=sys.stderr)
        result["runs"] = [
            r for r in result["runs"] if (r["policy"], r["config"]) != (entry.policy, config)
        ]
        result["runs"].append(run)
        report.write()


@contextmanager
def _step(bar: tqdm, title: str) -> Iterator[None]:
    bar.set_postfix_str(title)
    yield
    bar.update()


def _by_model(plan: Plan) -> Iterator[tuple[Model, list[Clip]]]:
    for model in plan.models:
        clips = [clip for clip, other in plan.pairs if other is model]
        if clips:
            yield model, clips
