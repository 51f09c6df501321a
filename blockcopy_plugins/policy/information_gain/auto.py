"""The information gain that fits the network's output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from blockcopy_plugins.errors import ConfigError, FrameError
from blockcopy_plugins.policy.task_output import Detections, TaskOutput, check_task_output

from .base import Geometry, InformationGain, OutputChange
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
        _check_same_task(previous[0], current[0])
        return current[0].compare(previous[1], current[1], geometry)

    def change(
        self,
        previous: tuple[InformationGain, Any] | None,
        output: TaskOutput,
        grid: Tensor,
        geometry: Geometry,
    ) -> OutputChange:
        """Ask the gain that fits.

        Raises:
            FrameError: If it is not the gain that fitted the previous output.
        """
        gain = self._gain_for(output)
        if previous is not None:
            _check_same_task(previous[0], gain)
        inner = gain.change(None if previous is None else previous[1], output, grid, geometry)
        return _AutoChange(gain, inner.gain, inner.shown, inner.everywhere, inner)

    def _gain_for(self, output: TaskOutput) -> InformationGain:
        return self._detection if isinstance(check_task_output(output), Detections) else self._dense


@dataclass(frozen=True, eq=False)
class _AutoChange(OutputChange):
    """The result of the gain ``summary``; it remembers which gain that was."""

    inner: OutputChange | None = None

    def keep(self) -> tuple[InformationGain, Any]:
        return self.summary, self.inner.keep()


def _check_same_task(previous: InformationGain, current: InformationGain) -> None:
    if previous is not current:
        before, now = (
            type(gain).__name__.removesuffix("Gain").lower() for gain in (previous, current)
        )
        raise FrameError(
            f"a stream's output was {before} and is now {now}; reset the stream when the network's "
            "task changes"
        )


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
