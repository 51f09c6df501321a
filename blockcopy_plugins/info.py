"""``python -m blockcopy_plugins.info``: what this installation offers, and what suits a model."""

from __future__ import annotations

import argparse
import importlib.util
import platform
import sys
import warnings

import torch

from . import __version__, ops
from .engine.report import Report
from .errors import BlockCopyError, ConfigError

BLOCK_SIZES = (32, 64, 128, 256)


def environment() -> dict[str, str]:
    """Facts for a bug report, in the order in which they are to be read."""
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
    for name in ("mmengine", "mmcv", "mmdet", "mmseg", "detectron2"):
        found = importlib.util.find_spec(name) is not None
        facts[name] = importlib.import_module(name).__version__ if found else "not installed"
    return facts


def describe(
    path: str, size: tuple[int, int] | None = None, block_sizes: tuple[int, ...] = BLOCK_SIZES
) -> str:
    """What a config's model does on blocks, in words.

    Args:
        path: Config of MMDetection or MMSegmentation. Its weights are not needed.
        size: Height and width of the frame, px; by default what the config's pipeline makes.
        block_sizes: Those that are tried, px.

    Returns:
        For each block size the share of MACs on blocks and the state's memory; for the best of them
        every part of the model, and what ran on whole maps and why.

    Raises:
        ConfigError: If the config cannot be read or its model not be built.
    """
    if importlib.util.find_spec("mmengine") is None:
        raise ConfigError("a config is read by MMEngine, which is not installed.")
    from tqdm import tqdm

    from .integrations.mmengine import survey, video_config

    config = video_config.read_config(path)
    model = survey.build_model(config)
    size = survey.frame_size(config) if size is None else size
    tried = tqdm(block_sizes, desc="block sizes", unit="frame", leave=False, disable=None)
    reports = {block: survey.survey(model, size, block) for block in tried}
    best = max(reports, key=lambda block: _merit(reports[block], block))
    lines = [
        f"{config.model.type}, one frame of {size[1]}x{size[0]} px, random weights, float32",
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


def _merit(found: Report, block_size: int) -> tuple[float, int, int]:
    """Most on blocks, then fewest exceptions, then smallest blocks."""
    return round(found.share_on_blocks, 3), -len(found.dense_ops), -block_size


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m blockcopy_plugins.info",
        description="Without CONFIG: versions and what was found, for a bug report. With CONFIG: "
        "how much of the model runs on blocks, what does not and why, and which block sizes suit "
        "it; with --estimate, how much faster it will be here. The model is run with random "
        "weights; no checkpoint is needed.",
    )
    parser.add_argument("config", nargs="?", help="config of MMDetection or MMSegmentation")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="frame in pixels of the network input (default: what the config's pipeline makes)",
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
        help="measure a few seconds and predict the speed-up by executed rate on this machine",
    )
    options = parser.parse_args(arguments)
    if options.config is None:
        for name, value in environment().items():
            print(f"{name:<18} {value}")
        return 0
    warnings.filterwarnings("ignore")  # of the frameworks; nothing that a user can act on
    size = None if options.size is None else tuple(options.size)
    try:
        if options.estimate:
            from .allocator import retain_pages
            from .estimate import estimate_config

            retain_pages()  # the process is this command's own
            blocks = None if options.block_size is BLOCK_SIZES else options.block_size
            print(estimate_config(options.config, size, blocks))
        else:
            print(describe(options.config, size, tuple(options.block_size)))
    except BlockCopyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
