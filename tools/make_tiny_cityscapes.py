#!/usr/bin/env python
r"""Write a small data set that looks like Cityscapes: drawn streets, exact ground truth.

    python tools/make_tiny_cityscapes.py data/tiny_cityscapes
    python tools/make_tiny_cityscapes.py data/tiny_cityscapes --train 4 --val 2 --camera moving

Folders, file names, label encodings and annotations are those of Cityscapes and CityPersons, so
code that runs on this data also runs on the real data. Clips have 30 frames, and the 20th is
annotated. The same options give the same files. overview.png shows all clips: the first frame, the
annotated frame with full and visible boxes of persons, and the labels.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from _package import find_package

find_package()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", help="folder to write to")
    parser.add_argument("--train", type=int, default=2, help="training clips (default 2)")
    parser.add_argument("--val", type=int, default=2, help="validation clips (default 2)")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(256, 512),
        metavar=("HEIGHT", "WIDTH"),
        help="of a frame, px (default 256 512; Cityscapes has 1024 2048)",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=30,
        help="frames of a clip (default 30); with fewer, those after the annotated one go first",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other streets")
    parser.add_argument("--camera", choices=("fixed", "moving"), default="fixed")
    parser.add_argument(
        "--noise", type=float, default=1.5, help="camera noise, grey levels (default 1.5)"
    )
    parser.add_argument(
        "--train-ids", action="store_true", help="also write gtFine's labelTrainIds images"
    )
    parser.add_argument("--processes", type=int, default=1, help="clips drawn at the same time")
    parser.add_argument(
        "--contact-sheet", metavar="FILE", help="where to put a copy of ROOT/overview.png"
    )
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    from examples.tiny_cityscapes import make_tiny_cityscapes

    root = make_tiny_cityscapes(
        args.root,
        clips={"train": args.train, "val": args.val},
        size=tuple(args.size),
        frames=args.frames,
        seed=args.seed,
        camera=args.camera,
        noise=args.noise,
        train_ids=args.train_ids,
        processes=args.processes,
    )
    print(f"wrote {root}; to look at it, open {root / 'overview.png'}")
    if args.contact_sheet:
        Path(args.contact_sheet).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / "overview.png", args.contact_sheet)
        print(f"wrote {args.contact_sheet}")


if __name__ == "__main__":
    from blockcopy_plugins.errors import BlockCopyError

    try:
        main(parse_args())
    except (BlockCopyError, OSError) as error:
        sys.exit(f"error: {error}")
