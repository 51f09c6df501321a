"""Mean IoU and accuracies of label maps, counted frame by frame."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...datasets.ground_truth.label_images import LabelRules
from ...errors import ConfigError


class LabelAgreement:
    """Counts of pixels by true and found class.

    Args:
        classes: Number of classes.

    Attributes:
        counts: int64 ``(classes, classes)``, pixels by true class (rows) and found class.
    """

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), np.int64)

    def add(
        self, found: Any, truth: Any, ignore_index: int | None = None, name: str = "the truth"
    ) -> None:
        """Count the pixels of a frame.

        Args:
            found: Integers ``(H, W)``, a tensor or an array.
            truth: The same.
            ignore_index: True label of pixels that do not count.
            name: Name of the truth, for errors.

        Raises:
            ConfigError: If the sizes differ, or the truth has a label outside the classes.
        """
        found, truth = (
            np.asarray(x.detach().cpu() if hasattr(x, "detach") else x).astype(np.int64)
            for x in (found, truth)
        )
        if found.shape != truth.shape:
            raise ConfigError(
                f"{name} has the shape {truth.shape}, but the frame is {found.shape}; label images "
                "hold one class index per pixel, at the size of the frames."
            )
        counted = np.ones(truth.shape, bool) if ignore_index is None else truth != ignore_index
        classes = len(self.counts)
        beyond = truth[counted & ((truth < 0) | (truth >= classes))]
        if beyond.size:
            raise ConfigError(
                f"{name} has the label {int(beyond[0])}, but the model has {classes} classes "
                f"(ignored is {ignore_index}); label images hold the model's class indices."
            )
        pairs = truth[counted] * classes + found[counted]
        self.counts += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def figures(self) -> dict[str, float]:
        """``mIoU`` and ``mAcc`` (means over the classes that occur), ``aAcc`` (of all pixels)."""
        hit = np.diag(self.counts).astype(float)
        true, found = self.counts.sum(1), self.counts.sum(0)
        union = true + found - hit
        return {
            "mIoU": _mean(hit, union),
            "aAcc": float(hit.sum() / self.counts.sum()) if self.counts.any() else float("nan"),
            "mAcc": _mean(hit, true),
        }


def read_labels(path: str, rules: LabelRules) -> np.ndarray:
    """Class indices of a label image.

    Args:
        path: The image, with one class index per pixel.
        rules: How to read it.

    Returns:
        int64 ``(H, W)``.

    Raises:
        ConfigError: If it cannot be read.
    """
    import cv2

    image = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ConfigError(f"the label image {path!r} cannot be read.")
    labels = (image if image.ndim == 2 else image[..., 0]).astype(np.int64)
    if rules.label_map is not None:
        old = labels.copy()
        for source, target in rules.label_map.items():
            labels[old == source] = target
    if rules.reduce_zero_label:
        labels = np.where(
            (labels == 0) | (labels == rules.ignore_index), rules.ignore_index, labels - 1
        )
    return labels


def _mean(part: np.ndarray, whole: np.ndarray) -> float:
    there = whole > 0
    return float((part[there] / whole[there]).mean()) if there.any() else float("nan")
