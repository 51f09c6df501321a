"""Writes the look-alike: files with the names, layout and formats of Cityscapes and CityPersons."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from blockcopy_plugins.errors import ConfigError
from examples.tiny_cityscapes.annotation import Annotation, annotate
from examples.tiny_cityscapes.labels import PERSONS
from examples.tiny_cityscapes.overview import draw_overview
from examples.tiny_cityscapes.street import CAMERAS, FRAME_RATE, Street
from examples.tiny_cityscapes.view import Painter

# Cityscapes' clips: 30 frames, the 20th of which is annotated.
BEFORE, AFTER = 19, 10
# Names of clips for which none is given: names of real ones.
_CLIPS = {
    "train": ("aachen_000000_000019", "bochum_000000_000313", "aachen_000001_000019"),
    "val": ("frankfurt_000000_000294", "munster_000000_000019", "frankfurt_000000_000576"),
}


@dataclass(frozen=True)
class ClipPlan:
    """The data needed to write one clip.

    Args:
        root: The data set's folder.
        split: ``'train'`` or ``'val'``.
        name: City, sequence and number of the annotated frame.
        size: Height and width, px.
        before: Frames before the annotated one.
        after: Frames after it.
        seed: The data set's seed.
        camera: ``'fixed'`` or ``'moving'``.
        noise: Standard deviation of the camera's noise, grey levels.
        train_ids: Whether to write ``labelTrainIds`` too.
    """

    root: Path
    split: str
    name: str
    size: tuple[int, int]
    before: int
    after: int
    seed: int
    camera: str
    noise: float
    train_ids: bool


def make_tiny_cityscapes(
    root: str | os.PathLike[str],
    clips: Mapping[str, int | Sequence[str]] | None = None,
    size: tuple[int, int] = (256, 512),
    frames: int | tuple[int, int] = BEFORE + 1 + AFTER,
    seed: int = 0,
    camera: str = "fixed",
    noise: float = 1.5,
    train_ids: bool = False,
    overview: bool = True,
    processes: int = 1,
) -> Path:
    """Write a small data set that looks like Cityscapes, with CityPersons' annotations.

    Drawn street scenes stand in for the real ones: same folders, names, label encodings and
    annotation formats, so code that runs on this runs on Cityscapes. The same arguments give the
    same files, for any number of processes; a frame does not depend on ``frames``.

    Written: ``leftImg8bit_sequence`` (all frames), ``leftImg8bit`` (annotated frames), ``gtFine``,
    ``gtBboxCityPersons``, ``annotations/anno_{train,val}.mat``, and ``overview.png``, which is for
    people to look at.

    Args:
        root: Folder to write to; made if it does not exist.
        clips: The number of clips for each split, or their names (``'aachen_000000_000019'``). By
            default two of ``'train'`` and two of ``'val'``.
        size: Height and width of the frames, px.
        frames: Frames of a clip: their number, or the numbers before and after the annotated one.
            With fewer than 30, those after it are left out first.
        seed: Seed of all choices.
        camera: ``'fixed'``, or ``'moving'``: rolls forward and sways a little.
        noise: Standard deviation of the camera's noise, grey levels. Without noise and with a fixed
            camera, a frame differs from the one before only where something moves.
        train_ids: Whether to write ``labelTrainIds`` images too, which Cityscapes' download lacks.
        overview: Whether to write ``overview.png``.
        processes: Number of clips to draw at the same time.

    Returns:
        ``root``.

    Raises:
        ConfigError: If an argument is out of range.
    """
    root = Path(root)
    before, after = _check_frames(frames)
    if camera not in CAMERAS:
        raise ConfigError(f"camera must be one of {CAMERAS}, but got {camera!r}")
    if len(size) != 2 or min(size) < 32:
        raise ConfigError(f"size must be (height, width) of at least 32 px, but got {size!r}")
    plans = [
        ClipPlan(root, split, name, tuple(size), before, after, seed, camera, noise, train_ids)
        for split, names in _check_clips(clips).items()
        for name in names
    ]
    if processes > 1:
        start = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=start) as pool:
            annotations = list(pool.map(write_clip, plans))
    else:
        annotations = [write_clip(plan) for plan in plans]
    for split in dict.fromkeys(plan.split for plan in plans):
        of_split = [
            (plan.name, annotation)
            for plan, annotation in zip(plans, annotations, strict=True)
            if plan.split == split
        ]
        _write_mat(root, split, of_split)
    if overview:
        rows = []
        for plan, annotation in zip(plans, annotations, strict=True):
            first = _image_path(plan, "leftImg8bit_sequence", -plan.before)
            now = _image_path(plan, "leftImg8bit", 0)
            rows.append((plan.name, cv2.imread(str(first)), cv2.imread(str(now)), annotation))
        cv2.imwrite(str(root / "overview.png"), draw_overview(rows))
    return root


def write_clip(plan: ClipPlan) -> Annotation:
    """Draw and write one clip.

    Args:
        plan: What to write.

    Returns:
        The ground truth of its annotated frame.
    """
    # From everything that distinguishes clips, so that none depends on the others.
    source = [plan.seed, *plan.name.encode()]
    street = Street(np.random.default_rng(source), plan.camera)
    painter = Painter(street.backdrop(plan.size))
    texture = None
    for offset in range(-plan.before, plan.after + 1):
        time = offset / FRAME_RATE
        view = street.view(time, plan.size)
        if texture is None or plan.camera != "fixed":
            texture = street.texture(view)
        frame = painter.paint(street.things(time), view, texture)
        if plan.noise > 0:
            random = np.random.default_rng([*source, offset + BEFORE])
            noise = random.standard_normal(frame.shape, dtype=np.float32)
            frame = np.clip(np.rint(frame + plan.noise * noise), 0, 255).astype(np.uint8)
        path = _image_path(plan, "leftImg8bit_sequence", offset)
        _write_image(path, frame)
        if offset == 0:
            single = _image_path(plan, "leftImg8bit", 0)
            single.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, single)
    annotation = annotate(street.things(0.0), street.view(0.0, plan.size))
    _write_annotation(plan, annotation)
    return annotation


# ------------------------------------------------------------------------------------------- files


def _image_path(plan: ClipPlan, folder: str, offset: int) -> Path:
    sequence, _, number = plan.name.rpartition("_")
    city = plan.name.partition("_")[0]
    name = f"{sequence}_{int(number) + offset:06d}_leftImg8bit.png"
    return plan.root / folder / plan.split / city / name


def _write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise OSError(f"cannot write {path}")


def _write_annotation(plan: ClipPlan, annotation: Annotation) -> None:
    city = plan.name.partition("_")[0]
    fine = plan.root / "gtFine" / plan.split / city / f"{plan.name}_gtFine"
    _write_image(Path(f"{fine}_labelIds.png"), annotation.label_ids)
    _write_image(Path(f"{fine}_instanceIds.png"), annotation.instance_ids)
    if plan.train_ids:
        _write_image(Path(f"{fine}_labelTrainIds.png"), annotation.train_ids)
    _write_image(Path(f"{fine}_color.png"), cv2.cvtColor(annotation.colour, cv2.COLOR_RGB2BGRA))
    height, width = plan.size
    head = {"imgHeight": height, "imgWidth": width}
    objects = [
        {"label": label, "polygon": outline.tolist()} for label, outline in annotation.objects
    ]
    Path(f"{fine}_polygons.json").write_text(json.dumps({**head, "objects": objects}))
    persons = [
        {
            "instanceId": person.instance_id,
            "bbox": list(person.bbox),
            "bboxVis": list(person.bbox_vis),
            "label": person.category,
        }
        for person in annotation.persons
    ]
    boxes = plan.root / "gtBboxCityPersons" / plan.split / city
    boxes.mkdir(parents=True, exist_ok=True)
    path = boxes / f"{plan.name}_gtBboxCityPersons.json"
    path.write_text(json.dumps({**head, "objects": persons}))


def _write_mat(root: Path, split: str, clips: Sequence[tuple[str, Annotation]]) -> None:
    from scipy.io import savemat

    cells = np.empty((1, len(clips)), dtype=object)
    for index, (name, annotation) in enumerate(sorted(clips, key=lambda clip: clip[0])):
        rows = [
            [PERSONS.index(p.category), *p.bbox, p.instance_id, *p.bbox_vis]
            for p in annotation.persons
        ]
        boxes = np.array(rows, np.int64).reshape(-1, 10)
        # The public files use the narrowest dtype that fits, image by image.
        kind = np.uint8 if boxes.max(initial=0) < 256 else np.uint16
        kind = np.int16 if boxes.min(initial=0) < 0 else kind
        cells[0, index] = {
            "cityname": name.partition("_")[0],
            "im_name": f"{name}_leftImg8bit.png",
            "bbs": boxes.astype(kind),
        }
    folder = root / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / f"anno_{split}.mat", {f"anno_{split}_aligned": cells}, do_compression=True)


# --------------------------------------------------------------------------------------- arguments


def _check_frames(frames: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(frames, int):
        before = min(frames - 1, BEFORE)
        frames = (before, frames - 1 - before)
    before, after = frames
    if not (0 <= before <= BEFORE and 0 <= after <= AFTER):
        raise ConfigError(
            f"a clip has 1 to {BEFORE + 1 + AFTER} frames, up to {BEFORE} before and {AFTER} after "
            f"the annotated one, but got {before} before and {after} after"
        )
    return before, after


def _check_clips(clips: Mapping[str, int | Sequence[str]] | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for split, wanted in (clips or {"train": 2, "val": 2}).items():
        if split not in _CLIPS:
            raise ConfigError(f"clips has no split {split!r}; its keys are {', '.join(_CLIPS)}")
        if isinstance(wanted, int):
            known = list(_CLIPS[split])
            city = known[0].partition("_")[0]
            known += [f"{city}_{n:06d}_000019" for n in range(2, wanted)]
            wanted = known[:wanted]
        for name in wanted:
            parts = name.split("_")
            if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
                raise ConfigError(
                    f"{name!r} is not the name of a clip; give the city, the sequence and the "
                    "annotated frame, such as 'aachen_000000_000019'"
                )
            if int(parts[2]) < BEFORE:
                raise ConfigError(
                    f"the annotated frame of {name!r} must be number {BEFORE} or higher, as frames "
                    "come before it"
                )
        if wanted:
            found[split] = list(wanted)
    return found
