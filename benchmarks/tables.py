"""Makes the tables of the documents from the figures that were measured.

``python -m benchmarks.tables`` reads ``benchmarks/results/*.json`` and writes each table between
its two markers, such as ``<!-- efficiency -->`` and ``<!-- /efficiency -->``, in README.md and the
documents that hold some. No figure in a table is written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu.tables import gpu_tables
from benchmarks.network_tables import estimates, user_loops, zoo, zoo_families
from benchmarks.policy_tables import (
    block_sizes,
    fidelity_budget,
    policies,
    propagation,
    propagation_speed,
    shared_budget,
    time_budget,
)
from benchmarks.speed_tables import (
    demo,
    efficiency,
    gain_cost,
    light,
    memory,
    ops,
    peers,
    policy_cost,
    profile,
    speed,
    whole,
)
from benchmarks.table_cells import OlderResult

_ROOT = Path(__file__).resolve().parent.parent


# Marker in the documents, the JSON file that it is made from, and how.
TABLES: tuple[tuple[str, str, Callable[[dict], str]], ...] = (
    ("efficiency", "efficiency", efficiency),
    ("speed", "efficiency", speed),
    ("peers", "efficiency", peers),
    ("whole", "whole_detectors", whole),
    ("detectron2_whole", "detectron2_efficiency", whole),
    ("int8", "int8", efficiency),
    ("light", "light", light),
    ("light_large", "light_large", light),
    ("light_zen4", "light_zen4", light),
    ("profile", "profile", profile),
    ("policy_cost", "policy_cost", policy_cost),
    ("gain_cost", "policy_cost", gain_cost),
    ("policies_unseen", "policies_unseen", policies),
    ("policies_annotated", "policies_annotated", policies),
    ("propagation", "propagation", propagation),
    ("propagation_speed", "propagation_speed", propagation_speed),
    ("block_sizes", "block_sizes", block_sizes),
    ("shared_budget", "shared_budget", shared_budget),
    ("fidelity_budget", "fidelity_budget", fidelity_budget),
    ("time_budget", "time_budget", time_budget),
    ("demo", "demo", demo),
    ("ops", "ops", ops),
    ("memory", "memory", memory),
    ("memory_full", "memory_full", memory),
    ("zoo", "zoo", zoo),
    ("zoo_families", "zoo_families", zoo_families),
    ("user_loops", "user_loops", user_loops),
    ("estimates", "estimates", estimates),
)


def _between(name: str, found: str, text: str) -> str:
    """The text with a table between the markers of its name, if it has them."""
    marker = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return marker.sub(lambda match: match[1] + found + "\n" + match[2], text)


def main() -> None:
    """Fill the documents."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=_ROOT / "benchmarks" / "results")
    parser.add_argument(
        "--documents",
        type=Path,
        nargs="+",
        default=[
            *(
                _ROOT / "docs" / name
                for name in ("results.md", "zoo.md", "gpu.md", "frameworks.md")
            ),
            _ROOT / "README.md",
        ],
    )
    args = parser.parse_args()
    for document in args.documents:
        text = document.read_text()
        cards = sorted(args.results.glob("gpu_*.json"))
        found = gpu_tables([json.loads(card.read_text()) for card in cards])
        text = _between("gpu", found, text)
        for name, source, make in TABLES:
            file = args.results / f"{source}.json"
            if file.exists() and f"<!-- {name} -->" in text:
                try:
                    made = make(json.loads(file.read_text()))
                except OlderResult as error:
                    print(
                        f"{document.name}: {name} stays as it is: {file}: {error}", file=sys.stderr
                    )
                    continue
                text = _between(name, made, text)
        document.write_text(text)


if __name__ == "__main__":
    main()
