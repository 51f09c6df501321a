"""Networks that are built by name: Ultralytics, torchvision, timm, transformers, smp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class NamedNetwork:
    """A network that its framework builds by name.

    Attributes:
        package: ``ultralytics``, ``torchvision``, ``timm``, ``transformers`` or ``smp``.
        name: As ``python -m blockcopy_plugins.info package:name`` takes it.
        covers: What it brings that the others lack.
        block: Block size in pixels. A multiple of the network's total stride.
        size: ``(H, W)`` of the frames in pixels; no multiple of the block where the model takes it.
        dtype: ``float64`` where rounding errors of ``float32`` grow to what a law allows, or pick
            another query.
        timed: ``(H, W)`` of the frames in pixels on which E is measured.
        convolutional: See :class:`~.architectures.Architecture`.
        options: None; a column of the table of architectures.
    """

    package: str
    name: str
    covers: str
    block: int = 64
    size: tuple[int, int] = (96, 160)
    dtype: str = "float32"
    timed: tuple[int, int] = (512, 512)
    convolutional: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: str | None = None

    def __str__(self) -> str:
        return f"{self.package}:{self.name}"


def _all(package: str, *rows: tuple[str, str], **more: Any) -> tuple[NamedNetwork, ...]:
    return tuple(NamedNetwork(package, name, covers, **more) for name, covers in rows)


_SQUARE = {"size": (224, 224), "timed": (224, 224), "convolutional": False}

NETWORKS: tuple[NamedNetwork, ...] = (
    *_all(
        "ultralytics",
        ("yolov5n.yaml", "C3 blocks, SPPF"),
        ("yolov6n.yaml", "transposed convolutions"),
        ("yolov8n.yaml", "C2f blocks, distribution of distances"),
        ("yolov8n-seg.yaml", "mask prototypes"),
        ("yolov8n-pose.yaml", "keypoints"),
        ("yolov8n-obb.yaml", "rotated boxes"),
        ("yolov8n-p2.yaml", "stride 4"),
        ("yolov8n-ghost.yaml", "ghost convolutions"),
        ("yolo11n.yaml", "attention on stride 32"),
        ("yolo11n-seg.yaml", "the same with masks"),
        ("yolo11n-pose.yaml", "the same with keypoints"),
        ("yolo12n.yaml", "attention by areas"),
    ),
    *_all(
        "ultralytics",
        ("yolov9t.yaml", "average pooling without stride"),
        ("yolov10n.yaml", "large depthwise kernels, partial attention"),
        ("yolo26n.yaml", "no suppression"),
        ("yolo26n-seg.yaml", "the same with masks"),
        ("yolo26n-depth.yaml", "depth"),
        ("yolo26n-sem.yaml", "semantic segmentation"),
        dtype="float64",
    ),
    *_all(
        "torchvision",
        ("fasterrcnn_mobilenet_v3_large_fpn", "FPN on MobileNetV3"),
        ("fasterrcnn_resnet50_fpn", "two stages, FPN"),
        ("fasterrcnn_resnet50_fpn_v2", "norms in the neck and heads"),
        ("retinanet_resnet50_fpn", "dense head, P6 and P7"),
        ("retinanet_resnet50_fpn_v2", "group norm in the head"),
        ("fcos_resnet50_fpn", "group norm, centre-ness"),
        block=128,
        size=(128, 160),
        timed=(384, 384),
    ),
    *_all(
        "torchvision",
        ("ssd300_vgg16", "ceil_mode pooling, dilation, no padding"),
        block=128,
        size=(300, 300),
        timed=(384, 384),
    ),
    *_all(
        "torchvision",
        ("ssdlite320_mobilenet_v3_large", "depthwise heads"),
        block=128,
        size=(128, 160),
        dtype="float64",
        timed=(384, 384),
    ),
    *_all(
        "torchvision",
        ("deeplabv3_resnet50", "dilations of 12 to 36"),
        ("fcn_resnet50", "dilated backbone"),
        ("lraspp_mobilenet_v3_large", "pooling in the decoder"),
        ("convnext_tiny", "7x7 depthwise, layer norm"),
        ("efficientnet_b0", "squeeze and excitation"),
        ("regnet_y_400mf", "grouped convolutions"),
        ("densenet121", "concatenations"),
        ("shufflenet_v2_x1_0", "channel shuffle"),
        ("swin_t", "shifted windows"),
    ),
    *_all(
        "timm",
        ("resnet50/features", "as a backbone"),
        ("resnet50d/features", "average pooling in shortcuts"),
        ("resnext50_32x4d/features", "groups"),
        ("res2net50_26w_4s/features", "splits inside of a block"),
        ("hrnet_w18_small/features", "four resolutions"),
        ("dla34/features", "trees"),
        ("vovnet39a/features", "concatenations"),
        ("cspdarknet53/features", "cross-stage parts"),
        ("mobilenetv3_large_100/features", "hard swish"),
        ("mobilenetv4_conv_small/features", "universal bottlenecks"),
        ("efficientnet_b0/features", "squeeze and excitation"),
        ("tf_efficientnetv2_s/features", "same padding"),
        ("convnextv2_atto/features", "norm of the response"),
        ("repvgg_a0/features", "branches"),
        ("edgenext_xx_small/features", "attention over channels"),
        ("fastvit_t8/features", "convolutions that mix"),
        ("ghostnet_100/features", "ghost modules"),
        ("inception_v3/features", "kernels 1x7 and 7x1"),
    ),
    *_all("timm", ("nfnet_l0/features", "standardised weights"), dtype="float64"),
    *_all(
        "timm",
        ("mobilevit_s/features", "attention in patches"),
        ("poolformerv2_s12/features", "pooling for attention"),
        ("pvt_v2_b0/features", "attention with reduced keys"),
        ("coat_lite_mini", "factorised attention"),
        ("swin_tiny_patch4_window7_224", "shifted windows"),
        ("vit_tiny_patch16_224", "class token"),
        **_SQUARE,
    ),
    *_all(
        "timm",
        ("efficientvit_b0/features", "linear attention with ReLU"),
        ("mobilevitv2_050/features", "linear attention"),
        ("repvit_m0_9/features", "branches"),
        ("inception_next_atto/features", "split depthwise kernels"),
        size=(128, 192),
        convolutional=False,
    ),
    *_all(
        "timm",
        ("tiny_vit_5m_224", "windows with a bias, convolutions between"),
        ("coatnet_nano_rw_224", "attention behind convolutions"),
        ("efficientformerv2_s0", "attention on reduced maps"),
        **_SQUARE,
    ),
    *_all("timm", ("levit_128s", "batch norm of tokens"), dtype="float64", **_SQUARE),
    *_all(
        "timm",
        ("swinv2_tiny_window8_256", "cosine attention, rolled before it is padded"),
        size=(256, 256),
        timed=(256, 256),
        convolutional=False,
    ),
    *_all(
        "torchvision",
        ("maxvit_t", "windows and grids by einsum"),
        ("swin_v2_t", "cosine attention"),
        **_SQUARE,
    ),
    *_all(
        "transformers",
        ("SegformerForSemanticSegmentation", "hierarchical attention"),
        ("UperNetForSemanticSegmentation", "pyramid pooling"),
        ("MobileNetV2ForSemanticSegmentation", "padding as TensorFlow's"),
        ("ResNetForImageClassification", "as a classifier"),
        ("ConvNextForImageClassification", "layer norm"),
        ("MobileViTForSemanticSegmentation", "attention in patches"),
        ("RegNetForImageClassification", "grouped convolutions"),
        ("GLPNForDepthEstimation", "depth"),
        block=64,
        size=(128, 192),
        convolutional=False,
    ),
    *_all(
        "transformers",
        ("SwinForImageClassification", "shifted windows"),
        ("YolosForObjectDetection", "tokens for boxes"),
        ("ViTForImageClassification", "class token"),
        **_SQUARE,
    ),
    *_all(
        "transformers",
        ("DepthAnythingForDepthEstimation", "tokens reassembled into maps"),
        block=56,
        size=(112, 168),
        timed=(448, 448),
        convolutional=False,
    ),
    *_all(
        "transformers",
        ("RTDetrForObjectDetection", "hybrid encoder, deformable decoder"),
        ("DFineForObjectDetection", "refined distributions"),
        block=64,
        size=(128, 192),
        dtype="float64",
        convolutional=False,
    ),
    *_all(
        "smp",
        ("unet/resnet34", "skips, nearest resizes"),
        ("unetplusplus/resnet18", "dense skips"),
        ("manet/resnet18", "attention over positions"),
        ("linknet/resnet18", "transposed convolutions"),
        ("fpn/resnet34", "pyramid"),
        ("pspnet/resnet34", "pyramid pooling"),
        ("deeplabv3/resnet18", "dilations"),
        ("deeplabv3plus/resnet34", "dilated, separable"),
        ("unet/efficientnet-b0", "squeeze and excitation"),
        ("unet/mobilenet_v2", "inverted residuals"),
        ("segformer/resnet18", "linear decoder"),
        ("upernet/resnet18", "pyramid pooling"),
    ),
    # Three poolings on stride 16.
    *_all("smp", ("pan/resnet34", "attention pyramid"), size=(128, 192)),
)

FAMILIES = tuple(dict.fromkeys(network.package for network in NETWORKS))
