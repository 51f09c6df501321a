"""Finds the video and the frame of each image that an annotation file lists."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence

from blockcopy_plugins.datasets.ground_truth.annotation_notes import AnnotationNotes
from blockcopy_plugins.datasets.ground_truth.annotation_values import Entry
from blockcopy_plugins.datasets.ground_truth.frame_numbers import first_number
from blockcopy_plugins.datasets.ground_truth.video_annotations import VideoReference
from blockcopy_plugins.errors import ConfigError

Place = tuple[int, int]
"""Index of a video and number of a frame."""


class FrameFinder:
    """Finds the frames of images by everything that a COCO file says of them.

    The name of a frame's own file comes first; its number (``video_id`` and ``frame_id``) is used
    if there are no such names, as in video files. If the two contradict each other, the name is
    believed, with a remark.

    Args:
        path: The annotation file.
        listed: Its ``videos``.
        videos: The videos that are wanted.
        notes: Collects the remarks.
        first: Number of the first frame, 0 or 1, as the user says; or None.
    """

    def __init__(
        self,
        path: str,
        listed: Sequence[Entry],
        videos: Sequence[VideoReference],
        notes: AnnotationNotes,
        first: int | None = None,
    ) -> None:
        self.path = path
        self.videos = videos
        self.notes = notes
        self.first = first
        self._of_id = self._match_videos(listed)
        # The parts of each frame's path, by file name, with and without its suffix.
        self._by_name: dict[str, list[tuple[tuple[str, ...], Place]]] = defaultdict(list)
        self._by_stem: dict[str, list[tuple[tuple[str, ...], Place]]] = defaultdict(list)
        for index, video in enumerate(videos):
            for frame in range(len(video.frame_names or ())):
                parts = path_parts(os.path.abspath(video.frame_path(frame)))
                self._by_name[parts[-1]].append((parts, (index, frame)))
                self._by_stem[os.path.splitext(parts[-1])[0]].append((parts, (index, frame)))

    def places(self, images: Sequence[Entry]) -> list[Place | None]:
        """The frame of each image, None for an image of no frame here.

        Args:
            images: All images of the file.

        Raises:
            ConfigError: An image could be of several frames, or numbers do not fit a video.
        """
        found: list[Place | None] = [None] * len(images)
        numbered: dict[int, list[tuple[int, int]]] = defaultdict(list)  # video: (image, number)
        differing: list[str] = []
        unplaced: list[str] = []
        named: set[int] = set()
        for index, image in enumerate(images):
            video = self._video_of(image)
            number = image.frame_number("frame_id")
            place = self._named(image, video, number)
            if place is not None:
                found[index] = place
                named.add(place[0])
                if number is not None and number != place[1]:
                    differing.append(image.place)
            elif video is not None and number is not None:
                numbered[video].append((index, number))
            elif video is not None:
                unplaced.append(image.place)
        if differing:
            self.notes.remark(
                f"the frame_id of {len(differing)} images contradicts their file_name, which is "
                f"believed (the first: {differing[0]})"
            )
        if unplaced:
            self.notes.remark(
                f"{len(unplaced)} images have neither a frame_id nor the name of a frame, and are "
                f"passed over (the first: {unplaced[0]})"
            )
        for video, pairs in numbered.items():
            if video in named:
                self.notes.remark(
                    f"{len(pairs)} images have file names that {self.videos[video].path!r} does "
                    f"not have, and are passed over (the first: {images[pairs[0][0]].place})"
                )
                continue
            reference = self.videos[video]
            base = first_number(
                [number for _, number in pairs],
                reference.length,
                f"the frame_ids of {self.path!r}",
                reference.path,
                self.first,
                self.notes,
            )
            for index, number in pairs:
                found[index] = (video, number - base)
        return found

    def _match_videos(self, listed: Sequence[Entry]) -> dict[str, int]:
        ids = [entry.identity("id") for entry in listed]
        for entry, own in zip(listed, ids, strict=True):
            if ids.count(own) > 1:
                raise entry.error("id", "an id that no other video has")
        if len(listed) == 1 and len(self.videos) == 1:
            return {ids[0]: 0}
        matches: dict[str, int] = {}
        for entry, own in zip(listed, ids, strict=True):
            field = "name" if entry.has("name") else "file_name"
            name = entry.values.get(field)
            if not isinstance(name, str) or not name:
                raise entry.error("name", "the name or path of the video")
            wanted = {path_parts(name), path_parts(os.path.splitext(name)[0])}
            found = [
                index
                for index, video in enumerate(self.videos)
                if any(
                    form[-len(parts) :] == parts
                    for form in _forms(video)
                    for parts in wanted
                    if parts
                )
            ]
            if len({self.videos[i].path for i in found}) > 1:
                raise ConfigError(
                    f"the video {name!r} of {self.path!r} could be any of "
                    f"{[self.videos[i].path for i in found]}; use longer names in the file"
                )
            if found:
                matches[own] = found[0]
        return matches

    def _video_of(self, image: Entry) -> int | None:
        return self._of_id.get(image.identity("video_id")) if image.has("video_id") else None

    def _named(self, image: Entry, video: int | None, number: int | None) -> Place | None:
        if not image.has("file_name"):
            return None
        name = image.values["file_name"]
        if not isinstance(name, str):
            raise image.error("file_name", "a text, the path of the frame's image")
        wanted = path_parts(name)
        if not wanted:
            return None
        found = _of_video(
            [
                place
                for parts, place in self._by_name.get(wanted[-1], [])
                if parts[-len(wanted) :] == wanted or wanted[-len(parts) :] == parts
            ],
            video,
        )
        if not found and video is not None:  # as 'clip/0.jpg' for '0.png' of that very video
            stem = os.path.splitext(wanted[-1])[0]
            found = _of_video([place for _, place in self._by_stem.get(stem, [])], video)
        if len({self.videos[v].path for v, _ in found}) > 1 or len({n for _, n in found}) > 1:
            exact = [place for place in found if video is not None and place == (video, number)]
            if exact:
                return exact[0]
            raise ConfigError(
                f"the image {name!r} of {self.path!r} could be a frame of any of "
                f"{sorted({self.videos[v].path for v, _ in found})}; put the folder's name in "
                "front of file_name, or give ann_file as a list with one file for each video"
            )
        return found[0] if found else None


def path_parts(path: str) -> tuple[str, ...]:
    """Names of folders and file of a path of any system."""
    return tuple(p for p in path.replace("\\", "/").split("/") if p not in ("", "."))


def _forms(video: VideoReference) -> set[tuple[str, ...]]:
    whole = os.path.abspath(video.path)
    return {
        path_parts(video.name),
        path_parts(whole),
        path_parts(whole if video.frame_names is not None else os.path.splitext(whole)[0]),
    }


def _of_video(places: list[Place], video: int | None) -> list[Place]:
    return [place for place in places if video is None or place[0] == video]
