"""A picture of the look-alike for people: frames, labels, and boxes of persons."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from examples.tiny_cityscapes.annotation import Annotation

# Blue, green, red.
_BOXES = {
    "pedestrian": (80, 255, 80),
    "rider": (255, 200, 60),
    "sitting person": (255, 90, 255),
    "person (other)": (60, 220, 255),
    "person group": (60, 140, 255),
    "ignore": (190, 190, 190),
}
_GAP = 6


def draw_overview(
    clips: Sequence[tuple[str, np.ndarray, np.ndarray, Annotation]],
) -> np.ndarray:
    """Draw a contact sheet: a row for each clip.

    Args:
        clips: For each its name, its first frame, its annotated frame (uint8 ``(H, W, 3)``, blue,
            green, red) and the ground truth of the latter.

    Returns:
        The picture, uint8, blue, green, red: first frame, annotated frame with full (thick) and
        visible (thin) boxes, labels with edges between instances.
    """
    rows = []
    for name, first, frame, truth in clips:
        height, width = frame.shape[:2]
        zoom = max(1, round(640 / width))
        panels = [
            _enlarge(first, zoom),
            _draw_boxes(_enlarge(frame, zoom), truth, zoom),
            _enlarge(_draw_labels(truth), zoom, cv2.INTER_NEAREST),
        ]
        gap = np.full((zoom * height, _GAP, 3), 255, np.uint8)
        row = np.concatenate([panels[0], gap, panels[1], gap, panels[2]], 1)
        bar = np.full((24, row.shape[1], 3), 255, np.uint8)
        kinds = ", ".join(_BOXES)
        text = f"{name}: first frame; annotated frame with boxes ({kinds}); labels and instances"
        cv2.putText(bar, text, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        rows += [bar, row]
    wide = max(row.shape[1] for row in rows)
    return np.concatenate(
        [cv2.copyMakeBorder(r, 0, 0, 0, wide - r.shape[1], 0, value=(255,) * 3) for r in rows]
    )


def _enlarge(image: np.ndarray, zoom: int, how: int = cv2.INTER_CUBIC) -> np.ndarray:
    return cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=how)


def _draw_boxes(image: np.ndarray, truth: Annotation, zoom: int) -> np.ndarray:
    for person in truth.persons:
        colour = _BOXES[person.category]
        for box, thickness in ((person.bbox_vis, 1), (person.bbox, 2)):
            x, y, width, height = (zoom * side for side in box)
            if width and height:
                cv2.rectangle(image, (x, y), (x + width - 1, y + height - 1), colour, thickness)
    return image


def _draw_labels(truth: Annotation) -> np.ndarray:
    image = cv2.cvtColor(truth.colour, cv2.COLOR_RGB2BGR)
    ids = truth.instance_ids
    edge = np.zeros(ids.shape, bool)
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    edge[1:] |= ids[1:] != ids[:-1]
    image[edge & (ids >= 1000)] = 255
    return image
