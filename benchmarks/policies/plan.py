"""What is to be measured: clips, models and policies, of a command line or of a plan file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from blockcopy_plugins.datasets.frame_range import is_frame_range
from blockcopy_plugins.errors import ConfigError

Window = tuple[int, int | None]

_NAME = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)
_WINDOW = re.compile(r"([0-9]+)-([0-9]*)")


@dataclass(frozen=True)
class Clip:
    """A video and what is known of it.

    Attributes:
        name: Its name in results.
        path: Video file, folder of frames or range of them.
        frames: First frame and the one to stop before, from 0.
        ann: Ground truth: COCO json, MOTChallenge gt.txt or a folder of label images.
        warm_up: Frames that policies learn on beforehand, without labels; like ``frames``.
        ignore_label: Label of pixels that do not count, for plain torch networks (of a config's
            model the config says it).
    """

    name: str
    path: str
    frames: Window = (0, None)
    ann: str | None = None
    warm_up: Window | None = None
    ignore_label: int = 255


@dataclass(frozen=True)
class Model:
    """A network and its weights.

    Attributes:
        name: Its name in results.
        source: Config file of MMDetection or MMSegmentation, or ``file.py:factory`` or
            ``package.module:factory``; see :mod:`.torch_network`.
        weights: Checkpoint.
        block_size: Side of a block in pixels; None takes the config's hook's, or 64.
        options: More arguments of the factory, or ``cfg_options`` of the config.
        clips: Names of the clips that it runs on; empty is all.
    """

    name: str
    source: str
    weights: str | None = None
    block_size: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    clips: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Everything that a call measures.

    Attributes:
        clips: The clips, by unique names.
        models: The models, by unique names.
        policies: Names or configs of policies; None is all that have a rate, and the oracles.
        targets: Executed rates, of policies that are told one.
        periods: Periods in frames, of policies that execute every n-th frame.
        propagate: What becomes of the outputs of blocks that did not run, each for all policies.
        motion: Where the motion comes from; None is the default of each way.
    """

    clips: tuple[Clip, ...]
    models: tuple[Model, ...]
    policies: tuple[str | Mapping[str, Any], ...] | None = None
    targets: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7)
    periods: tuple[int, ...] = (10, 5, 3, 2)
    propagate: tuple[str, ...] = ("copy",)
    motion: Any = None

    def __post_init__(self) -> None:
        for what, entries in (("clip", self.clips), ("model", self.models)):
            if not entries:
                raise ConfigError(f"no {what} is given; add --{what}, or a plan that names one")
            names = [entry.name for entry in entries]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ConfigError(f"two {what}s are called {twice[0]!r}; write --{what} NAME=...")
        unknown = sorted({c for m in self.models for c in m.clips} - {c.name for c in self.clips})
        if unknown:
            raise ConfigError(
                f"a model is to run on the clip {unknown[0]!r}, which is not among "
                f"{[clip.name for clip in self.clips]}"
            )

    @property
    def pairs(self) -> list[tuple[Clip, Model]]:
        """Each clip with each model that is to run on it."""
        return [
            (clip, model)
            for clip in self.clips
            for model in self.models
            if not model.clips or clip.name in model.clips
        ]


def read_plan(path: str, roots: Sequence[str]) -> dict[str, Any]:
    """Read a plan file.

    Args:
        path: YAML with ``clips`` and ``models`` (name -> keys of :class:`Clip` and :class:`Model`)
            and perhaps ``policies``, ``targets`` and ``periods``.
        roots: Folders that relative paths of clips, ground truth and weights are looked for in.

    Returns:
        Fields of a :class:`Plan`.

    Raises:
        ConfigError: If it is no such file, or names what is not there.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the plan {path!r} cannot be read: {error}") from error
    known = {entry.name for entry in fields(Plan)} - {"propagate", "motion"}
    if not isinstance(content, dict) or not set(content) <= known:
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ConfigError(f"the plan {path!r} has {found}, expected the keys {sorted(known)}")
    made: dict[str, Any] = {}
    for key in sorted({"policies", "targets", "periods"} & set(content)):
        if not isinstance(content[key], list):
            raise ConfigError(f"{key} of the plan {path!r} must be a list, found {content[key]!r}")
        made[key] = tuple(content[key])
    for key, make in (("clips", _clip), ("models", _model)):
        entries = content.get(key) or {}
        if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
            raise ConfigError(
                f"{key} of the plan {path!r} must be NAME: {{...}}, found {entries!r}"
            )
        made[key] = tuple(
            make({"name": str(name), **entry}, roots) for name, entry in entries.items()
        )
    return made


def parse_clip(text: str, roots: Sequence[str] = ()) -> Clip:
    """A clip of a command line.

    Args:
        text: ``[NAME=]PATH[:FROM-TO][,ann=PATH][,warm_up=FROM-TO][,ignore_label=N]``; frames count
            from 0, TO is not included.
        roots: See :func:`read_plan`.

    Raises:
        ConfigError: If it is not of this form.
    """
    name, path, keys = _split(text)
    path, found, window = path.rpartition(":")
    if found and _WINDOW.fullmatch(window):
        keys.setdefault("frames", window)
    else:
        path = f"{path}{found}{window}"
    return _clip({"name": name or Path(path).stem, "path": path, **keys}, roots)


def parse_model(text: str, roots: Sequence[str] = ()) -> Model:
    """A model of a command line.

    Args:
        text: ``[NAME=]SOURCE[,weights=PATH][,block_size=N][,OPTION=VALUE...]``.
        roots: See :func:`read_plan`.

    Raises:
        ConfigError: If it is not of this form.
    """
    name, source, keys = _split(text)
    own = {key: keys.pop(key) for key in ("weights", "block_size") if key in keys}
    options = {key: yaml.safe_load(value) for key, value in keys.items()}
    place = source.partition(":")[0]
    name = name or (Path(place).stem if place.endswith(".py") else place.rpartition(".")[2])
    return _model({"name": name, "source": source, "options": options, **own}, roots)


def _split(text: str) -> tuple[str | None, str, dict[str, str]]:
    first, *rest = text.split(",")
    named = _NAME.fullmatch(first)
    keys = [part.partition("=") for part in rest]
    wrong = [f"{key}{sign}{value}" for key, sign, value in keys if not (key and sign and value)]
    if wrong or not first or (named and not named[2]):
        raise ConfigError(
            f"{text!r} cannot be read{f' at {wrong[0]!r}' if wrong else ''}; write "
            "NAME=PATH,KEY=VALUE,... (a path with a comma in it needs a plan file)"
        )
    parts = {key: value for key, _, value in keys}
    return (named[1], named[2], parts) if named else (None, first, parts)


def _clip(entry: dict[str, Any], roots: Sequence[str]) -> Clip:
    _check_keys(entry, Clip, "clip", "path")
    for key in ("frames", "warm_up"):
        if entry.get(key) is not None:
            entry[key] = _window(entry["name"], key, entry[key])
    entry["path"] = _find(entry["path"], roots, f"frames of the clip {entry['name']!r}")
    if entry.get("ann") is not None:
        entry["ann"] = _find(entry["ann"], roots, f"ground truth of the clip {entry['name']!r}")
    entry["ignore_label"] = _integer(entry, "ignore_label", 255, least=0)
    return Clip(**entry)


def _model(entry: dict[str, Any], roots: Sequence[str]) -> Model:
    _check_keys(entry, Model, "model", "source")
    if entry.get("weights") is not None:
        entry["weights"] = _find(entry["weights"], roots, f"weights of {entry['name']!r}")
    if entry.get("block_size") is not None:
        entry["block_size"] = _integer(entry, "block_size", None, least=1)
    entry["clips"] = tuple(entry.get("clips") or ())
    entry["options"] = dict(entry.get("options") or {})
    return Model(**entry)


def _check_keys(entry: Mapping[str, Any], kind: type, what: str, needed: str) -> None:
    known = {item.name for item in fields(kind)}
    unknown = sorted(map(str, set(entry) - known))
    if unknown or not entry.get(needed):
        problem = f"has the key {unknown[0]!r}" if unknown else f"has no {needed}"
        raise ConfigError(
            f"the {what} {entry['name']!r} {problem}; its keys are {sorted(known - {'name'})}"
        )


def _window(name: str, key: str, value: Any) -> Window:
    found = _WINDOW.fullmatch(str(value))
    start, stop = (int(found[1]), int(found[2]) if found[2] else None) if found else (0, 0)
    if stop is not None and stop <= start:
        raise ConfigError(
            f"{key} of the clip {name!r} is {value!r}, expected FROM-TO, such as 0-300: frames "
            "count from 0, TO is above FROM and not included"
        )
    return start, stop


def _integer(entry: Mapping[str, Any], key: str, default: int | None, least: int) -> Any:
    text = str(entry.get(key, default))
    if not text.isdigit() or int(text) < least:
        raise ConfigError(
            f"{key} of {entry['name']!r} is {text!r}, expected a whole number of at least {least}"
        )
    return int(text)


def _find(path: str, roots: Sequence[str], what: str) -> str:
    places = [Path(path), *(Path(root) / path for root in roots)]
    for place in places:
        if place.exists() or is_frame_range(str(place)):
            return str(place)
    where = ", ".join(repr(str(place.parent)) for place in places)
    raise ConfigError(
        f"there are no {what} at {path!r} (looked in {where}); correct the path, or name the "
        "folder that it is relative to by --data-root"
    )
