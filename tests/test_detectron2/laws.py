"""The laws on a whole model of Detectron2, as figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import blockcopy_plugins as bc
from benchmarks.deviation import deviation
from benchmarks.zoo.detectron2_maps import Ends, Maps, copied_maps
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.policy.dictated import DictatedPolicy

ROI_PARTS = ("roi_heads", "sem_seg_head.point_head")
"""What runs on regions or points, behind the maps."""


@dataclass
class Findings:
    """What was seen of one architecture at one size.

    Attributes:
        size: Height and width of the frames, px.
        share: Part of the MACs up to the RoI heads that runs on blocks.
        law_1: Largest deviation of the maps at the blocks' ends with all blocks executed from the
            plain model's, relative to the largest value of a map.
        law_1_outputs: The same of the model's outputs, see :func:`output_deviation`.
        law_3: As ``law_1``, of random grids from the masked reference.
        law_3_outputs: As ``law_1_outputs``.
        moved: As ``law_1``, of the last frame, mostly skipped, from the plain model. If this is
            nothing, law 3 was not put to the test.
    """

    size: tuple[int, int]
    share: float
    law_1: float
    law_1_outputs: float
    law_3: float
    law_3_outputs: float
    moved: float


def frames(size: tuple[int, int], count: int = 3) -> list[list[dict[str, Any]]]:
    """Inputs of a model, frame after frame of one video: all pixels new in each."""
    draw = torch.Generator().manual_seed(7)
    return [
        [
            {
                "image": torch.randint(0, 256, (3, *size), generator=draw).float(),
                "height": size[0],
                "width": size[1],
            }
        ]
        for _ in range(count)
    ]


def check(model: nn.Module, size: tuple[int, int], block: int = 64) -> Findings:
    """Run a video plain, with all blocks, and with random grids.

    Args:
        model: Of :func:`build`.
        size: Height and width of the frames, px.
        block: Block size, px.

    Returns:
        The findings; the model is as it was.
    """
    video = frames(size)
    ends = Ends(model)
    with torch.no_grad():
        plain = [(model(one), ends.take()) for one in video]
    policy = DictatedPolicy()
    config = bc.BlockCopyConfig(block_size=block, policy=policy, pack_whole_frames=True)
    padded = [_padded(model, one) for one in video]
    plan = [_grid(padded[0], block, rate, i) for i, rate in enumerate((1.0, 0.5, 0.25))]

    bc.blockcopy_(model, config)
    try:
        ends.hook()
        policy.grid = plan[0]
        full = [(model(one), ends.take()) for one in video[:2]]
        report = bc.report(model)
        bc.reset_(model)
        sparse = []
        for one, policy.grid in zip(video, plan, strict=True):
            sparse.append((model(one), ends.take()))
    finally:
        bc.restore_(model)
        ends.hook()
    wanted = reference(model, ends, video, padded, plan, block)
    ends.remove()
    parts = {p: m for p, m in report.modules.items() if not p.startswith(ROI_PARTS)}
    on_blocks = sum(m.dense for m in parts.values())
    return Findings(
        size=size,
        share=on_blocks / sum(m.total for m in parts.values()),
        law_1=max(deviation(a[1], b[1]) for a, b in zip(full, plain[:2], strict=True)),
        law_1_outputs=max(
            output_deviation(a[0], b[0]) for a, b in zip(full, plain[:2], strict=True)
        ),
        law_3=max(deviation(a[1], b[1]) for a, b in zip(sparse, wanted, strict=True)),
        law_3_outputs=max(
            output_deviation(a[0], b[0]) for a, b in zip(sparse, wanted, strict=True)
        ),
        moved=deviation(sparse[-1][1], plain[-1][1]),
    )


def reference(
    model: nn.Module,
    ends: Ends,
    video: Sequence[Any],
    padded: Sequence[Tensor],
    plan: Sequence[Tensor],
    block: int,
) -> list[tuple[Any, dict[str, Any]]]:
    """Outputs and maps of each frame by the masked sentence.

    The maps come from :class:`MaskedReference`; the outputs from the plain model, whose backbone
    and heads are made to return them.
    """
    from blockcopy_plugins.engine.adapter import ModelAdapter
    from blockcopy_plugins.integrations.detectron2 import MetaArchAdapter

    class OfMaps(ModelAdapter):
        """Poolings that run on whole maps, as the model's adapter has them."""

        def dense_inputs(self, unit: nn.Module):
            return MetaArchAdapter(model).dense_inputs(model)

    ends.remove()
    unit = Maps(model, ends)
    oracle = MaskedReference(unit, block, OfMaps())
    results = []
    for one, x, grid in zip(video, padded, plan, strict=True):
        with torch.no_grad():
            found = oracle(grid, x)
        given = {model.backbone: found["features"]}
        given |= {ends.modules[name]: maps for name, maps in found["maps"].items()}
        # Heads of PanopticFPN's kind are looked at by their predictor's map.
        hooks = [
            module.register_forward_hook(lambda m, args, out, value=value: copied_maps(value))
            for module, value in given.items()
        ]
        try:
            with torch.no_grad():
                results.append((model(one), found["maps"]))
        finally:
            for hook in hooks:
                hook.remove()
    return results


def output_deviation(found: Sequence[Any], expected: Sequence[Any]) -> float:
    """How far the outputs of two runs are from each other.

    Of detections, box by box in the order of their scores: differences of boxes relative to the
    image's size, of scores, and the share of mask pixels that differ. Of segmentation the largest
    difference of logits relative to the largest logit; where points were chosen by their rank
    (PointRend), the share of pixels that differ by more than 1e-3 of it, as rounding decides
    between points of equal rank.

    Returns:
        The largest of them; infinity where the numbers of detections differ, or one is NaN.
    """
    seen: list[float] = []
    for a, b in zip(found, expected, strict=True):
        if "instances" in b:
            a_i, b_i = a["instances"], b["instances"]
            if len(a_i) != len(b_i):
                return float("inf")
            if len(b_i):
                scale = max(b_i.image_size)
                boxes = (a_i.pred_boxes.tensor - b_i.pred_boxes.tensor).abs().max() / scale
                scores = (a_i.scores - b_i.scores).abs().max()
                seen += [boxes.item(), scores.item()]
                if b_i.has("pred_masks"):
                    seen.append((a_i.pred_masks != b_i.pred_masks).float().mean().item())
        if "sem_seg" in b:
            difference = (a["sem_seg"] - b["sem_seg"]).abs() / b["sem_seg"].abs().max()
            largest = difference.max().item()
            chosen = (difference.amax(0) > 1e-3).float().mean().item()
            seen.append(min(largest, chosen) if largest > 1e-3 else largest)
    # max() would drop NaN, and take garbage for agreement.
    return max((x if x == x else float("inf") for x in seen), default=0.0)


def _padded(model: nn.Module, inputs: Sequence[Any]) -> Tensor:
    from detectron2.structures import ImageList

    images = [(x["image"] - model.pixel_mean) / model.pixel_std for x in inputs]
    return ImageList.from_tensors(
        images,
        model.backbone.size_divisibility,
        padding_constraints=model.backbone.padding_constraints,
    ).tensor


def _grid(frame: Tensor, block: int, rate: float, seed: int) -> Tensor:
    shape = tuple(-(-length // block) for length in frame.shape[2:])
    blocks = shape[0] * shape[1]
    draw = torch.Generator().manual_seed(8 + seed)
    rank = torch.rand(len(frame), blocks, generator=draw).argsort(1).argsort(1)
    return (rank < max(1, round(rate * blocks))).view(len(frame), *shape)
