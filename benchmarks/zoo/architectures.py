"""Which architectures of the zoos are tried, and what each of them is there for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """A model of a zoo, made small where that changes no op.

    Attributes:
        name: For people.
        package: ``mmdet`` or ``mmseg``.
        config: Path below the package's ``.mim/configs``.
        covers: What it brings that the others lack.
        options: Changes of the config, by dotted key. They change how often a layer is there or how
            wide it is, never what it is.
        block: Block size in pixels. A multiple of the network's total stride.
        size: ``(H, W)`` of the frames in pixels; no multiple of the block where the model takes it.
        dtype: ``float64`` where rounding errors of ``float32`` grow to what a law allows.
        convolutional: Made of convolutions and of ops on each pixel, pooling and resize among them,
            and so to run on blocks by 95 % and more. Not said of models with attention, deformable
            convolution or statistics over the map.
        quick: One of those that every test run tries.
        needs: A package beside MMDetection and MMSegmentation without which it cannot be built.
    """

    name: str
    package: str
    config: str
    covers: str
    options: Mapping[str, Any] = field(default_factory=dict)
    block: int = 64
    size: tuple[int, int] = (97, 131)
    dtype: str = "float32"
    convolutional: bool = False
    quick: bool = False
    needs: str | None = None

    def __str__(self) -> str:
        return self.name


# Frames of a model whose strides go to 128.
_P7 = {"block": 128, "size": (130, 260)}
# Frames of a model that takes multiples of 32 alone, yet no multiples of the block.
_EVEN = {"size": (96, 160)}


def _detector(name: str, config: str, covers: str, **more) -> Architecture:
    return Architecture(name, "mmdet", config, covers, **more)


def _segmentor(name: str, config: str, covers: str, **more) -> Architecture:
    return Architecture(name, "mmseg", config, covers, **more)


DETECTORS: tuple[Architecture, ...] = (
    _detector(
        "Mask R-CNN R50-FPN",
        "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
        "two stages, FPN",
        convolutional=True,
    ),
    _detector(
        "Faster R-CNN R50-C4",
        "faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py",
        "two stages without a neck",
        convolutional=True,
    ),
    _detector(
        "Faster R-CNN R50-DC5",
        "faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py",
        "dilated last stage",
        convolutional=True,
    ),
    _detector(
        "Mask R-CNN X50-32x4d",
        "mask_rcnn/mask-rcnn_x101-32x4d_fpn_1x_coco.py",
        "grouped convolution",
        options={"model.backbone.depth": 50},
        convolutional=True,
    ),
    _detector(
        "RetinaNet RegNetX-800MF",
        "regnet/retinanet_regnetx-800MF_fpn_1x_coco.py",
        "grouped convolution, one stage",
        convolutional=True,
        **_P7,
    ),
    _detector(
        "RetinaNet R18",
        "retinanet/retinanet_r18_fpn_1x_coco.py",
        "basic blocks, anchors",
        convolutional=True,
        **_P7,
    ),
    _detector("ATSS R50", "atss/atss_r50_fpn_1x_coco.py", "group norm in the head", **_P7),
    _detector(
        "FCOS R50 GN",
        "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
        "anchor-free, group norm in the head",
        **_P7,
    ),
    _detector(
        "Faster R-CNN R50 GN+WS",
        "gn+ws/faster-rcnn_r50_fpn_gn-ws-all_1x_coco.py",
        "group norm and weight standardisation everywhere",
    ),
    _detector("GFL R50", "gfl/gfl_r50_fpn_1x_coco.py", "distributions for boxes", **_P7),
    _detector(
        "TOOD R50", "tood/tood_r50_fpn_1x_coco.py", "task-aligned head, layer attention", **_P7
    ),
    _detector(
        "VFNet R50",
        "vfnet/vfnet_r50_fpn_1x_coco.py",
        "deformable convolution in the head",
        **_P7,
    ),
    _detector(
        "RepPoints R50",
        "reppoints/reppoints-moment_r50_fpn_1x_coco.py",
        "points, deformable convolution in the head",
        **_P7,
    ),
    _detector(
        "FoveaBox R50",
        "foveabox/fovea_r50_fpn_4xb4-1x_coco.py",
        "anchor-free",
        **_P7,
        convolutional=True,
    ),
    _detector(
        "FSAF R50", "fsaf/fsaf_r50_fpn_1x_coco.py", "anchor-free branch", **_P7, convolutional=True
    ),
    _detector(
        "CenterNet R18",
        "centernet/centernet_r18_8xb16-crop512-140e_coco.py",
        "transposed convolution",
        convolutional=True,
        quick=True,
    ),
    _detector(
        "CenterNet R18 DCN",
        "centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py",
        "transposed and deformable convolution",
        quick=True,
    ),
    _detector(
        "Faster R-CNN R50 DCN",
        "dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py",
        "deformable convolution in the backbone",
    ),
    _detector(
        "RTMDet tiny",
        "rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
        "depthwise 5×5, channel attention, shared heads",
        **_EVEN,
        dtype="float64",
    ),
    _detector(
        "RTMDet-Ins tiny",
        "rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py",
        "kernels and mask features as outputs",
        **_EVEN,
        dtype="float64",
    ),
    _detector(
        "YOLOX tiny",
        "yolox/yolox_tiny_8xb8-300e_coco.py",
        "Focus stem, SPP, SiLU",
        convolutional=True,
        **_EVEN,
        dtype="float64",
    ),
    _detector(
        "YOLOX nano",
        "yolox/yolox_nano_8xb8-300e_coco.py",
        "Focus stem, depthwise convolution",
        convolutional=True,
        dtype="float64",
        **_EVEN,
        quick=True,
    ),
    _detector(
        "YOLOv3 D53",
        "yolo/yolov3_d53_8xb8-320-273e_coco.py",
        "Darknet, leaky ReLU",
        convolutional=True,
        **_EVEN,
    ),
    _detector(
        "YOLOv3 MobileNetV2",
        "yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py",
        "inverted residuals",
        convolutional=True,
        **_EVEN,
    ),
    _detector(
        "YOLOF R50",
        "yolof/yolof_r50-c5_8xb8-1x_coco.py",
        "dilated encoder",
        convolutional=True,
    ),
    _detector(
        "SSD300 VGG16",
        "ssd/ssd300_coco.py",
        "ceil_mode pooling, L2 norm, unpadded convolutions",
        size=(300, 300),
        convolutional=True,
    ),
    _detector(
        "SSDLite MobileNetV2",
        "ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py",
        "depthwise heads",
        size=(200, 260),
        convolutional=True,
        dtype="float64",
    ),
    _detector(
        "TridentNet R50",
        "tridentnet/tridentnet_r50-caffe_1x_coco.py",
        "dilated branches, no neck",
        convolutional=True,
    ),
    _detector(
        "DetectoRS R50",
        "detectors/detectors_cascade-rcnn_r50_1x_coco.py",
        "recursive FPN, switchable atrous convolution",
    ),
    _detector(
        "Faster R-CNN HRNetV2p-W18",
        "hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py",
        "four resolutions beside each other",
        convolutional=True,
        **_EVEN,
    ),
    _detector(
        "Faster R-CNN Res2Net-50",
        "res2net/faster-rcnn_res2net-101_fpn_2x_coco.py",
        "splits of channels inside a block",
        options={"model.backbone.depth": 50},
        convolutional=True,
    ),
    _detector(
        "Faster R-CNN ResNeSt-50",
        "resnest/faster-rcnn_s50_fpn_syncbn-backbone+head_ms-range-1x_coco.py",
        "split attention",
    ),
    _detector(
        "RetinaNet EfficientNet-B3",
        "efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py",
        "squeeze and excitation, same padding",
        **_P7,
    ),
    _detector(
        "Faster R-CNN R50-PAFPN",
        "pafpn/faster-rcnn_r50_pafpn_1x_coco.py",
        "bottom-up path after the FPN",
        convolutional=True,
    ),
    _detector(
        "RetinaNet R50-NAS-FPN",
        "nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py",
        "merging cells with global attention",
        **_P7,
        dtype="float64",
    ),
    _detector(
        "Libra R-CNN R50",
        "libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py",
        "balanced pyramid: adaptive pooling, non-local block",
    ),
    _detector(
        "RetinaNet R50-FPG",
        "fpg/retinanet_r50_fpg-chn128_crop640_50e_coco.py",
        "pyramid grid",
        convolutional=True,
        block=128,
        size=(256, 384),
    ),
    _detector(
        "NAS-FCOS R50",
        "nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco.py",
        "searched neck and head",
        **_P7,
    ),
    _detector(
        "ATSS R50 DyHead",
        "dyhead/atss_r50_fpn_dyhead_1x_coco.py",
        "dynamic head",
        **_P7,
    ),
    _detector(
        "Mask R-CNN R50 GCNet",
        "gcnet/mask-rcnn_r50-gcb-r4-c3-c5_fpn_1x_coco.py",
        "global context blocks",
    ),
    _detector(
        "Faster R-CNN R50 empirical attention",
        "empirical_attention/faster-rcnn_r50-attn1111_fpn_1x_coco.py",
        "attention inside residual blocks",
    ),
    _detector(
        "HTC R50",
        "htc/htc_r50_fpn_1x_coco.py",
        "semantic branch beside the RoI heads",
        convolutional=True,
    ),
    _detector(
        "Panoptic FPN R50", "panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py", "semantic head", **_EVEN
    ),
    _detector("SOLO R18", "solo/solo_r18_fpn_8xb8-lsj-200e_coco.py", "coordinates as channels"),
    _detector(
        "SOLOv2-light R18", "solov2/solov2-light_r18_fpn_ms-3x_coco.py", "dynamic kernels", **_EVEN
    ),
    _detector(
        "CondInst R50",
        "condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py",
        "mask branch",
        block=128,
        size=(160, 288),
    ),
    _detector(
        "YOLACT R50",
        "yolact/yolact_r50_1xb8-55e_coco.py",
        "prototypes",
        convolutional=True,
        **_P7,
    ),
    _detector(
        "CornerNet",
        "cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py",
        "hourglass, corner pooling",
        block=128,
        size=(128, 256),
        options={
            "model.backbone.num_stacks": 1,
            "model.bbox_head.num_feat_levels": 1,
        },
    ),
    _detector(
        "CentripetalNet",
        "centripetalnet/centripetalnet_hourglass104_16xb6-crop511-210e-mstest_coco.py",
        "hourglass, corner pooling, deformable convolution",
        block=128,
        size=(128, 256),
        options={
            "model.backbone.num_stacks": 1,
            "model.bbox_head.num_feat_levels": 1,
        },
    ),
    _detector(
        "DETR R18", "detr/detr_r18_8xb2-500e_coco.py", "transformer encoder and decoder", quick=True
    ),
    _detector(
        "Deformable DETR R50",
        "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
        "deformable attention",
    ),
    _detector(
        "RetinaNet Swin-T",
        "swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py",
        "shifted windows",
        **_P7,
    ),
    _detector(
        "RetinaNet PVT-T", "pvt/retinanet_pvt-t_fpn_1x_coco.py", "pyramid transformer", **_P7
    ),
    _detector(
        "RetinaNet PVTv2-B0",
        "pvt/retinanet_pvtv2-b0_fpn_1x_coco.py",
        "depthwise convolution between tokens",
        **_P7,
    ),
    _detector(
        "Mask2Former R50",
        "mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
        "pixel decoder, masked attention",
    ),
    _detector(
        "Mask R-CNN ConvNeXt-T",
        "convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py",
        "depthwise 7×7, layer norm over channels",
        needs="mmpretrain",
        convolutional=True,
    ),
)

SEGMENTORS: tuple[Architecture, ...] = (
    _segmentor(
        "DeepLabV3+ R50",
        "deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py",
        "dilations of several blocks, separable convolution",
        convolutional=True,
    ),
    _segmentor(
        "DeepLabV3 R50",
        "deeplabv3/deeplabv3_r50-d8_4xb2-40k_cityscapes-512x1024.py",
        "atrous pyramid",
        convolutional=True,
    ),
    _segmentor(
        "PSPNet R50",
        "pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
        "pyramid pooling",
        convolutional=True,
    ),
    _segmentor(
        "UPerNet R18",
        "upernet/upernet_r18_4xb2-40k_cityscapes-512x1024.py",
        "pyramid pooling and FPN",
        convolutional=True,
    ),
    _segmentor(
        "FCN R50", "fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py", "dilated", convolutional=True
    ),
    _segmentor(
        "FCN-D6 R50",
        "fcn/fcn-d6_r50-d16_4xb2-40k_cityscapes-512x1024.py",
        "dilation 6",
        convolutional=True,
    ),
    _segmentor(
        "UNet-FCN",
        "unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py",
        "encoder and decoder with skips",
        convolutional=True,
        **_EVEN,
    ),
    _segmentor(
        "UNet deconvolution",
        "unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py",
        "transposed convolution with stride 2",
        options={"model.backbone.upsample_cfg": {"type": "DeconvModule", "_delete_": True}},
        convolutional=True,
        **_EVEN,
    ),
    _segmentor(
        "FCN HRNet-W18s",
        "hrnet/fcn_hr18s_4xb2-40k_cityscapes-512x1024.py",
        "four resolutions",
        convolutional=True,
        quick=True,
    ),
    _segmentor(
        "OCRNet HRNet-W18s",
        "ocrnet/ocrnet_hr18s_4xb2-40k_cityscapes-512x1024.py",
        "cascade, object context",
    ),
    _segmentor(
        "BiSeNetV1 R18",
        "bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py",
        "two paths, attention refinement",
        **_EVEN,
    ),
    _segmentor(
        "BiSeNetV2",
        "bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py",
        "depthwise, guided aggregation",
        **_EVEN,
        quick=True,
    ),
    _segmentor(
        "STDC1",
        "stdc/stdc1_4xb12-80k_cityscapes-512x1024.py",
        "short-term dense concatenation",
        **_EVEN,
    ),
    _segmentor(
        "DDRNet-23-slim",
        "ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py",
        "two resolutions, deep pyramid pooling",
        convolutional=True,
        block=128,
        size=(192, 320),
    ),
    _segmentor(
        "PIDNet-S",
        "pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py",
        "three branches",
        convolutional=True,
        block=128,
        size=(192, 320),
    ),
    _segmentor(
        "ICNet R18",
        "icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832.py",
        "cascade of image sizes",
        **_EVEN,
    ),
    _segmentor(
        "Fast-SCNN",
        "fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py",
        "learning to downsample, depthwise",
        convolutional=True,
    ),
    _segmentor(
        "CGNet",
        "cgnet/cgnet_fcn_4xb8-60k_cityscapes-512x1024.py",
        "context guided blocks, PReLU",
        quick=True,
    ),
    _segmentor(
        "ERFNet",
        "erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py",
        "1×3 and 3×1, transposed convolution",
        convolutional=True,
        **_EVEN,
        quick=True,
    ),
    _segmentor("DANet R50", "danet/danet_r50-d8_4xb2-40k_cityscapes-512x1024.py", "dual attention"),
    _segmentor(
        "CCNet R50", "ccnet/ccnet_r50-d8_4xb2-40k_cityscapes-512x1024.py", "criss-cross attention"
    ),
    _segmentor(
        "NonLocal R50",
        "nonlocal_net/nonlocal_r50-d8_4xb2-40k_cityscapes-512x1024.py",
        "non-local block",
    ),
    _segmentor(
        "PSANet R50",
        "psanet/psanet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
        "point-wise spatial attention: compiled op",
    ),
    _segmentor(
        "EMANet R50", "emanet/emanet_r50-d8_4xb2-80k_cityscapes-512x1024.py", "EM attention"
    ),
    _segmentor(
        "EncNet R50",
        "encnet/encnet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
        "context encoding",
    ),
    _segmentor("ANN R50", "ann/ann_r50-d8_4xb2-40k_cityscapes-512x1024.py", "asymmetric non-local"),
    _segmentor(
        "ISANet R50",
        "isanet/isanet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
        "interlaced attention",
    ),
    _segmentor(
        "DMNet R50",
        "dmnet/dmnet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
        "kernels made from the map",
    ),
    _segmentor(
        "FastFCN R50",
        "fastfcn/fastfcn_r50-d32_jpu_aspp_4xb2-80k_cityscapes-512x1024.py",
        "joint pyramid upsampling",
        convolutional=True,
    ),
    _segmentor(
        "LR-ASPP MobileNetV3",
        "mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024.py",
        "hard swish, squeeze and excitation, large pooling",
        size=(400, 440),
    ),
    _segmentor(
        "DeepLabV3+ MobileNetV2",
        "mobilenet_v2/mobilenet-v2-d8_deeplabv3plus_4xb2-80k_cityscapes-512x1024.py",
        "depthwise, dilated",
        convolutional=True,
    ),
    _segmentor(
        "DeepLabV3 ResNeSt-50",
        "resnest/resnest_s101-d8_deeplabv3_4xb2-80k_cityscapes-512x1024.py",
        "split attention, dilated",
        options={"model.backbone.depth": 50, "model.backbone.stem_channels": 64},
    ),
    _segmentor(
        "SegNeXt-T",
        "segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py",
        "1×k strips, matrix decomposition",
        options={"model.decode_head.ham_kwargs.rand_init": False},
    ),
    _segmentor(
        "SegFormer B0",
        "segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py",
        "transformer with depthwise convolution",
        quick=True,
    ),
    _segmentor(
        "Twins-PCPVT-S",
        "twins/twins_pcpvt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512.py",
        "position encoding by convolution",
    ),
    _segmentor(
        "Twins-SVT-S",
        "twins/twins_svt-s_fpn_fpnhead_8xb4-80k_ade20k-512x512.py",
        "local and global attention",
    ),
    _segmentor(
        "UPerNet Swin-T",
        "swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py",
        "shifted windows",
    ),
    _segmentor(
        "Semantic FPN R50",
        "sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py",
        "upsampling heads",
        convolutional=True,
    ),
    _segmentor(
        "PointRend R50",
        "point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py",
        "coarse head; the points are picked by the data",
        convolutional=True,
    ),
    _segmentor(
        "SETR-PUP ViT",
        "setr/setr_vit-l_pup_8xb2-160k_ade20k-512x512.py",
        "plain transformer, progressive upsampling",
        options={
            "model.backbone.num_layers": 4,
            "model.backbone.embed_dims": 192,
            "model.backbone.num_heads": 3,
            "model.backbone.out_indices": [0, 1, 2, 3],
            "model.decode_head.in_channels": 192,
        },
        **_EVEN,
    ),
    _segmentor(
        "SETR-MLA ViT",
        "setr/setr_vit-l-mla_8xb1-160k_ade20k-512x512.py",
        "plain transformer, aggregation of its layers",
        options={
            "model.backbone.num_layers": 4,
            "model.backbone.embed_dims": 192,
            "model.backbone.num_heads": 3,
            "model.backbone.out_indices": [0, 1, 2, 3],
            "model.neck.in_channels": [192, 192, 192, 192],
        },
        **_EVEN,
    ),
    _segmentor(
        "Segmenter ViT-T",
        "segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py",
        "mask transformer",
        options={"model.backbone.num_layers": 2},
        **_EVEN,
    ),
    _segmentor(
        "DPT ViT",
        "dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512.py",
        "tokens reassembled into maps",
        options={
            "model.backbone.num_layers": 4,
            "model.backbone.out_indices": [0, 1, 2, 3],
        },
        **_EVEN,
    ),
    _segmentor(
        "KNet R50",
        "knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py",
        "kernels updated by the map",
        dtype="float64",
    ),
    _segmentor(
        "MaskFormer R50",
        "maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py",
        "queries, masks by product",
    ),
    _segmentor(
        "Mask2Former R50 (mmseg)",
        "mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py",
        "deformable attention in the pixel decoder",
        dtype="float64",
    ),
    _segmentor(
        "UPerNet ConvNeXt-T",
        "convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py",
        "depthwise 7×7, layer norm over channels",
        needs="mmpretrain",
        convolutional=True,
    ),
    _segmentor(
        "FPN PoolFormer-S12",
        "poolformer/fpn_poolformer_s12_8xb4-40k_ade20k-512x512.py",
        "average pooling for attention",
        needs="mmpretrain",
    ),
)
