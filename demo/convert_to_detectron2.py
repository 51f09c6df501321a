#!/usr/bin/env python
"""Writes the demo detector's weights under the names of Detectron2's modules.

python demo/convert_to_detectron2.py work_dirs/maskrcnn_vtest_detectron2.pth

The model is configs/detectron2/mask_rcnn_R_18_thin_vtest.py. No value is changed.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch

_WEIGHTS = Path(__file__).resolve().parent / "maskrcnn_vtest.pth"

# Full names of MMDetection's parameters, and what they are called in Detectron2.
_RULES = (
    (r"backbone\.conv1\.(.*)", r"backbone.bottom_up.stem.conv1.\1"),
    (r"backbone\.bn1\.(.*)", r"backbone.bottom_up.stem.conv1.norm.\1"),
    (r"backbone\.layer(\d)\.(\d)\.conv(\d)\.(.*)", r"backbone.bottom_up.res{+\1}.\2.conv\3.\4"),
    (r"backbone\.layer(\d)\.(\d)\.bn(\d)\.(.*)", r"backbone.bottom_up.res{+\1}.\2.conv\3.norm.\4"),
    (
        r"backbone\.layer(\d)\.(\d)\.downsample\.0\.(.*)",
        r"backbone.bottom_up.res{+\1}.\2.shortcut.\3",
    ),
    (
        r"backbone\.layer(\d)\.(\d)\.downsample\.1\.(.*)",
        r"backbone.bottom_up.res{+\1}.\2.shortcut.norm.\3",
    ),
    (r"neck\.lateral_convs\.(\d)\.conv\.(.*)", r"backbone.fpn_lateral{++\1}.\2"),
    (r"neck\.lateral_convs\.(\d)\.bn\.(.*)", r"backbone.fpn_lateral{++\1}.norm.\2"),
    (r"neck\.fpn_convs\.(\d)\.conv\.(.*)", r"backbone.fpn_output{++\1}.\2"),
    (r"neck\.fpn_convs\.(\d)\.bn\.(.*)", r"backbone.fpn_output{++\1}.norm.\2"),
    (r"rpn_head\.rpn_conv\.(.*)", r"proposal_generator.rpn_head.conv.\1"),
    (r"rpn_head\.rpn_cls\.(.*)", r"proposal_generator.rpn_head.objectness_logits.\1"),
    (r"rpn_head\.rpn_reg\.(.*)", r"proposal_generator.rpn_head.anchor_deltas.\1"),
    (r"roi_head\.bbox_head\.shared_fcs\.(\d)\.(.*)", r"roi_heads.box_head.fc{+\1}.\2"),
    (r"roi_head\.bbox_head\.fc_cls\.(.*)", r"roi_heads.box_predictor.cls_score.\1"),
    (r"roi_head\.bbox_head\.fc_reg\.(.*)", r"roi_heads.box_predictor.bbox_pred.\1"),
    (r"roi_head\.mask_head\.convs\.(\d)\.conv\.(.*)", r"roi_heads.mask_head.mask_fcn{+\1}.\2"),
    (r"roi_head\.mask_head\.upsample\.(.*)", r"roi_heads.mask_head.deconv.\1"),
    (r"roi_head\.mask_head\.conv_logits\.(.*)", r"roi_heads.mask_head.predictor.\1"),
)


def rename(name: str) -> str:
    """The name in Detectron2; ``{+n}`` in a rule counts one further, ``{++n}`` two."""
    for pattern, target in _RULES:
        if re.fullmatch(pattern, name):
            new = re.sub(pattern, target, name)
            return re.sub(r"\{(\++)(\d)\}", lambda m: str(int(m[2]) + len(m[1])), new)
    raise KeyError(f"no rule for {name!r}")


def convert(weights: Path) -> dict[str, torch.Tensor]:
    """The state dict under Detectron2's names, float32."""
    state = torch.load(weights, map_location="cpu", weights_only=False)["state_dict"]
    found = {rename(k): v.float() if v.is_floating_point() else v for k, v in state.items()}
    if len(found) != len(state):
        raise KeyError("two parameters got the same name")
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="file to write")
    parser.add_argument("--weights", type=Path, default=_WEIGHTS, help="the demo detector's")
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    # The names are exact: Detectron2 need not guess.
    torch.save({"model": convert(args.weights), "__author__": "blockcopy_plugins"}, args.output)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
