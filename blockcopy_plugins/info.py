"""``python -m blockcopy_plugins.info``: what this installation offers, and what suits a model."""

from __future__ import annotations

import argparse
import importlib.util
import platform
import sys
import warnings
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import nn

from . import __version__, ops
from .api import blockcopy_, report, restore_
from .config import BlockCopyConfig
from .engine.report import Report
from .errors import BlockCopyError
from .integrations.framework import (
    Framework,
    framework_called,
    framework_of_config,
    known_frameworks,
)

DEFAULT_SIZE = (640, 640)
"""Height and width of a frame, px, for models that are built by name."""
# Share of the MACs on blocks; below it, other block sizes are tried than those asked for.
_WELL_SUITED = 0.5
BLOCK_SIZES = (32, 64, 128, 256)


def environment() -> dict[str, str]:
    """Facts for a bug report, in the order in which they should be read."""
    status = ops.extension_status()
    kernels = status.removeprefix("loaded, with ") if ops.has_extension() else f"no ({status})"
    facts = {
        "blockcopy_plugins": __version__,
        "native kernels": kernels,
        "convolutions": " ".join(ops.conv_kernels()) or "torch's (no AVX2 or AVX-512 kernels)",
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "CUDA": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "Python": platform.python_version(),
        "machine": platform.machine(),
    }
    for name in ("mmcv", *known_frameworks()):
        found = importlib.util.find_spec(name) is not None
        facts[name] = importlib.import_module(name).__version__ if found else "not installed"
    return facts


def describe(
    path: str, size: tuple[int, int] | None = None, block_sizes: tuple[int, ...] = BLOCK_SIZES
) -> str:
    """Describe in words how much of a config's model runs on blocks.

    Args:
        path: Config of MMDetection, MMSegmentation or Detectron2, whose weights are not needed; or
            a framework and the name of a model in it, ``'torchvision:retinanet_resnet50_fpn'``.
        size: Height and width of the frame, px; by default the size that the config's pipeline
            makes.
        block_sizes: Block sizes to try, px.

    Returns:
        For each block size, the share of MACs on blocks and the state's memory; for the best one,
        every part of the model, and the ops that ran on whole maps with the reasons.

    Raises:
        ConfigError: If the config cannot be read or its model cannot be built.
    """
    run, title, size = _model_of(path, size)
    reports = {block: run(block) for block in _with_bar(block_sizes)}
    best = max(reports, key=lambda block: _merit(reports[block], block))
    if reports[best].share_on_blocks < _WELL_SUITED:
        # Strides that are not powers of two, such as patches of 14 px.
        suit = sorted(set(reports[best].block_sizes) - set(reports))[:2]
        reports.update((block, run(block)) for block in suit)
        best = max(reports, key=lambda block: _merit(reports[block], block))
    lines = [
        f"{title}, one frame of {size[1]}x{size[0]} px, random weights, float32",
        f"  {'block size':>10}  {'MACs on blocks':>14}  {'state MiB':>9}",
        *(
            f"  {block:>7} px  {found.share_on_blocks:>14.1%}  {found.state_bytes / 2**20:>9.0f}"
            for block, found in reports.items()
        ),
        "",
        f"With blocks of {best} px:",
        *reports[best].shares(),
    ]
    return "\n".join(lines)


def _with_bar(block_sizes: tuple[int, ...]) -> Iterable[int]:
    """The block sizes, with a bar on a terminal."""
    try:
        from tqdm import tqdm
    except ImportError:  # not every framework brings it along
        return block_sizes
    return tqdm(block_sizes, desc="block sizes", unit="frame", leave=False, disable=None)


def _model_of(
    path: str, size: tuple[int, int] | None
) -> tuple[Callable[[int], Report], str, tuple[int, int]]:
    """A function that runs a frame with a block size, the model's name, and the frame's size."""
    if named := split_name(path):
        framework, model, name, usual = named[0], named[0].build(named[1]), path, DEFAULT_SIZE
    else:
        framework = framework_of_config(path)
        model, name, usual = framework.model_of_config(path)
    size = usual if size is None else size
    return partial(_survey, framework, model, size), name, size


def split_name(path: str) -> tuple[Framework, str] | None:
    """Framework and name of ``'framework:name'``; ``None`` for a path.

    Raises:
        ConfigError: If there is no such framework, or it is not installed.
    """
    package, colon, name = path.partition(":")
    if not colon or len(package) < 2 or "/" in package or "\\" in package:
        return None
    return framework_called(package), name


def _survey(framework: Framework, model: nn.Module, size: tuple[int, int], block: int) -> Report:
    frame = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    blockcopy_(model, BlockCopyConfig(block_size=block, policy="all"))
    try:
        with torch.no_grad():
            framework.call(model, frame)
        return report(model)
    finally:
        restore_(model)


def _merit(found: Report, block_size: int) -> tuple[float, int, int]:
    """Most MACs on blocks, then fewest exceptions, then smallest blocks."""
    return round(found.share_on_blocks, 3), -len(found.dense_ops), -block_size


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m blockcopy_plugins.info",
        description="Without CONFIG: versions and available kernels, for a bug report. With "
        "CONFIG: how much of the model runs on blocks, which parts do not and why, and which block "
        "sizes suit it; with --estimate, how much faster it will be here. The model is run with "
        "random weights; no checkpoint is needed.",
    )
    parser.add_argument(
        "config",
        nargs="?",
        help="config of MMDetection, MMSegmentation or Detectron2, or ultralytics:yolo11n.yaml, "
        "torchvision:retinanet_resnet50_fpn, timm:resnet50, smp:unet/resnet34, "
        "transformers:SegformerForSemanticSegmentation (or its config.json)",
    )
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="frame in pixels of the network's input (default: what the config's pipeline makes)",
    )
    parser.add_argument(
        "--block-size",
        nargs="+",
        type=int,
        metavar="PX",
        default=BLOCK_SIZES,
        help=f"block sizes to try (default: {' '.join(map(str, BLOCK_SIZES))})",
    )
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="measure for a few seconds and predict the speed-up by executed rate on this machine",
    )
    options = parser.parse_args(arguments)
    if options.config is None:
        for name, value in environment().items():
            print(f"{name:<18} {value}")
        return 0
    warnings.filterwarnings("ignore")  # from the frameworks; a user can do nothing about them
    size = None if options.size is None else tuple(options.size)
    try:
        if options.estimate:
            from .allocator import retain_pages
            from .estimate import estimate, estimate_config

            retain_pages()  # allowed here, because the process belongs to this command
            blocks = None if options.block_size is BLOCK_SIZES else options.block_size
            if named := split_name(options.config):
                framework, name = named
                model, size = framework.build(name), size or DEFAULT_SIZE
                print(estimate(model, size, blocks, call=framework.call))
            else:
                print(estimate_config(options.config, size, blocks))
        else:
            print(describe(options.config, size, tuple(options.block_size)))
    except BlockCopyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
