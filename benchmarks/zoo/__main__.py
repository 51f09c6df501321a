"""Run the laws on the architectures of the zoos and write the figures down."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from tests.test_zoo.laws import TOLERANCE, check

from ..command import json_file, write_json
from ..machine import describe
from .architectures import DETECTORS, SEGMENTORS, Architecture
from .families import FAMILIES, NETWORKS, NamedNetwork

_FOLDER = Path(__file__).resolve().parents[1] / "results"


def measure(architecture: Architecture) -> dict:
    """One row of the results: the worse of batches of one and of two."""
    from .build import build

    start = time.perf_counter()
    unit = build(architecture)
    found = [check(architecture, unit, images) for images in (1, 2)]
    return _row(architecture, found, start)


def measure_named(network: NamedNetwork, speed: bool = True) -> dict:
    """One row of a family's results: a batch of one, and E unless ``speed`` is off."""
    from .named import build_named, efficiency

    start = time.perf_counter()
    unit = build_named(network)
    found = [check(network, unit, 1)]
    figures = efficiency(network, unit) if speed else {}
    return {**_row(network, found, start), **figures}


def _row(architecture: Architecture | NamedNetwork, found: list, start: float) -> dict:
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
    parser.add_argument(
        "--family",
        help=f"networks of these, by name, instead of the zoos of MMDetection and MMSegmentation: "
        f"{','.join(FAMILIES)}",
    )
    parser.add_argument(
        "--speed",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="of families, also measure E (default); the laws do not depend on the machine's load",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--json", type=json_file, help="file to write, zoo.json or zoo_families.json where all ran"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    wanted, measured = DETECTORS + SEGMENTORS, measure
    default = _FOLDER / "zoo.json"
    if args.family:
        families = args.family.split(",")
        if unknown := set(families) - set(FAMILIES):
            parser.error(f"unknown families {sorted(unknown)}; known are {', '.join(FAMILIES)}")
        wanted = [network for network in NETWORKS if network.package in families]
        measured = partial(measure_named, speed=args.speed)
        default = _FOLDER / "zoo_families.json"
        default = default if set(families) == set(FAMILIES) else None
    out = args.json or (None if args.only else default)
    results = {
        "benchmark": "zoo",
        "machine": describe("default"),
        "tolerance": TOLERANCE,
        "rows": [],
        "skipped": [],
    }
    for architecture in wanted:
        if args.only and args.only.lower() not in architecture.name.lower():
            continue
        needs = _needed(architecture)
        if needs is not None:
            results["skipped"].append({"name": architecture.name, "needs": needs})
            continue
        row = measured(architecture)
        results["rows"].append(row)
        print(
            f"{row['name']:36s} {row['macs'] / 1e9:6.2f} GMACs  {row['share']:6.1%} on blocks  "
            f"law 1 {row['law_1']:.0e}  law 3 {row['law_3']:.0e}  "
            + (f"E {row['efficiency']:.2f}  " if "efficiency" in row else "")
            + f"{row['seconds']:5.1f} s",
            flush=True,
        )
        if out:  # After each, so that a sweep that is stopped leaves what it saw.
            write_json(results, out)
    return int(any(max(row["law_1"], row["law_3"]) > TOLERANCE for row in results["rows"]))


def _needed(architecture: Architecture | NamedNetwork) -> str | None:
    """A package that is missing, without which it cannot be built."""
    if isinstance(architecture, NamedNetwork):
        package = architecture.package.replace("smp", "segmentation_models_pytorch")
        return None if find_spec(package) else package
    needs = architecture.needs
    return needs if needs and find_spec(needs) is None else None


if __name__ == "__main__":
    raise SystemExit(main())
