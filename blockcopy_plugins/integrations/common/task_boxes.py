"""Boxes in the forms in which networks return them, as policies compare them."""

from __future__ import annotations

import torch
from torch import Tensor

from ...host_transfer import to_host
from ...policy import Detections

LEAST_SCORE = 0.05
"""What scores less is not compared: queries that found nothing move about at will."""


def query_boxes(
    logits: Tensor, boxes: Tensor, classes: int, size: tuple[int, int]
) -> list[Detections]:
    """Detections of queries, as of DETR and its kin.

    Args:
        logits: ``(N, K, classes)``, each class for itself, or with one more for no object, by
            which they are a distribution.
        boxes: ``(N, K, 4)``, middle, width and height as shares of the network's input.
        classes: How many the network knows.
        size: ``(H, W)`` of the network's input, px.

    Returns:
        Of each image its boxes in pixels of the network's input, in host memory.
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
