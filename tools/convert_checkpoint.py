#!/usr/bin/env python
r"""Convert weights of Pedestron, SwiftNet, the BlockCopy paper or torchvision for our models.

    python tools/convert_checkpoint.py --list     # the formats, and where the weights are
    python tools/convert_checkpoint.py pedestron-csp epoch_72.pth.stu csp_r50.pth
    python tools/convert_checkpoint.py auto swiftnet_rn50.pth swiftnet_r50.pth
    python tools/convert_checkpoint.py torchvision-resnet50 resnet50-0676ba61.pth r50.pth \
        --model my_config.py

Every parameter of the file must have its place in the model, and every parameter of the model must
be filled; otherwise all that do not fit are listed, and nothing is written. "auto" picks the one
format that fits. The result is loaded like any checkpoint:

    python tools/test_video.py CONFIG csp_r50.pth --video my.mp4

torchvision's classifiers fill only a backbone. Train from them with

    model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='r50.pth',
                                             prefix='backbone.')))
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _cli import add_config_options, quiet
from _stopping import stop_signals

if TYPE_CHECKING:
    from torch import Tensor

    from blockcopy_plugins.checkpoints import Format, KeyRules

MODELS = Path(__file__).resolve().parent.parent / "configs" / "_base_" / "models"


class ListFormats(argparse.Action):
    """``--list``: prints the formats and ends."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        from blockcopy_plugins.checkpoints import FORMATS

        for found in FORMATS:
            weights = found.weights.replace("\n", "\n    ")
            print(f"{found.name}\n    {weights}")
        parser.exit()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("format", metavar="SOURCE_FORMAT", help="whose weights; auto: detect it")
    parser.add_argument("source", metavar="IN", help="the checkpoint")
    parser.add_argument("out", metavar="OUT", help="file to write")
    parser.add_argument(
        "--model",
        metavar="CONFIG",
        help="config of the model that will load the result (default: the format's own, in "
        "configs/_base_/models)",
    )
    parser.add_argument(
        "--list", action=ListFormats, nargs=0, help="show the source formats and exit"
    )
    add_config_options(parser)
    return parser.parse_args(argv)


def target_state(config: Path, scope: str, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Parameters and buffers of a config's model."""
    from mmengine.registry import MODELS as REGISTRY
    from mmengine.registry import DefaultScope

    from blockcopy_plugins.errors import ConfigError
    from blockcopy_plugins.integrations.mmengine.video_config import read_config

    found = read_config(str(config), dict(options))
    with DefaultScope.overwrite_default_scope(found.get("default_scope") or scope):
        try:
            return REGISTRY.build(found.model).state_dict()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"the model of {str(config)!r} cannot be built: {error}") from error


def own_target(found: Format, rules: KeyRules) -> dict[str, Tensor]:
    """Parameters and buffers of the model that a format is made for."""
    return target_state(MODELS / f"{rules.model}.py", found.framework, found.options)


def main(args: argparse.Namespace) -> None:
    from blockcopy_plugins.checkpoints import (
        FORMATS,
        convert_state,
        detect_format,
        find_format,
        read_state,
    )
    from blockcopy_plugins.file_protection import check_outputs
    from blockcopy_plugins.part_files import save_whole

    # Mistakes are reported before the frameworks are imported, which takes long.
    found = None if args.format == "auto" else find_format(args.format)
    source, out = Path(args.source), Path(args.out)
    inputs = [("IN", source)] + ([] if args.model is None else [("--model", args.model)])
    check_outputs(inputs, [("OUT", out)])
    state = read_state(source)
    quiet(args.verbose)
    if found is None:
        found = detect_format(state, FORMATS, own_target)
        print(f"{args.source} has the format {found.name}")
    rules = found.rules()
    options = args.cfg_options or {}
    config = MODELS / f"{rules.model}.py"
    if args.model is None:
        options = {**found.options, **options}
    else:
        config = Path(args.model)
    target = target_state(config, found.framework, options)
    converted = convert_state(state, rules, target)
    meta = {"converted_from": found.name, "source_file": source.name}
    save_whole({"state_dict": converted, "meta": meta}, out)
    print(
        f"wrote {out}: {len(converted)} of the model's {len(target)} parameters and buffers, from "
        f"{len(state)} in {args.source}"
    )


if __name__ == "__main__":
    arguments = parse_args()
    # Errors of the package derive from it; imported here so that --help is quick.
    from blockcopy_plugins.errors import BlockCopyError

    try:
        with stop_signals() as stop:
            main(arguments)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(stop.status)
    except (BlockCopyError, OSError) as error:
        if arguments.verbose:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
