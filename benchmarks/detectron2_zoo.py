"""The laws on whole models of Detectron2's zoo, with random weights.

    python -m benchmarks.detectron2_zoo --projects detectron2/projects --out detectron2.json

Of each architecture: state-dict keys, the deviation of all outputs with every block executed from
the plain model's (law 1) and with random grids from the masked reference's (law 3), at three sizes,
and the share of the MACs up to the RoI heads that runs on blocks. The configs of the projects are
not part of Detectron2's wheel: without ``--projects``, a folder of its source, those architectures
are made of the same keys here.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from tests.test_detectron2.laws import check

from .zoo.detectron2_models import ARCHITECTURES, build, config_of


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--projects", metavar="DIR", help="folder of Detectron2's projects")
    parser.add_argument("--names", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--small", action="store_true", help="narrow models, as the tests have")
    parser.add_argument("--block-size", type=int, default=128, metavar="PX")
    parser.add_argument("--out", metavar="FILE", help="JSON file to write")
    args = parser.parse_args()
    import detectron2

    rows = []
    header = "share  law 1 maps, outputs   law 3 maps, outputs   moved"
    print(f"{'':30} {'px':>10}  {header}")
    for name in args.names:
        architecture = ARCHITECTURES[name]
        model = build(config_of(name, args.small, args.projects))
        keys = list(model.state_dict())
        sizes = architecture.small_sizes if args.small else architecture.sizes
        for size in sizes:
            found = check(model, size, 64 if args.small else args.block_size)
            same = list(model.state_dict()) == keys
            rows.append({"name": name, "keys": len(keys), "same_keys": same, **asdict(found)})
            print(
                f"{name:30} {size[0]:>4}x{size[1]:<5}  {found.share:.3f}  {found.law_1:.1e} "
                f"{found.law_1_outputs:.1e}   {found.law_3:.1e} {found.law_3_outputs:.1e}   "
                f"{found.moved:.1e}",
                flush=True,
            )
    if args.out:
        versions = {"detectron2": detectron2.__version__, "torch": torch.__version__}
        Path(args.out).write_text(json.dumps({**versions, "models": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
