"""From a framework's name to what runs on blocks, and how fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import blockcopy_plugins as bc
from blockcopy_plugins.integrations.framework import framework_called
from blockcopy_plugins.policy.dictated import DictatedPolicy

from .families import NamedNetwork
from .weights import draw_statistics_, draw_weights_

# Of transformers' outputs what is continuous in the input.
_CONTINUOUS = ("logits", "pred_boxes", "predicted_depth", "last_hidden_state", "feature_maps")
RATE = 0.25
"""The executed rate at which E is measured."""


class NamedUnit(nn.Module):
    """The part of a named model whose outputs are continuous in its input.

    Of detectors that is what stands before suppression, and before RoI heads.

    Attributes:
        model: The whole model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        """Outputs for frames ``(N, 3, H, W)``: tensors in lists, tuples and dicts."""
        return self.model(x)


class YoloUnit(NamedUnit):
    """A model of Ultralytics up to the maps of its head, which pick the best boxes."""

    def forward(self, x: Tensor) -> Any:
        """See :class:`NamedUnit`."""
        found = self.model(x)
        return found[1] if isinstance(found, tuple) else found


class DetectorUnit(NamedUnit):
    """A detector of torchvision up to its dense heads."""

    def forward(self, x: Tensor) -> Any:
        """See :class:`NamedUnit`."""
        features = self.model.backbone(x)
        features = list(features.values()) if isinstance(features, Mapping) else [features]
        rpn = getattr(self.model, "rpn", None)
        return features, (self.model.head if rpn is None else rpn.head)(features)


class PixelsUnit(NamedUnit):
    """A model of transformers."""

    def forward(self, x: Tensor) -> Any:
        """See :class:`NamedUnit`."""
        found = self.model(pixel_values=x)
        return {name: found[name] for name in _CONTINUOUS if name in found}


def build_named(network: NamedNetwork) -> NamedUnit:
    """Build a network.

    Args:
        network: What to build.

    Returns:
        A module in eval mode, as :func:`~.build.build` makes it.
    """
    torch.manual_seed(0)
    model = framework_called(network.package).build(network.name)
    if network.package == "ultralytics":
        unit = YoloUnit(model)
    elif network.package == "transformers":
        unit = PixelsUnit(model)
    elif hasattr(model, "transform") and hasattr(model, "backbone"):
        unit = DetectorUnit(model)
    else:
        unit = NamedUnit(model)
    draw = torch.Generator().manual_seed(0)
    draw_weights_(unit, draw)
    with torch.no_grad():
        draw_statistics_(unit, torch.randn(2, 3, *network.size, generator=draw), draw)
    return unit.to(getattr(torch, network.dtype)).eval()


def efficiency(network: NamedNetwork, unit: nn.Module, rounds: int = 3) -> dict[str, float]:
    """How much faster a quarter of the blocks is, in CPU time, in turn with the dense network.

    Args:
        network: What was built.
        unit: It; not converted before, and not afterwards.
        rounds: How often each of the two is run; medians count.

    Returns:
        ``dense_ms``, ``blocks_ms``, ``rate`` and ``efficiency``: the speed-up times the rate.
    """
    draw = torch.Generator().manual_seed(3)
    unit = unit.float()
    video = [torch.randn(1, 3, *network.timed, generator=draw) for _ in range(rounds + 2)]
    shape = tuple(-(-side // network.block) for side in network.timed)
    blocks = shape[0] * shape[1]
    executed = max(1, round(RATE * blocks))
    policy = DictatedPolicy()
    bc.blockcopy_(unit, bc.BlockCopyConfig(block_size=network.block, policy=policy))
    spent: dict[str, list[float]] = {"dense": [], "blocks": []}
    try:
        with torch.inference_mode():
            for number, frame in enumerate(video):
                chosen = torch.randperm(blocks, generator=draw)[:executed]
                policy.grid = torch.zeros(1, blocks, dtype=torch.bool)
                policy.grid[0, chosen] = True
                policy.grid = policy.grid.view(1, *shape)
                start = time.process_time()
                unit(frame)
                middle = time.process_time()
                with bc.dense(unit):
                    unit(frame)
                if number > 1:  # The first is whole, the second makes what is kept.
                    spent["blocks"].append(middle - start)
                    spent["dense"].append(time.process_time() - middle)
    finally:
        bc.restore_(unit)
    dense, ours = (1e3 * statistics.median(spent[name]) for name in ("dense", "blocks"))
    rate = executed / blocks
    return {
        "dense_ms": round(dense, 2),
        "blocks_ms": round(ours, 2),
        "rate": rate,
        "efficiency": round(dense / ours * rate, 3),
    }
