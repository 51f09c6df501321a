"""The JSON file of the figures: written after every run, and gone on with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blockcopy_plugins.errors import ConfigError

from .comparison import compare
from .curves import curves_of
from .plan import Clip, Model

VERSION = 2
# What must be the same for runs of an earlier call to stand beside new ones.
_SAME = ("frames", "truth", "warm_up", "epochs", "source", "weights", "options", "block_size")


def describe_pair(
    clip: Clip, model: Model, block_size: int, frames: int, epochs: int
) -> dict[str, Any]:
    """What a result is of, without a path of this machine.

    Args:
        clip: The clip.
        model: The model.
        block_size: In pixels.
        frames: How many are measured.
        epochs: Passes over the frames of the warm-up.
    """
    return {
        "clip": clip.name,
        "model": model.name,
        "frames": [clip.frames[0], clip.frames[0] + frames],
        "truth": clip.ann is not None,
        "warm_up": None if clip.warm_up is None else list(clip.warm_up),
        "epochs": epochs if clip.warm_up is not None else 0,
        "source": _tail(model.source),
        "weights": None if model.weights is None else _digest(model.weights),
        "options": dict(model.options),
        "block_size": block_size,
    }


class ReportFile:
    """The figures in a file.

    Args:
        path: JSON file.
        machine: What they are measured on.
        resume: Keep the runs that are in the file.

    Attributes:
        content: What is in the file.

    Raises:
        ConfigError: If the file is there and is not to be resumed, or is of another kind.
    """

    def __init__(self, path: str | Path, machine: Mapping[str, Any], resume: bool) -> None:
        self.path = Path(path)
        if not self.path.exists():
            self.content: dict[str, Any] = {
                "version": VERSION,
                "machine": dict(machine),
                "results": [],
            }
            return
        if not resume:
            raise ConfigError(
                f"{str(self.path)!r} is there already; go on with it by --resume, or name another "
                "file by --json"
            )
        try:
            self.content = json.loads(self.path.read_text())
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(f"{str(self.path)!r} is no JSON: {error}") from error
        if not isinstance(self.content, dict) or self.content.get("version") != VERSION:
            raise ConfigError(
                f"{str(self.path)!r} holds no figures of this version of the benchmark; name "
                "another file by --json"
            )

    def result_of(self, described: Mapping[str, Any]) -> dict[str, Any]:
        """The entry of a clip and a model; a new one if there is none.

        Args:
            described: Of :func:`describe_pair`.

        Raises:
            ConfigError: If the file's entry is of other frames, weights and the like.
        """
        described = json.loads(json.dumps(described))
        for result in self.content["results"]:
            if (result["clip"], result["model"]) == (described["clip"], described["model"]):
                other = [key for key in _SAME if result.get(key) != described[key]]
                if other:
                    raise ConfigError(
                        f"the runs of {described['model']} on {described['clip']} in "
                        f"{str(self.path)!r} are of {other[0]}={result.get(other[0])!r}, but "
                        f"{described[other[0]]!r} is asked for; name another file by --json"
                    )
                return result
        result = {**described, "figures": [], "dense": None, "nothing": None, "runs": []}
        self.content["results"].append(result)
        return result

    def write(self) -> None:
        """Write the file, whole or not at all, with the curves of what is in it so far."""
        for result in self.content["results"]:
            result["curves"] = _curves(result) if result["dense"] else []
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f".{self.path.name}.part")
        partial.write_text(json.dumps(self.content, indent=1) + "\n")
        os.replace(partial, self.path)


def run_of(result: Mapping[str, Any], policy: str, config: Mapping[str, Any]) -> dict | None:
    """The run of a policy at a rate that an entry holds, if it came to an end."""
    config = json.loads(json.dumps(config))
    for run in result["runs"]:
        if run["policy"] == policy and run["config"] == config and "reason" not in run:
            return run
    return None


def _curves(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is read from the curves of each policy."""
    found = curves_of(result)
    oracles = {run["policy"] for run in result["runs"] if run["config"]["type"] == "oracle"}
    oracles &= set(found)
    entries = []
    for policy, windows in found.items():
        entry: dict[str, Any] = {"policy": policy, "oracle": policy in oracles}
        entry["policy_ms"] = _policy_ms(result, policy)
        entry["windows"] = {
            window: {figure: curve.summary() for figure, curve in curves.items()}
            for window, curves in windows.items()
        }
        if policy not in oracles:
            for window, figures in entry["windows"].items():
                for figure, summary in figures.items():
                    same = {name: other[window][figure] for name, other in found.items()}
                    summary |= compare(policy, same, oracles)
        entries.append(entry)
    return entries


def _policy_ms(result: Mapping[str, Any], policy: str) -> float | None:
    times = [run.get("policy_ms") for run in result["runs"] if run["policy"] == policy]
    times = [ms for ms in times if ms is not None]
    return sum(times) / len(times) if times else None


def _tail(source: str) -> str:
    """The source without the folders of this machine."""
    return source if ".py" not in source else Path(source).name


def _digest(path: str) -> dict[str, str]:
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return {"file": Path(path).name, "sha256": digest[:16]}
