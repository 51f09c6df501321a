"""Run the laws on the architectures of the zoos and write the figures down."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import torch

from ..machine import describe
from .architectures import DETECTORS, SEGMENTORS, Architecture
from .build import build
from .laws import TOLERANCE, check

_RESULTS = Path(__file__).resolve().parents[1] / "results" / "zoo.json"


def measure(architecture: Architecture) -> dict:
    """One row of the results: the worse of batches of one and of two."""
    start = time.perf_counter()
    unit = build(architecture)
    found = [check(architecture, unit, images) for images in (1, 2)]
    return {
        **asdict(architecture),
        "options": dict(architecture.options),
        **asdict(found[0]),
        "share": min(f.share for f in found),
        "law_1": max(f.law_1 for f in found),
        "law_3": max(f.law_3 for f in found),
        "moved": min(f.moved for f in found),
        "seconds": round(time.perf_counter() - start, 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Sweep.

    Returns:
        1 if a law was broken, else 0.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("--only", help="architectures that have this in their name, e.g. 'R18'")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help=f"file to write, {_RESULTS.name} where all ran")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    out = args.json or (None if args.only else _RESULTS)
    results = {
        "benchmark": "zoo",
        "machine": describe("default"),
        "tolerance": TOLERANCE,
        "rows": [],
        "skipped": [],
    }
    for architecture in DETECTORS + SEGMENTORS:
        if args.only and args.only.lower() not in architecture.name.lower():
            continue
        if architecture.needs and find_spec(architecture.needs) is None:
            results["skipped"].append({"name": architecture.name, "needs": architecture.needs})
            continue
        row = measure(architecture)
        results["rows"].append(row)
        print(
            f"{row['name']:36s} {row['macs'] / 1e9:6.2f} GMACs  {row['share']:6.1%} on blocks  "
            f"law 1 {row['law_1']:.0e}  law 3 {row['law_3']:.0e}  {row['seconds']:5.1f} s",
            flush=True,
        )
        if out:  # After each, so that a sweep that is stopped leaves what it saw.
            out.write_text(json.dumps(results, indent=1) + "\n")
    return int(any(max(row["law_1"], row["law_3"]) > TOLERANCE for row in results["rows"]))


if __name__ == "__main__":
    raise SystemExit(main())
