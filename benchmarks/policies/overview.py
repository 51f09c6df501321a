r"""One picture of several clips: accuracy against executed rate, a panel for each.

python -m benchmarks.policies.overview policies_annotated.json policies_unseen.json \
        --clips vtest shadows_highway jitter_traffic pan_camel --out docs/images/policies.png
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import new_parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = new_parser("policies.overview", __doc__)
    parser.add_argument("results", nargs="+", help="JSON files of benchmarks.policies")
    parser.add_argument("--clips", nargs="+", help="names of clips, in order (default: all)")
    parser.add_argument("--models", nargs="+", help="names of models (default: all)")
    parser.add_argument(
        "--times", action="store_true", help="against the CPU time of a frame, not the rate"
    )
    parser.add_argument("--out", required=True, help="the PNG")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw."""
    args = parse_args(arguments)
    from blockcopy_plugins.visualization._figure import save_png

    from .pictures import overview_figure

    found = [r for path in args.results for r in json.loads(Path(path).read_text())["results"]]
    if args.models:
        found = [result for result in found if result["model"] in args.models]
    clips = args.clips or list(dict.fromkeys(result["clip"] for result in found))
    unknown = sorted(set(clips) - {result["clip"] for result in found})
    if unknown:
        names = sorted({result["clip"] for result in found})
        sys.exit(f"error: no result is of the clip {unknown[0]!r}; there are {names}")
    chosen = [result for clip in clips for result in found if result["clip"] == clip]
    print(save_png(overview_figure(chosen, times=args.times), args.out))


if __name__ == "__main__":
    main()
