"""Weights of Pedestron's CSP and where they go."""

from __future__ import annotations

from ...checkpoints import KeyRules

# Pedestron's trainer keeps a slow mean of the weights, a "mean teacher", and writes it beside each
# checkpoint as `epoch_N.pth.stu`: a `state_dict` of the same keys. The published file is one.
# Files of a wrapped model have `module.` before each key.
_MODULE = r"(?:module\.)?"

PEDESTRON_CSP = KeyRules(
    name="pedestron-csp",
    description="CSP with ResNet-50 from Pedestron (csp_r50.py), .pth or .pth.stu",
    rules=(
        (
            _MODULE + r"(backbone\.(?:layer\d\.\d+\.)?(?:conv\d|bn\d|downsample\.\d)\."
            r"(?:weight|bias|running_mean|running_var|num_batches_tracked))",
            r"\1",
        ),
        (_MODULE + r"neck\.p3\.(weight|bias)", r"neck.upsamplings.0.\1"),
        (_MODULE + r"neck\.p4\.(weight|bias)", r"neck.upsamplings.1.\1"),
        (_MODULE + r"neck\.p5\.(weight|bias)", r"neck.upsamplings.2.\1"),
        (_MODULE + r"neck\.p3_l2\.weight", r"neck.norms.0.weight"),
        (_MODULE + r"neck\.p4_l2\.weight", r"neck.norms.1.weight"),
        (_MODULE + r"neck\.p5_l2\.weight", r"neck.norms.2.weight"),
        (
            _MODULE + r"bbox_head\.cls_convs\.(\d+)\.(conv|gn)\.(weight|bias)",
            r"bbox_head.center_convs.\1.\2.\3",
        ),
        (
            _MODULE + r"bbox_head\.reg_convs\.(\d+)\.(conv|gn)\.(weight|bias)",
            r"bbox_head.scale_convs.\1.\2.\3",
        ),
        (
            _MODULE + r"bbox_head\.offset_convs\.(\d+)\.(conv|gn)\.(weight|bias)",
            r"bbox_head.offset_convs.\1.\2.\3",
        ),
        (_MODULE + r"bbox_head\.csp_cls\.(weight|bias)", r"bbox_head.center_pred.\1"),
        (_MODULE + r"bbox_head\.csp_reg\.(weight|bias)", r"bbox_head.scale_pred.\1"),
        (_MODULE + r"bbox_head\.csp_offset\.(weight|bias)", r"bbox_head.offset_pred.\1"),
        (_MODULE + r"bbox_head\.reg_scales\.0\.scale", r"bbox_head.scale_factor.scale"),
        (_MODULE + r"bbox_head\.offset_scales\.0\.scale", r"bbox_head.offset_factor.scale"),
    ),
    # Files written before PyTorch 0.4.1 do not count batches.
    unfilled=(r".*\.num_batches_tracked",),
    model="csp_r50",
)
