"""A policy that learns of a busy scene, as it does where there is much to see."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blockcopy_plugins.policy import Detections, Policy, PolicyContext, build_policy
from blockcopy_plugins.policy.dictated import DictatedPolicy

from .clock import Clock

POLICIES = {
    # A policy that saves up for whole frames would not look in the others.
    "GainPolicy": dict(per_frame=True),
    "RLPolicy": dict(seed=0),
}
"""The policies that learn, with their options here; the first is the package's default."""


class BusyScene(Policy):
    """A policy that looks, is rewarded and learns; of what, is made beforehand.

    Its information gain is over the detections of a busy scene; for segmentation over the model's
    own logits.

    Args:
        task: ``'masks'``, ``'boxes'`` or ``'segmentation'``.
        policy: One of ``POLICIES``.
        target: Of the policy.
        detections: How many there are in a frame.
        seed: Of the detections.
    """

    def __init__(
        self,
        task: str = "masks",
        policy: str = "GainPolicy",
        target: float = 0.25,
        detections: int = 20,
        seed: int = 0,
    ) -> None:
        self.needs_outputs = task == "segmentation"
        self._learned = build_policy(dict(type=policy, target=target, **POLICIES[policy]))
        self.on_host = self._learned.on_host
        self._masks = task == "masks"
        self._count = detections
        self._generator = torch.Generator().manual_seed(seed)
        self._scenes: list[Detections] = []

    def prepare(self, size: tuple[int, int], device: str = "cpu", scenes: int = 3) -> None:
        """Make the detections beforehand: finding them is the model's work, not the policy's.

        Args:
            size: ``(H, W)`` of the frames in pixels.
            device: Where they are.
            scenes: Different sets, taken in turn.
        """
        if self.needs_outputs:
            return
        draw = self._generator
        extent = torch.tensor([size[1], size[0]], dtype=torch.float32)
        corner = torch.rand(self._count, 2, generator=draw) * extent * 0.8
        side = (0.05 + 0.15 * torch.rand(self._count, 2, generator=draw)) * extent
        labels = torch.randint(0, 8, (self._count,), generator=draw)
        for _ in range(scenes):
            first = corner + 4 * torch.randn(self._count, 2, generator=draw)
            boxes = torch.cat([first, first + side], 1).clamp(min=0)
            boxes = torch.minimum(boxes, extent.repeat(2))
            scores = 0.3 + 0.7 * torch.rand(self._count, generator=draw)
            masks = _filled(boxes / 4, size[0] // 4, size[1] // 4) if self._masks else None
            self._scenes.append(
                Detections(
                    boxes=boxes.to(device),
                    scores=scores.to(device),
                    labels=labels.to(device),
                    masks=None if masks is None else masks.to(device),
                    size=size,
                )
            )

    def macs(self, frame_shape: Sequence[int], block_size: int) -> dict[str, int]:
        """Of the policy."""
        return self._learned.macs(frame_shape, block_size)

    def select(self, frame: Tensor, context: PolicyContext) -> Tensor:
        return self._learned.select(frame, context)

    def feedback(self, frame, grid, outputs, context) -> dict[str, float]:
        if not self.needs_outputs:
            outputs = [self._scenes[context.frame_index[0] % len(self._scenes)]]
        return self._learned.feedback(frame, grid, outputs, context)

    def reset(self, streams=None) -> None:
        self._learned.reset(streams)


def dictated_beside_scene(
    task: str,
    size: tuple[int, int],
    device: str = "cpu",
    clock: Clock | None = None,
    seed: int = 0,
    policy: str = "GainPolicy",
) -> DictatedPolicy:
    """A policy that costs what one that learns costs, and executes what it is told.

    Args:
        task: See :class:`BusyScene`.
        size: ``(H, W)`` of the frames in pixels.
        device: Where they are.
        clock: What marks the time spent in it.
        seed: See :class:`BusyScene`.
        policy: See :class:`BusyScene`.
    """
    scene = BusyScene(task, policy, seed=seed)
    scene.prepare(size, device)
    clock = Clock() if clock is None else clock
    return DictatedPolicy(scene, clock.mark, clock.between)


def _filled(boxes: Tensor, height: int, width: int) -> Tensor:
    """Masks bool ``(K, height, width)`` that fill their boxes."""
    y = torch.arange(height).view(1, -1, 1)
    x = torch.arange(width).view(1, 1, -1)
    x0, y0, x1, y1 = (boxes[:, i].view(-1, 1, 1) for i in range(4))
    return (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
