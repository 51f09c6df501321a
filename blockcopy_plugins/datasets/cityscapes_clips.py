"""Finds the clips in Cityscapes' folders, and says what is missing and where to get it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from blockcopy_plugins.datasets.frame_range import frame_range
from blockcopy_plugins.errors import ConfigError

SEQUENCE = "leftImg8bit_sequence"
IMAGES = "leftImg8bit"
LABELS = "gtFine"
# The package to fetch for each folder.
PACKAGES = {
    SEQUENCE: "leftImg8bit_sequence_trainvaltest.zip (324 GB)",
    IMAGES: "leftImg8bit_trainvaltest.zip (11 GB)",
    LABELS: "gtFine_trainvaltest.zip (241 MB)",
    "gtBboxCityPersons": "gtBbox_cityPersons_trainval.zip",
}
SITE = "https://www.cityscapes-dataset.com/downloads"
_SPLITS = ("train", "val", "test")
# Frames of a clip before and after the annotated one.
BEFORE, AFTER = 19, 10
_SUFFIXES = (".png", ".jpg")
_SHOWN = 3


@dataclass(frozen=True)
class Clip:
    """Some frames around an annotated one.

    Attributes:
        name: City, sequence and number of the annotated frame: ``frankfurt_000000_000294``.
        path: The path in the form that `FrameRange` reads.
        annotated: Index of the annotated frame among the clip's; out of range if it is not one of
            them.
        frames: Number of frames.
    """

    name: str
    path: str
    annotated: int
    frames: int

    @property
    def city(self) -> str:
        """The city in which it was recorded."""
        return city_of(self.name)


def city_of(name: str) -> str:
    """City of an annotated frame.

    Args:
        name: Such as ``frankfurt_000000_000294``.
    """
    return name.partition("_")[0]


def find_clips(
    root: str,
    split: str,
    names: Sequence[str],
    span: tuple[int, int],
    known_by: str,
) -> list[Clip]:
    """Find the frames of clips.

    Args:
        root: Folder that contains ``leftImg8bit_sequence``.
        split: ``'train'``, ``'val'`` or ``'test'``.
        names: Names of the annotated frames.
        span: First and last frame, relative to the annotated one.
        known_by: The source of ``names``, for errors.

    Returns:
        The clips, in the order of the names.

    Raises:
        ConfigError: If something is missing; the message says what.
    """
    folder = SEQUENCE
    if span == (0, 0) and not os.path.isdir(os.path.join(root, SEQUENCE)):
        folder = IMAGES  # the annotated frames alone are a separate, small download
    split_folder = require_split(root, folder, split)
    held: dict[str, frozenset[str]] = {}
    clips, broken = [], []
    for name in names:
        city = city_of(name)
        if city not in held:
            held[city] = _names_in(os.path.join(split_folder, city))
        sequence, _, digits = name.rpartition("_")
        number = int(digits)
        wanted = [f"{sequence}_{number + i:0{len(digits)}d}" for i in range(span[0], span[1] + 1)]
        missing, suffix = min(
            (
                ([n for n in wanted if f"{n}_leftImg8bit{suffix}" not in held[city]], suffix)
                for suffix in _SUFFIXES
            ),
            key=lambda found: len(found[0]),
        )
        if missing:
            broken.append((name, missing, len(wanted)))
            continue
        path = frame_range(
            os.path.join(split_folder, city),
            f"{sequence}_",
            wanted[0].rpartition("_")[2],
            wanted[-1].rpartition("_")[2],
            f"_leftImg8bit{suffix}",
        )
        clips.append(Clip(name, path, -span[0], len(wanted)))
    if broken:
        raise ConfigError(_incomplete(split_folder, folder, broken, held, known_by))
    return clips


def require_split(root: str, folder: str, split: str) -> str:
    """Path of a split's folder.

    Args:
        root: Data root.
        folder: One of `PACKAGES`.
        split: Name of the split.

    Raises:
        ConfigError: If it is not there; the message says what to fetch, or where it is instead.
    """
    path = os.path.join(root, folder, split)
    if os.path.isdir(path):
        return path
    fetch = (
        f"unpack {PACKAGES[folder]} of {SITE} (free, after registration) into {root!r}, so that "
        f"there is a folder {path!r}, or set data_root (in the tools: --data-root)"
    )
    elsewhere = _found_elsewhere(root, folder)
    if elsewhere is not None:
        raise ConfigError(
            f"data_root {root!r} has no {folder}/{split}, but {elsewhere!r} has {folder}: "
            f"{_nesting(root, elsewhere, folder)}"
        )
    if not os.path.isdir(root):
        raise ConfigError(
            f"there is no folder {root!r} (the working directory is {os.getcwd()!r}); {fetch}"
        )
    if not os.path.isdir(os.path.join(root, folder)):
        held = ", ".join(sorted(os.listdir(root))[:8]) or "nothing"
        raise ConfigError(f"{root!r} contains no {folder}, only {held}; {fetch}")
    held = ", ".join(sorted(os.listdir(os.path.join(root, folder)))[:8]) or "nothing"
    raise ConfigError(
        f"{os.path.join(root, folder)!r} contains no {split}, only {held}; set split to one of "
        f"these, or {fetch}"
    )


def annotated_names(
    root: str, split: str, folder: str, ends: Iterable[str], cities: Sequence[str] | None
) -> list[str]:
    """Names of the annotated frames for which a package has files.

    Args:
        root: Data root.
        split: Name of the split.
        folder: One of `PACKAGES`.
        ends: Possible ends of the files' names, after the frame's name.
        cities: Only these; None takes all.

    Returns:
        The names, ordered.

    Raises:
        ConfigError: If the folder is missing, has no such file, or lacks one of the cities.
    """
    ends = tuple(ends)
    path = require_split(root, folder, split)
    there = sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
    names = {
        name.removesuffix(end)
        for city in chosen_cities(there, cities, path)
        for name in _names_in(os.path.join(path, city))
        for end in ends
        if name.endswith(end)
    }
    if not names:
        raise ConfigError(
            f"{path!r} contains no file CITY/*{ends[0]}; unpack {PACKAGES[folder]} of {SITE} again"
        )
    return sorted(names)


def chosen_cities(there: Sequence[str], wanted: Sequence[str] | None, path: str) -> list[str]:
    """The cities to use.

    Args:
        there: The cities that exist.
        wanted: Some of them; None takes all.
        path: The source of ``there``, for errors.

    Raises:
        ConfigError: If a wanted city does not exist.
    """
    if wanted is None:
        return list(there)
    unknown = sorted(set(wanted) - set(there))
    if unknown:
        raise ConfigError(
            f"{path!r} has no city {', '.join(unknown)}; it has {', '.join(there) or 'none'}"
        )
    return list(wanted)


def choose(names: Sequence[str], count: int | None, seed: int | None) -> list[str]:
    """Some of the clips.

    Args:
        names: All of them.
        count: Number of clips; None takes all, and so does a larger number.
        seed: Seed of a random choice; None takes the first ones.

    Returns:
        The chosen names, in their order.
    """
    names = list(names)
    if count is None or count >= len(names):
        return names
    if seed is None:
        return names[:count]
    return sorted(random.Random(seed).sample(names, count))


def check_span(clip: Sequence[int]) -> tuple[int, int]:
    """First and last frame of clips.

    Args:
        clip: Relative to the annotated frame.

    Raises:
        ConfigError: If Cityscapes has no such frames.
    """
    if (
        len(clip) != 2
        or not all(isinstance(i, int) for i in clip)
        or not -BEFORE <= clip[0] <= clip[1] <= AFTER
    ):
        raise ConfigError(
            f"clip must be the first and the last frame relative to the annotated one, both within "
            f"(-{BEFORE}, {AFTER}), but got {tuple(clip)!r}"
        )
    return clip[0], clip[1]


def label_file(root: str, split: str, ends: Sequence[str]) -> Callable[[str], str | None]:
    """Return a function that finds the label image of an annotated frame.

    Args:
        root: Data root.
        split: Name of the split.
        ends: Possible ends of the files' names, after the frame's name; the first match is taken.

    Returns:
        A function of the frame's name that returns a path, or None if there is no such file.
    """
    folder = os.path.join(root, LABELS, split)
    held: dict[str, frozenset[str]] = {}

    def find(name: str) -> str | None:
        city = city_of(name)
        if city not in held:
            held[city] = _names_in(os.path.join(folder, city))
        for end in ends:
            if name + end in held[city]:
                return os.path.join(folder, city, name + end)
        return None

    return find


def _names_in(folder: str) -> frozenset[str]:
    """Names in a folder, read once; none if it is missing."""
    if not os.path.isdir(folder):
        return frozenset()
    return frozenset(entry.name for entry in os.scandir(folder))


def _found_elsewhere(root: str, folder: str) -> str | None:
    """A folder near ``root`` that contains the package instead."""
    root = os.path.abspath(root)
    places = []
    if os.path.isdir(root):
        # This also finds a package that was unpacked into its own folder.
        places += sorted(entry.path for entry in os.scandir(root) if entry.is_dir())
    parts = root.split(os.sep)
    for depth, part in enumerate(parts):
        if part in PACKAGES:  # data_root is the package's own folder, or lies in it
            places.append(os.sep.join(parts[:depth]) or os.sep)
    for place in places:
        if any(os.path.isdir(os.path.join(place, folder, split)) for split in _SPLITS):
            return place
    return None


def _nesting(root: str, elsewhere: str, folder: str) -> str:
    if os.path.abspath(root).startswith(elsewhere):
        return f"data_root is too deep, set data_root={elsewhere!r}"
    held = [name for name in PACKAGES if os.path.isdir(os.path.join(elsewhere, name))]
    if SEQUENCE in held and len(held) > 1:
        return f"data_root is too high, set data_root={elsewhere!r}"
    return (
        f"the package was unpacked one folder too deep, move {os.path.join(elsewhere, folder)!r} "
        f"to {os.path.join(root, folder)!r}"
    )


def _incomplete(
    split_folder: str,
    folder: str,
    broken: Sequence[tuple[str, Sequence[str], int]],
    held: Mapping[str, frozenset[str]],
    known_by: str,
) -> str:
    cities = [city for city, names in held.items() if not names]
    if cities:
        return (
            f"{known_by} has annotated frames of {', '.join(cities)}, but {split_folder!r} has "
            f"none of their frames; unpack {PACKAGES[folder]} of {SITE} again, or take the other "
            "cities by cities=[...]"
        )
    lines = []
    for name, missing, wanted in broken[:_SHOWN]:
        numbers = ", ".join(m.rpartition("_")[2] for m in missing[:_SHOWN])
        numbers += ", ..." if len(missing) > _SHOWN else ""
        what = "all" if len(missing) == wanted else f"{len(missing)} of {wanted}"
        annotated = " (the annotated frame itself among them)" if name in missing else ""
        lines.append(f"of {name} {what} frames: {numbers}{annotated}")
    more = f" and of {len(broken) - _SHOWN} more clips" if len(broken) > _SHOWN else ""
    return (
        f"{split_folder!r} lacks frames of {len(broken)} clips that {known_by} names: "
        f"{'; '.join(lines)}{more}. Unpack {PACKAGES[folder]} of {SITE} again, or take other "
        "clips by clips=N, cities=[...] or a shorter clip=(first, last)"
    )
