"""Weights of SwiftNet from other code bases and where they go."""

from __future__ import annotations

from ...checkpoints import KeyRules

_MODULE = r"(?:module\.)?"
_VALUES = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_RESNET = (
    r"(backbone\.(?:layer\d\.\d+\.)?(?:conv\d|bn\d|downsample\.\d)\."
    r"(?:weight|bias|running_mean|running_var|num_batches_tracked))"
)


def _decoder(prefix: str) -> tuple[tuple[str, str], ...]:
    """Rules of the part after the residual network.

    Args:
        prefix: Regular expression of the start of its keys.

    Returns:
        Rules, see :class:`KeyRules`. Each of its layers has the parts ``norm`` and ``conv``.
    """
    parts = (
        (prefix + r"spp\.spp\.spp_bn\.", r"neck.spp.reduce."),
        (prefix + r"spp\.spp\.spp(?P<n>\d+)\.", r"neck.spp.levels.\g<n>."),
        (prefix + r"spp\.spp\.spp_fuse\.", r"neck.spp.fuse."),
        (prefix + r"upsample\.(?P<n>\d+)\.bottleneck\.", r"neck.upsamplings.\g<n>.lateral."),
        (prefix + r"upsample\.(?P<n>\d+)\.blend_conv\.", r"neck.upsamplings.\g<n>.blend."),
    )
    rules = []
    for pattern, goal in parts:
        rules.append((pattern + r"norm\.(?P<value>" + _VALUES[1:], goal + r"bn.\g<value>"))
        rules.append((pattern + r"conv\.weight", goal + r"conv.weight"))
    return tuple(rules)


def _head(prefix: str) -> tuple[tuple[str, str], ...]:
    return (
        (prefix + r"logits\.norm\." + _VALUES, r"decode_head.norm.\1"),
        (prefix + r"logits\.conv\.(weight|bias)", r"decode_head.conv_seg.\1"),
    )


SWIFTNET_ORSIC_RN18 = KeyRules(
    name="swiftnet-orsic-rn18",
    description="SwiftNet-RN18, single scale, of its authors (orsic/swiftnet, model_best.pt)",
    rules=(
        (_MODULE + _RESNET, r"\1"),
        # The data preprocessor has these values, from the config.
        (_MODULE + r"backbone\.img_(?:mean|std|scale)", None),
        *_decoder(_MODULE + r"backbone\."),
        *_head(_MODULE),
    ),
    # Files written before PyTorch 0.4.1 do not count batches.
    unfilled=(r".*\.num_batches_tracked",),
    model="swiftnet_r18_orsic",
)


def _blockcopy(depth: int) -> KeyRules:
    return KeyRules(
        name=f"swiftnet-blockcopy-rn{depth}",
        description=(
            f"SwiftNet-RN{depth} of the BlockCopy paper's code "
            "(thomasverelst/blockcopy-video-processing-pytorch, "
            f"pretrained/swiftnet_rn{depth}.pth)"
        ),
        rules=((_MODULE + _RESNET, r"\1"), *_decoder(_MODULE), *_head(_MODULE)),
        unfilled=(r".*\.num_batches_tracked",),
        model=f"swiftnet_r{depth}",
    )


SWIFTNET_BLOCKCOPY_RN18 = _blockcopy(18)
SWIFTNET_BLOCKCOPY_RN50 = _blockcopy(50)
