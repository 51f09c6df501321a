"""The maps of a Detectron2 model at which its blocks end."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map


class Ends:
    """What the modules returned at which blocks end, dense, in the last call of a model.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        from blockcopy_plugins.integrations.detectron2 import MetaArchAdapter

        found = list(MetaArchAdapter(model).dense_outputs(model))
        self.modules = {n: m for n, m in model.named_modules() if any(m is f for f in found)}
        self.seen: dict[str, Any] = {}
        self._hooks: list[Any] = []
        self.hook()

    def hook(self) -> None:
        """Look at what leaves the modules, behind all hooks that are there by now."""
        self.remove()
        for name, module in self.modules.items():
            self._hooks.append(
                module.register_forward_hook(
                    lambda m, args, out, name=name: self.seen.__setitem__(name, copied_maps(out))
                )
            )

    def take(self) -> dict[str, Any]:
        """What was seen since the last call."""
        seen, self.seen = self.seen, {}
        return seen

    def remove(self) -> None:
        """Look no more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


class Maps(nn.Module):
    """The part of a model up to the blocks' ends: from a padded batch to its maps.

    Args:
        model: The whole model.
        ends: Where its blocks end.
    """

    def __init__(self, model: nn.Module, ends: Ends) -> None:
        super().__init__()
        self.model = model
        self.ends = ends

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Features of the backbone, and the maps of each end."""
        model = self.model
        features = model.backbone(x)
        maps: dict[str, Any] = {}
        if getattr(model, "proposal_generator", None) is not None:
            proposals = model.proposal_generator
            inputs = [features[f] for f in proposals.in_features]
            maps["proposal_generator.rpn_head"] = proposals.rpn_head(inputs)
        if hasattr(model, "head"):
            maps["head"] = model.head([features[f] for f in model.head_in_features])
        if hasattr(model, "sem_seg_head"):
            head, name = model.sem_seg_head, "sem_seg_head"
            if hasattr(head, "coarse_sem_seg_head"):
                head, name = head.coarse_sem_seg_head, name + ".coarse_sem_seg_head"
            maps[f"{name}.predictor"] = head.layers(features)
        return {"features": features, "maps": maps}


def copied_maps(value: Any) -> Any:
    """The same structure with tensors of its own."""
    return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, value)
