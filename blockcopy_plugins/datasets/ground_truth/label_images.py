"""Ground truth of segmentation: folders of label images, and which frame each belongs to."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from blockcopy_plugins.datasets.ground_truth.annotation_notes import AnnotationNotes
from blockcopy_plugins.datasets.ground_truth.frame_numbers import first_number
from blockcopy_plugins.datasets.ground_truth.video_annotations import VideoReference
from blockcopy_plugins.errors import ConfigError

_SUFFIXES = frozenset((".bmp", ".png", ".tif", ".tiff"))


@dataclass(frozen=True)
class LabelRules:
    """How the label images of a dataset are named and read; as in MMSegmentation's datasets.

    Attributes:
        img_suffix: How the names of the frames end.
        seg_map_suffix: How the names of their label images end in its place.
        reduce_zero_label: Whether label 0 is ignored and the others count from 1.
        ignore_index: Label of pixels that do not count.
        label_map: New label of each label of the files, or None if they are the same.
    """

    img_suffix: str = ".jpg"
    seg_map_suffix: str = ".png"
    reduce_zero_label: bool = False
    ignore_index: int = 255
    label_map: Mapping[int, int] | None = None

    @classmethod
    def of(cls, dataset: type | None, given: Mapping[str, Any]) -> LabelRules:
        """The rules of a registered dataset.

        Args:
            dataset: The class, whose constructor's defaults hold where nothing is given. It is not
                built: some datasets look for their files then.
            given: The dataset's config.

        Raises:
            ConfigError: ``metainfo`` names classes that the dataset does not have.
        """
        found = {}
        for name in (field.name for field in fields(cls)):
            for owner in dataset.__mro__ if dataset is not None else ():
                parameter = inspect.signature(owner.__init__).parameters.get(name)
                if parameter is not None and parameter.default is not parameter.empty:
                    found[name] = parameter.default
                    break
            if given.get(name) is not None:
                found[name] = given[name]
        classes = (given.get("metainfo") or {}).get("classes")
        if classes is not None and hasattr(dataset, "get_label_map"):
            try:
                found["label_map"] = dataset.get_label_map(list(classes))
            except ValueError as error:
                raise ConfigError(f"{dataset.__name__}: {error}") from error
        return cls(**found)


def find_label_images(
    folder: str | os.PathLike[str],
    videos: Sequence[VideoReference],
    rules: LabelRules,
    notes: AnnotationNotes | None = None,
    first_frame_number: int | None = None,
) -> list[dict[int, str]]:
    """Find the label images of frames. Not every frame needs one.

    A video's label images lie in the subfolder that has its name, or in the folder itself. For a
    folder of frames, a label image has the name of its frame (except for the dataset's suffixes:
    ``x_leftImg8bit.png`` and ``x_gtFine_labelTrainIds.png``) or, if no names agree, the same last
    number. For a video file, the last number in the name is that of the frame, from 0; see
    `first_number`.

    Args:
        folder: The folder.
        videos: The videos.
        rules: The dataset's suffixes.
        notes: Collects what is inferred; None logs it.
        first_frame_number: Number of the label image of a video file's first frame, 0 or 1. None
            takes 0 unless it must be 1, and raises if it may be either.

    Returns:
        For each video, the paths of its label images by frame number.

    Raises:
        ConfigError: There is no such folder or no label image in it, none belongs to a frame, two
            belong to one frame, or it cannot be told to which video they belong.
    """
    folder = os.fspath(folder)
    if not os.path.isdir(folder):
        raise ConfigError(
            f"there is no folder of label images {folder!r}; correct ann_file (--ann)"
        )
    own_notes = AnnotationNotes() if notes is None else notes
    several = len({video.path for video in videos}) > 1
    found, owners = [], {}
    for video in videos:
        inside = os.path.join(folder, video.name)
        own = inside if os.path.isdir(inside) else folder
        if own == folder and several and video.frame_names is None:
            raise ConfigError(
                f"the label images in {folder!r} are numbered, but {len(videos)} videos were "
                f"given; put those of {video.path!r} into a folder {inside!r}, or give one folder "
                "for each video"
            )
        alone = own != folder or not several
        keys = (_stem, _last_number) if alone else (_stem,)
        found.append(_of_video(own, video, rules, keys, own_notes, first_frame_number))
        for path in found[-1].values():
            if owners.setdefault(path, video.path) != video.path:
                raise ConfigError(
                    f"{path!r} could be the label image of a frame of {owners[path]!r} or of "
                    f"{video.path!r}; give one folder for each video"
                )
    if notes is None:
        own_notes.warn()
    if not any(found):
        raise ConfigError(
            f"no label image ({', '.join(sorted(_SUFFIXES))}) in {folder!r} belongs to a frame of "
            f"{[video.path for video in videos]}; label images are named like their frames, with "
            f"{rules.seg_map_suffix!r} in place of {rules.img_suffix!r}, or by their numbers"
        )
    return found


def _of_video(
    folder: str,
    video: VideoReference,
    rules: LabelRules,
    keys: Sequence[Callable],
    notes: AnnotationNotes,
    first: int | None,
) -> dict[int, str]:
    labels = sorted(
        name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in _SUFFIXES
    )
    # Beside them may lie pictures of the labels, of instances, ...
    labels = [name for name in labels if name.endswith(rules.seg_map_suffix)] or labels
    if video.frame_names is None:
        _check_whole_numbers(folder, labels, rules.seg_map_suffix)
        numbered = _by_key(folder, labels, _last_number, rules.seg_map_suffix)
        what = f"the numbers of the label images in {folder!r}"
        base = first_number(numbered, video.length, what, video.path, first, notes)
        return {number - base: path for number, path in numbered.items()}
    for key in keys:
        if key is _last_number:
            _check_whole_numbers(folder, labels, rules.seg_map_suffix)
            _check_whole_numbers(video.folder or video.path, video.frame_names, rules.img_suffix)
        labelled = _by_key(folder, labels, key, rules.seg_map_suffix)
        frames = [key(name, rules.img_suffix) for name in video.frame_names]
        if key is _last_number:
            _check_same_beginning(folder, labelled, frames, video)
        found = {i: labelled[name] for i, name in enumerate(frames) if name in labelled}
        if len(found) > len({frames[i] for i in found}):
            raise ConfigError(
                f"the frames of {video.path!r} and the label images in {folder!r} have no names in "
                "common, and several frames have the same number; name the label images like the "
                "frames"
            )
        if found:
            return found
    return {}


def _check_same_beginning(
    folder: str, labelled: Iterable[Hashable], frames: Sequence[Hashable], video: VideoReference
) -> None:
    """Refuse label images 1 to N of frames 0 to N - 1: each would be taken for its neighbour's."""
    own, labels = sorted({n for n in frames if n is not None}), sorted(labelled)
    for shift in (1, -1):
        if len(own) > 1 and labels == [number + shift for number in own]:
            raise ConfigError(
                f"the label images in {folder!r} are numbered {labels[0]} to {labels[-1]}, and the "
                f"frames of {video.path!r} {own[0]} to {own[-1]}; name the label images like the "
                "frames"
            )


def _by_key(folder: str, names: Sequence[str], key: Callable, suffix: str) -> dict[Hashable, str]:
    found: dict[Hashable, str] = {}
    for name in names:
        own = key(name, suffix)
        if own in found:
            raise ConfigError(
                f"{found[own]!r} and {name!r} in the same folder are label images of the same "
                f"frame {own}; remove one"
            )
        if own is not None:
            found[own] = os.path.join(folder, name)
    return found


def _stem(name: str, suffix: str) -> str:
    return name[: -len(suffix)] if name.endswith(suffix) else os.path.splitext(name)[0]


def _check_whole_numbers(folder: str, names: Sequence[str], suffix: str) -> None:
    """Refuse names such as ``0.5.png`` and ``-1.png``, whose last digits are not the number."""
    found = [re.fullmatch(r"(.*?)([0-9]+)\D*", _stem(name, suffix)) for name in names]
    before = {match[1] for match in found if match}
    odd = [
        match[0]
        for match in found
        if match
        and (re.search(r"[0-9][.,]$", match[1]) and len(before) > 1 or match[1] in ("-", "+"))
    ]
    if odd:
        raise ConfigError(
            f"{odd[0]!r} in {folder!r} is not the number of a frame; name the label images like "
            "the frames, or number them from 0 without signs and decimals"
        )


def _last_number(name: str, suffix: str) -> int | None:
    numbers = re.findall(r"[0-9]+", _stem(name, suffix))
    return int(numbers[-1]) if numbers else None
