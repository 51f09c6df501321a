"""Boxes in the forms in which networks return them, as policies compare them."""

from __future__ import annotations

import torch
from torch import Tensor

from ...host_transfer import to_host
from ...policy import Detections

LEAST_SCORE = 0.05
"""Lowest score that is compared: boxes of queries that found nothing move at random."""


def query_boxes(
    logits: Tensor, boxes: Tensor, classes: int, size: tuple[int, int]
) -> list[Detections]:
    """Detections of queries, as in DETR and its relatives.

    Args:
        logits: ``(N, K, classes)``, each class on its own, or a distribution with one more class
            for no object.
        boxes: ``(N, K, 4)``, centre, width and height as shares of the network's input.
        classes: Number of classes that the network knows.
        size: ``(H, W)`` of the network's input, px.

    Returns:
        The boxes of each image in pixels of the network's input, in host memory.
    """
    if logits.shape[-1] == classes + 1:
        scores = logits.detach().float().softmax(-1)[..., :-1]
    else:
        scores = logits.detach().float().sigmoid()
    best, labels = scores.max(-1)
    middle, extent = boxes.detach().float().split(2, -1)
    corners = torch.cat((middle - extent / 2, middle + extent / 2), -1)
    corners = corners * corners.new_tensor([*size[::-1], *size[::-1]])
    found = []
    best, labels, corners = to_host([best, labels, corners])
    for its_scores, its_labels, its_boxes in zip(best, labels, corners, strict=True):
        kept = its_scores > LEAST_SCORE
        found.append(Detections(its_boxes[kept], its_scores[kept], its_labels[kept], None, size))
    return found
