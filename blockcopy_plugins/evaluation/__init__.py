"""Metrics of the outputs: precision, miss rate, consistency, fidelity.

The names are imported when they are first used: the functions need NumPy and pycocotools or OpenCV,
the metrics need MMEngine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blockcopy_plugins.evaluation.average_precision import detection_ap
    from blockcopy_plugins.evaluation.citypersons_metric import CityPersonsMetric
    from blockcopy_plugins.evaluation.fidelity import detection_fidelity
    from blockcopy_plugins.evaluation.frame_detection_metric import FrameDetectionMetric
    from blockcopy_plugins.evaluation.frame_result import FrameResult
    from blockcopy_plugins.evaluation.frame_segmentation_metric import (
        FrameAreas,
        FrameSegmentationMetric,
    )
    from blockcopy_plugins.evaluation.miss_rate import (
        CITYPERSONS_SUBSETS,
        MissRateCurve,
        PedestrianSubset,
        log_average_miss_rate,
        miss_rate_curve,
    )
    from blockcopy_plugins.evaluation.optical_flow import FrameFlows, OpticalFlow, estimate_flow
    from blockcopy_plugins.evaluation.temporal_consistency import (
        WarpedAreas,
        compare_with_warped,
        mean_warped_iou,
    )
    from blockcopy_plugins.evaluation.temporal_consistency_metric import TemporalConsistencyMetric

__all__ = [
    "CITYPERSONS_SUBSETS",
    "CityPersonsMetric",
    "FrameAreas",
    "FrameDetectionMetric",
    "FrameFlows",
    "FrameResult",
    "FrameSegmentationMetric",
    "MissRateCurve",
    "OpticalFlow",
    "PedestrianSubset",
    "TemporalConsistencyMetric",
    "WarpedAreas",
    "compare_with_warped",
    "detection_ap",
    "detection_fidelity",
    "estimate_flow",
    "log_average_miss_rate",
    "mean_warped_iou",
    "miss_rate_curve",
]


def __getattr__(name: str) -> Any:
    modules = {
        "CITYPERSONS_SUBSETS": "miss_rate",
        "CityPersonsMetric": "citypersons_metric",
        "FrameAreas": "frame_segmentation_metric",
        "FrameDetectionMetric": "frame_detection_metric",
        "FrameFlows": "optical_flow",
        "FrameResult": "frame_result",
        "FrameSegmentationMetric": "frame_segmentation_metric",
        "MissRateCurve": "miss_rate",
        "OpticalFlow": "optical_flow",
        "PedestrianSubset": "miss_rate",
        "TemporalConsistencyMetric": "temporal_consistency_metric",
        "WarpedAreas": "temporal_consistency",
        "compare_with_warped": "temporal_consistency",
        "detection_ap": "average_precision",
        "detection_fidelity": "fidelity",
        "estimate_flow": "optical_flow",
        "log_average_miss_rate": "miss_rate",
        "mean_warped_iou": "temporal_consistency",
        "miss_rate_curve": "miss_rate",
    }
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{modules[name]}"), name)
