"""Pseudo-labels (boxes and masks of persons) for the first half of ``vtest.avi``.

Boxes come from a small public detector (FastestDet, ONNX) that runs on overlapping tiles and on the
whole frame; a linker over time drops flickering boxes and fills short gaps. Masks come from
background subtraction inside those boxes. No annotation of the sequence is read.

Writes the frames as JPEG files and one COCO json (``categories``: one class, ``person``).
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from pycocotools import mask as coco_mask
from tqdm import tqdm

logger = logging.getLogger("make_pseudo_labels")

TEACHER_SIZE = 352  # px, side of the teacher's square input


@dataclass
class Track:
    """One linked person.

    Attributes:
        boxes: frame index to box, float (4,), xyxy in frame pixels.
        scores: frame index to teacher score.
    """

    boxes: dict[int, np.ndarray] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """Index of the last frame with a box."""
        return max(self.boxes)

    def predict(self, frame: int) -> np.ndarray:
        """The box expected at `frame` under constant velocity, float (4,), xyxy."""
        last = self.last
        box = self.boxes[last]
        earlier = [f for f in self.boxes if last - 6 <= f < last]
        if not earlier:
            return box
        velocity = (box - self.boxes[earlier[0]]) / (last - earlier[0])
        shift = (velocity[:2] + velocity[2:]) / 2 * (frame - last)
        return box + np.concatenate([shift, shift])


def read_frames(video: Path, count: int) -> list[np.ndarray]:
    """The first `count` frames of a video.

    Args:
        video: path of the video.
        count: number of frames.

    Returns:
        list of uint8 arrays (H, W, 3), BGR.

    Raises:
        FileNotFoundError: the video cannot be opened.
        ValueError: the video has fewer frames.
    """
    capture = cv2.VideoCapture(str(video))
    if not capture.isOpened():
        raise FileNotFoundError(f"{video} cannot be opened as a video; check the path")
    frames = []
    while len(frames) < count:
        ok, frame = capture.read()
        if not ok:
            raise ValueError(
                f"{video} has {len(frames)} frames, {count} were asked for; lower --frames"
            )
        frames.append(frame)
    capture.release()
    return frames


def tile_starts(length: int, tile: int, stride: int) -> list[int]:
    """First pixels of tiles that cover `length` px; the last tile ends at the border."""
    if length <= tile:
        return [0]
    starts = list(range(0, length - tile, stride))
    return [*starts, length - tile]


def run_teacher(session: onnxruntime.InferenceSession, image: np.ndarray) -> np.ndarray:
    """FastestDet's person cells on one image.

    Args:
        session: the teacher.
        image: uint8 (h, w, 3), BGR, any size.

    Returns:
        float (K, 5): xyxy in pixels of `image`, and the score.
    """
    height, width = image.shape[:2]
    blob = cv2.resize(image, (TEACHER_SIZE, TEACHER_SIZE), interpolation=cv2.INTER_AREA)
    blob = blob.transpose(2, 0, 1)[None].astype(np.float32) / 255
    out = session.run(None, {session.get_inputs()[0].name: blob})[0][0]
    cells_y, cells_x = out.shape[1:]
    score = out[0] ** 0.6 * out[5:].max(0) ** 0.4
    keep = (out[5:].argmax(0) == 0) & (score > 0.05)
    gy, gx = np.nonzero(keep)
    cx = (gx + np.tanh(out[1][keep])) / cells_x * width
    cy = (gy + np.tanh(out[2][keep])) / cells_y * height
    w = width / (1 + np.exp(-out[3][keep]))
    h = height / (1 + np.exp(-out[4][keep]))
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2, score[keep]], 1)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of boxes a (K, 4) and b (M, 4), xyxy: float (K, M)."""
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    inter = np.clip(bottom_right - top_left, 0, None).prod(2)
    area_a = (a[:, 2:4] - a[:, :2]).prod(1)
    area_b = (b[:, 2:4] - b[:, :2]).prod(1)
    return inter / np.maximum(area_a[:, None] + area_b[None] - inter, 1e-6)


def merge(found: np.ndarray, threshold: float) -> np.ndarray:
    """Greedy NMS whose survivors are the score-weighted mean of what they suppress.

    Args:
        found: float (K, 5), xyxy and score.
        threshold: IoU from which two boxes are the same person.

    Returns:
        float (M, 5), xyxy and score, best first.
    """
    found = found[np.argsort(-found[:, 4])]
    kept = []
    while len(found):
        same = iou(found[:1, :4], found[:, :4])[0] >= threshold
        same[0] = True
        weight = found[same, 4] ** 2
        box = (found[same, :4] * weight[:, None]).sum(0) / weight.sum()
        kept.append([*box, found[0, 4]])
        found = found[~same]
    return np.asarray(kept, dtype=np.float64).reshape(-1, 5)


def detect(session: onnxruntime.InferenceSession, frame: np.ndarray, args) -> np.ndarray:
    """The teacher's persons in tiles and in the whole frame, merged: float (K, 5)."""
    height, width = frame.shape[:2]
    found = [run_teacher(session, frame)]
    edge = 4  # px: a box that ends at an inner tile edge is most likely cut there
    for y in tile_starts(height, args.tile, args.tile_stride):
        for x in tile_starts(width, args.tile, args.tile_stride):
            boxes = run_teacher(session, frame[y : y + args.tile, x : x + args.tile])
            cut = (
                ((boxes[:, 0] < edge) & (x > 0))
                | ((boxes[:, 1] < edge) & (y > 0))
                | ((boxes[:, 2] > args.tile - edge) & (x + args.tile < width))
                | ((boxes[:, 3] > args.tile - edge) & (y + args.tile < height))
            )
            boxes = boxes[~cut]
            boxes[:, :4] += [x, y, x, y]
            found.append(boxes)
    boxes = np.concatenate(found)
    boxes = boxes[boxes[:, 4] >= args.low]
    boxes[:, :4] = boxes[:, :4].clip(0, [width, height, width, height])
    return merge(boxes, args.nms)


def link(detections: list[np.ndarray], args) -> list[Track]:
    """Greedy linking of boxes over frames by IoU with the predicted box."""
    live: list[Track] = []
    done: list[Track] = []
    for frame, boxes in enumerate(detections):
        done += [t for t in live if frame - t.last > args.gap]
        live = [t for t in live if frame - t.last <= args.gap]
        free = set(range(len(boxes)))
        if live and free:
            overlap = iou(np.stack([t.predict(frame) for t in live]), boxes[:, :4])
            order = np.dstack(np.unravel_index(np.argsort(-overlap, axis=None), overlap.shape))[0]
            taken: set[int] = set()
            for t, b in order:
                if overlap[t, b] < args.link_iou:
                    break
                if t in taken or b not in free:
                    continue
                live[t].boxes[frame] = boxes[b, :4]
                live[t].scores[frame] = float(boxes[b, 4])
                taken.add(t)
                free.discard(b)
        for b in sorted(free):
            live.append(Track({frame: boxes[b, :4]}, {frame: float(boxes[b, 4])}))
    return done + live


def fill(box: np.ndarray, integral: np.ndarray) -> float:
    """Share of a box that is foreground, from the integral image of the foreground."""
    height, width = integral.shape[0] - 1, integral.shape[1] - 1
    x1, y1, x2, y2 = box.round().astype(int).clip(0, [width, height, width, height])
    inside = integral[y2, x2] - integral[y1, x2] - integral[y2, x1] + integral[y1, x1]
    return float(inside) / max((x2 - x1) * (y2 - y1), 1)


def clean(
    tracks: list[Track], moving: list[np.ndarray], args
) -> dict[int, list[tuple[np.ndarray, float]]]:
    """Drops doubtful tracks, fills gaps, smooths.

    Args:
        tracks: from :func:`link`.
        moving: foreground of each frame, bool (H, W).
        args: the command line.

    Returns:
        frame index to a list of (box float (4,) xyxy, score).
    """
    integrals = [cv2.integral(m.astype(np.uint8)) for m in moving]
    per_frame: dict[int, list[tuple[np.ndarray, float]]] = {}
    for track in tracks:
        frames = np.array(sorted(track.boxes))
        scores = np.array([track.scores[f] for f in frames])
        if len(frames) < args.min_length or np.percentile(scores, 70) < args.high:
            continue
        # The teacher takes a sign and a tripod for persons: they never differ from the background.
        filled = [fill(track.boxes[f], integrals[f]) for f in frames]
        if np.median(filled) < args.track_fill:
            continue
        full = np.arange(frames[0], frames[-1] + 1)
        raw = np.stack([track.boxes[f] for f in frames])
        # A box cut by another person or by a tile would pull the mean: weigh by the score.
        distance = (full[:, None] - frames[None]) / args.smooth
        weight = np.exp(-0.5 * distance**2) * scores[None] ** 2
        # Local linear regression: a plain mean lags where a track begins or ends.
        offset = full[:, None] - frames[None]
        s0, s1, s2 = weight.sum(1), (weight * offset).sum(1), (weight * offset**2).sum(1)
        m0, m1 = weight @ raw, (weight * offset) @ raw
        spread = s0 * s2 - s1**2
        slope_ok = spread > 1e-3 * s0**2
        safe = np.where(slope_ok, spread, 1)
        linear = (s2[:, None] * m0 - s1[:, None] * m1) / safe[:, None]
        boxes = np.where(slope_ok[:, None], linear, m0 / s0[:, None])
        for f, box in zip(full, boxes, strict=True):
            if box[3] - box[1] >= args.min_height:
                score = float(np.interp(f, frames, scores))
                per_frame.setdefault(int(f), []).append((box, score))
    return {f: drop_doubles(found, args.nms) for f, found in per_frame.items()}


def drop_doubles(found: list[tuple[np.ndarray, float]], threshold: float):
    """Greedy NMS over the smoothed boxes of one frame: two tracks may follow one person."""
    kept: list[tuple[np.ndarray, float]] = []
    for box, score in sorted(found, key=lambda item: -item[1]):
        if not kept or iou(box[None], np.stack([k for k, _ in kept])).max() < threshold:
            kept.append((box, score))
    return kept


def foreground(frame: np.ndarray, background: np.ndarray, threshold: float) -> np.ndarray:
    """Pixels that differ from the background: bool (H, W)."""
    difference = cv2.absdiff(cv2.GaussianBlur(frame, (3, 3), 0), background).max(2)
    moving = (difference > threshold).astype(np.uint8)
    moving = cv2.morphologyEx(moving, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    return cv2.morphologyEx(moving, cv2.MORPH_CLOSE, kernel).astype(bool)


def ellipse(box: np.ndarray, shape: tuple[int, int], scale: float) -> np.ndarray:
    """The ellipse in a box scaled about its centre: bool (H, W)."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    rx = max((box[2] - box[0]) / 2 * scale, 1)
    ry = max((box[3] - box[1]) / 2 * scale, 1)
    return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1


def person_mask(
    box: np.ndarray, moving: np.ndarray, others: list[np.ndarray], min_fill: float
) -> tuple[np.ndarray, bool]:
    """The mask of one person.

    Args:
        box: float (4,), xyxy, in pixels.
        moving: bool (H, W), foreground of the frame.
        others: boxes of persons in front (their feet are lower); their ellipses are cut out.
        min_fill: smallest share of the box that the foreground must fill.

    Returns:
        bool (H, W) mask, and whether the ellipse fallback was taken.
    """
    mask = moving & ellipse(box, moving.shape, 1.15)
    x1, y1 = np.floor(box[:2]).astype(int).clip(0)
    x2, y2 = np.ceil(box[2:]).astype(int)
    inside = np.zeros_like(mask)
    inside[y1:y2, x1:x2] = True
    mask &= inside
    for other in others:
        mask &= ~ellipse(other, moving.shape, 0.8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count > 1:
        areas = stats[1:, cv2.CC_STAT_AREA]
        large = 1 + np.nonzero(areas >= 0.2 * areas.max())[0]
        mask = np.isin(labels, large)
    area = (box[2] - box[0]) * (box[3] - box[1])
    if mask.sum() < min_fill * area:
        return ellipse(box, moving.shape, 0.85) & inside, True
    return mask, False


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path, help="vtest.avi")
    parser.add_argument("teacher", type=Path, help="FastestDet.onnx")
    parser.add_argument("out", type=Path, help="folder to write: images/ and annotations.json")
    parser.add_argument(
        "--frames", type=int, default=397, help="frames from the start (%(default)s)"
    )
    parser.add_argument("--tile", type=int, default=288, help="tile side in px (%(default)s)")
    parser.add_argument("--tile-stride", type=int, default=192, help="in px (%(default)s)")
    parser.add_argument("--nms", type=float, default=0.5, help="IoU of the merge (%(default)s)")
    parser.add_argument("--low", type=float, default=0.25, help="score to link (%(default)s)")
    parser.add_argument(
        "--high", type=float, default=0.5, help="70th percentile of a track's scores (%(default)s)"
    )
    parser.add_argument(
        "--sure", type=float, default=0.5, help="boxes below are ignored regions (%(default)s)"
    )
    parser.add_argument("--link-iou", type=float, default=0.35, help="(%(default)s)")
    parser.add_argument("--gap", type=int, default=8, help="frames to bridge (%(default)s)")
    parser.add_argument("--min-length", type=int, default=6, help="frames (%(default)s)")
    parser.add_argument("--smooth", type=float, default=1.5, help="sigma in frames (%(default)s)")
    parser.add_argument(
        "--min-height", type=float, default=35, help="px; drops far bystanders (%(default)s)"
    )
    parser.add_argument("--difference", type=float, default=22, help="of 255 (%(default)s)")
    parser.add_argument("--min-fill", type=float, default=0.2, help="of the box (%(default)s)")
    parser.add_argument(
        "--track-fill", type=float, default=0.25, help="median over a track (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="of the teacher (%(default)s)")
    return parser.parse_args()


def main() -> None:
    """Runs the command line."""
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    frames = read_frames(args.video, args.frames)
    height, width = frames[0].shape[:2]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = onnxruntime.InferenceSession(
        str(args.teacher), options, providers=["CPUExecutionProvider"]
    )
    detections = [detect(session, frame, args) for frame in tqdm(frames, desc="teacher")]

    background = np.median(np.stack(frames[::6]), axis=0).astype(np.uint8)
    background = cv2.GaussianBlur(background, (3, 3), 0)
    moving = [foreground(frame, background, args.difference) for frame in frames]
    labels = clean(link(detections, args), moving, args)

    (args.out / "images").mkdir(parents=True, exist_ok=True)
    coco = dict(images=[], annotations=[], categories=[dict(id=1, name="person")])
    fallbacks = 0
    for index, frame in enumerate(tqdm(frames, desc="masks")):
        name = f"{index + 1:06d}.jpg"
        cv2.imwrite(str(args.out / "images" / name), frame, [cv2.IMWRITE_JPEG_QUALITY, 96])
        coco["images"].append(dict(id=index + 1, file_name=name, width=width, height=height))
        limit = [width, height, width, height]
        persons = [(box.clip(0, limit), score) for box, score in labels.get(index, [])]
        for box, score in persons:
            in_front = [o for o, _ in persons if o is not box and o[3] > box[3] + 1]
            mask, fallback = person_mask(box, moving[index], in_front, args.min_fill)
            fallbacks += fallback
            rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            rle["counts"] = rle["counts"].decode("ascii")
            x1, y1, x2, y2 = (round(float(v), 2) for v in box)
            coco["annotations"].append(
                dict(
                    id=len(coco["annotations"]) + 1,
                    image_id=index + 1,
                    category_id=1,
                    bbox=[x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                    area=int(mask.sum()),
                    segmentation=rle,
                    iscrowd=int(score < args.sure),  # crowd: neither person nor background
                    score=round(score, 3),
                )
            )
    (args.out / "annotations.json").write_text(json.dumps(coco))
    total = len(coco["annotations"])
    logger.info(
        "%d boxes on %d frames, %d with the ellipse instead of a background mask; wrote %s",
        total,
        len(frames),
        fallbacks,
        args.out,
    )


if __name__ == "__main__":
    main()
