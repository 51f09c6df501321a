"""The detector CSP."""

from __future__ import annotations

from mmdet.models.detectors import SingleStageDetector

from blockcopy_plugins.registry import MODELS


@MODELS.register_module()
class CSP(SingleStageDetector):
    """A backbone, :class:`~.neck.CSPNeck` and :class:`~.head.CSPHead`; see the package's docstring.

    Backbone, neck and head are convolutions, norms and pointwise ops, which run on blocks; the part
    that finds the boxes gets whole maps.

    Args: those of MMDetection's ``SingleStageDetector``.
    """
