"""The output with which a new one is compared: what would be delivered if nothing had run."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from blockcopy_plugins.policy.information_gain import Geometry, InformationGain
from blockcopy_plugins.policy.propagated import Propagated


def summary_before(
    information_gain: InformationGain,
    propagated: Propagated | None,
    kept: Any,
    image: int,
    grid: Tensor,
    geometry: Geometry,
) -> Any:
    """The summary of the last output, moved to this frame if outputs are moved.

    Changes that motion explains are then not a gain. If the motion is unknown, the moved output is
    the copied one, and a change is as much of a gain as without moving. This is done only for
    detections: for maps it was no better (SwiftNet on a shaking camera, a fifth and a third of the
    blocks: 0.855 and 0.857 of the pixels, and 0.865 and 0.846 without).

    Args:
        information_gain: Makes the summaries.
        propagated: The frame's.
        kept: The summary of the output that the model last gave.
        image: Its place in the batch.
        grid: bool ``(GH, GW)`` in host memory, what was executed.
        geometry: The image's.
    """
    moved = None if propagated is None else propagated.moved_output(image)
    if moved is None:
        return kept
    # As the new output will be: both are looked at in the same places.
    return information_gain.change(None, moved, grid, geometry).keep()
