"""What a network says about a frame, and what is kept of the dense network's answers."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

import numpy as np

from blockcopy_plugins.datasets.ground_truth import FrameObjects


@dataclass(frozen=True, eq=False)
class LabelMap:
    """The class of each pixel of a frame.

    Attributes:
        labels: Integers ``(H, W)``, at the size of the frame.
        classes: How many classes there are.
        ignore: Label of pixels that do not count; of ground truth.
    """

    labels: np.ndarray
    classes: int
    ignore: int = 255


# Detections (or annotated objects) in pixels of the frame, or labels.
Answer = FrameObjects | LabelMap


class DenseAnswers:
    """The dense network's answers of a clip: objects in memory, label maps in a temporary file."""

    def __init__(self) -> None:
        self._answers: list[FrameObjects | tuple[int, tuple[int, int], str, int]] = []
        self._file = tempfile.TemporaryFile()

    def append(self, answer: Answer) -> None:
        """Keep the next frame's answer."""
        if isinstance(answer, LabelMap):
            labels = np.ascontiguousarray(answer.labels)
            place = self._file.seek(0, 2)
            self._file.write(labels.tobytes())
            answer = (place, labels.shape, labels.dtype.str, answer.classes)
        self._answers.append(answer)

    def __len__(self) -> int:
        return len(self._answers)

    def __getitem__(self, index: int) -> Answer:
        kept = self._answers[index]
        if isinstance(kept, FrameObjects):
            return kept
        place, shape, dtype, classes = kept
        self._file.seek(place)
        content = self._file.read(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        return LabelMap(np.frombuffer(content, dtype).reshape(shape), classes)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
