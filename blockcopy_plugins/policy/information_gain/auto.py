"""The information gain that fits what the network returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.policy.task_output import Detections, TaskOutput, check_task_output

from .base import Geometry, InformationGain
from .dense import FeatureChange, SemanticGain
from .detection import DetectionGain


class AutoGain(InformationGain):
    """Uses :class:`DetectionGain` for detections and :class:`SemanticGain` for dense outputs."""

    def __init__(self) -> None:
        self._detection = DetectionGain()
        self._dense = SemanticGain()

    def summarise(self, output: TaskOutput, geometry: Geometry) -> tuple[InformationGain, Any]:
        """Summarise with the gain that fits; the summary remembers which.

        Raises:
            FrameError: If the output is neither detections nor dense.
        """
        gain = self._gain_for(output)
        return gain, gain.summarise(output, geometry)

    def is_finite(self, output: TaskOutput) -> Tensor | None:
        """Ask the gain that fits."""
        return self._gain_for(output).is_finite(output)

    def output_map(self, summary: tuple[InformationGain, Any], geometry: Geometry) -> Tensor:
        """Ask the gain that made the summary."""
        gain, inner = summary
        return gain.output_map(inner, geometry)

    def compare(
        self,
        previous: tuple[InformationGain, Any],
        current: tuple[InformationGain, Any],
        geometry: Geometry,
    ) -> Tensor:
        """Ask the gain that made both summaries.

        Raises:
            FrameError: If one is of detections and the other dense.
        """
        if previous[0] is not current[0]:
            raise FrameError(
                "a stream's output was "
                f"{type(previous[0]).__name__.removesuffix('Gain').lower()} and is now "
                f"{type(current[0]).__name__.removesuffix('Gain').lower()}; reset the stream when "
                "the network's task changes"
            )
        return current[0].compare(previous[1], current[1], geometry)

    def _gain_for(self, output: TaskOutput) -> InformationGain:
        return self._detection if isinstance(check_task_output(output), Detections) else self._dense


def build_information_gain(config: Any) -> InformationGain:
    """Make an information gain.

    Args:
        config: An :class:`InformationGain`, one of ``'auto'``, ``'detection'``, ``'semantic'``,
            ``'features'``, or ``dict(type=name, **arguments)``.

    Raises:
        ConfigError: If it is none of these or the arguments do not fit.
    """
    if isinstance(config, InformationGain):
        return config
    known = {
        "auto": AutoGain,
        "detection": DetectionGain,
        "semantic": SemanticGain,
        "features": FeatureChange,
    }
    arguments = dict(config) if isinstance(config, Mapping) else {}
    name = arguments.pop("type", None) if isinstance(config, Mapping) else config
    if not isinstance(name, str) or name not in known:
        raise ConfigError(
            f"information_gain must be an InformationGain or one of {', '.join(map(repr, known))}, "
            f"found {config!r}"
        )
    try:
        return known[name](**arguments)
    except TypeError as error:
        raise ConfigError(f"information_gain {name!r} does not take {arguments}: {error}") from None
