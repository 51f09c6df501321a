"""Trains the demo's detector with MMEngine's Runner; writes its weights in half precision.

Needs the pseudo-labels of ``demo/make_pseudo_labels.py``. The weights file holds a ``state_dict``
(float16, no optimizer state) and a ``meta`` with the recipe; ``load_checkpoint`` copies it into a
float32 model as it is.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner

logger = logging.getLogger("train_demo_model")


def to_half(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A copy of a state dict whose floating tensors are float16; integers stay.

    Args:
        state_dict: of a model.

    Returns:
        dict of contiguous CPU tensors.

    Raises:
        ValueError: a weight is not finite, or is too large for float16.
    """
    half = {}
    for key, value in state_dict.items():
        value = value.detach().cpu()
        if value.is_floating_point():
            value = value.to(torch.float16)
            if not torch.isfinite(value).all():
                raise ValueError(f"{key} is not finite in float16; train again with a lower rate")
        half[key] = value.clone()
    return half


def to_float(value):
    """Nested lists and tuples of tensors, floating ones as float32 in row-major layout.

    MMCV's RoIAlign on a CPU reads channels-last memory as if it were row-major.
    """
    if isinstance(value, torch.Tensor):
        return value.float().contiguous() if value.is_floating_point() else value
    return type(value)(to_float(v) for v in value)


def quicken(module: torch.nn.Module, bf16: bool) -> None:
    """Lets a convolutional part run in channels-last layout and, if asked, in bfloat16.

    On CPUs with bfloat16 instructions that halves the time of its convolutions. MMEngine's
    AmpOptimWrapper refuses a CPU, and NMS and RoIAlign have no bfloat16 kernels there, so the parts
    are wrapped one by one, and what they return is float32 and row-major again.
    """
    module.to(memory_format=torch.channels_last)
    forward = module.forward

    def wrapped(*args, **kwargs):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = forward(*args, **kwargs)
        return to_float(out)

    module.forward = wrapped


def set_data_root(cfg: Config, root: Path) -> None:
    """Points the training and test sets of a config to the folder of the pseudo-labels."""
    cfg.train_dataloader.dataset.data_root = str(root)
    cfg.test_dataloader.dataset.data_root = str(root)
    cfg.test_evaluator.ann_file = str(root / "annotations.json")


def write_weights(checkpoint: Path, out: Path, meta: dict) -> None:
    """Writes the weights of a training checkpoint to `out` in half precision."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=False)["state_dict"]
    torch.save(dict(meta=meta, state_dict=to_half(state)), out)
    logger.info("wrote %s, %.1f MB", out, out.stat().st_size / 1e6)


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    here = Path(__file__).resolve().parent
    parser.add_argument(
        "--config",
        type=Path,
        default=here.parent / "configs/demo/mask-rcnn_r18-thin_vtest_train.py",
        help="training config",
    )
    parser.add_argument(
        "--data-root",
        type=Path,
        default=Path("data/vtest_pseudo"),
        help="folder written by make_pseudo_labels.py (%(default)s)",
    )
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path("work_dirs/demo"),
        help="logs, checkpoints (%(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, default=here / "maskrcnn_vtest.pth", help="half-precision weights"
    )
    parser.add_argument("--threads", type=int, default=2, help="of torch (%(default)s)")
    parser.add_argument("--bf16", action="store_true", help="convolutions under autocast")
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, help="overrides, e.g. max_iters=100"
    )
    parser.add_argument(
        "--export-only", type=Path, help="a training checkpoint: only write its weights to --out"
    )
    return parser.parse_args()


def main() -> None:
    """Runs the command line."""
    args = parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(args.threads)
    cfg = Config.fromfile(args.config)
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    cfg.work_dir = str(args.work_dir)
    set_data_root(cfg, args.data_root)
    checkpoint = args.export_only
    if checkpoint is None:
        runner = Runner.from_cfg(cfg)
        model = runner.model
        heads = [getattr(model, name, None) for name in ("rpn_head", "bbox_head")]
        heads.append(getattr(getattr(model, "roi_head", None), "mask_head", None))
        for module in (model.backbone, model.neck, *heads):
            if module is not None:
                quicken(module, args.bf16)
        runner.train()
        checkpoint = args.work_dir / f"iter_{runner.iter}.pth"
    meta = dict(
        dataset_meta=dict(cfg.metainfo),
        recipe="demo/README.md: pseudo-labels of frames 1-397 of vtest.avi (teacher FastestDet), "
        "no ground truth of the sequence",
        config=args.config.name,
    )
    write_weights(checkpoint, args.out, meta)


if __name__ == "__main__":
    main()
