"""The detector MGAN."""

from __future__ import annotations

from mmdet.models.detectors import TwoStageDetector

from blockcopy_plugins.registry import MODELS


@MODELS.register_module()
class MGAN(TwoStageDetector):
    """Faster R-CNN with :class:`~.roi_head.MGANRoIHead`; see there and in the package's docstring.

    Training needs the visible part of each person as ``gt_instances.masks``, which
    ``LoadVisibleBoxes`` (``datasets/load_visible_boxes.py``) draws from CityPersons' visible boxes.

    Args: those of MMDetection's ``TwoStageDetector``.
    """
