"""Weights of Pedestron's MGAN and where they go."""

from __future__ import annotations

from torch import Tensor

from ...checkpoints import KeyRules


def _foreground_first(key: str, tensor: Tensor) -> Tensor:
    """Bring the box head's classes into today's order.

    In MMDetection 0.x, background is class 0, and has deltas that nothing uses. Today background is
    the last class and has no deltas.

    Args:
        key: The target key.
        tensor: A parameter from Pedestron.

    Returns:
        The parameter as used here.
    """
    if ".fc_cls." in key:
        return tensor.roll(-1, 0)
    if ".fc_reg." in key:
        return tensor[4:].clone()
    return tensor


PEDESTRON_MGAN = KeyRules(
    name="pedestron-mgan",
    description="MGAN with VGG16 from Pedestron (mgan_vgg.py, mgan_50_65.py)",
    rules=(
        (r"(backbone\.features\.\d+\.(?:weight|bias))", r"\1"),
        (r"(rpn_head\.rpn_(?:conv|cls|reg)\.(?:weight|bias))", r"\1"),
        (r"(mgan_head\.(?:convs\.\d+\.conv|conv_logits)\.(?:weight|bias))", r"roi_head.\1"),
        (r"(bbox_head\.(?:shared_fcs\.\d+|fc_cls|fc_reg)\.(?:weight|bias))", r"roi_head.\1"),
    ),
    model="mgan_vgg16",
    transform=_foreground_first,
)
