#!/usr/bin/env python
"""Checks and measures a GPU: builds the kernels for it, verifies them, and times them.

    python tools/gpu_check.py                          all sections, at most 8 minutes
    python tools/gpu_check.py --sections parity,laws   some of them

Needs torch 2.10 or newer and this checkout, and nothing else: no network, no other package. Each
section runs in its own process, prints as it goes and writes its part of the JSON at once. A
section that fails does not affect the others. Sections that are not run now stay in the file if
they are from the same card and the same sources. Without a GPU, small versions of the sections run
on the CPU, with recorded graphs and kernels that run on the host: this shows that the check works,
and says nothing about a GPU.

Exit status: 0, or the sum of the numbers of the sections that failed:
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import runner  # noqa: E402
from benchmarks.gpu.sections import SECTIONS  # noqa: E402


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    numbers = "\n".join(
        f"  {runner.number_of(name):3}  {name:10} {plan.what}" for name, plan in SECTIONS.items()
    )
    parser = argparse.ArgumentParser(
        description=__doc__ + numbers, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sections",
        type=_sections,
        default=list(SECTIONS),
        metavar="NAME,...",
        help=f"which sections, from {','.join(SECTIONS)} (default: all)",
    )
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="for all sections together (default 8)"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="where the results go (default with a GPU: benchmarks/results/gpu_NAME.json, where "
        "NAME is the card's; without a GPU: nowhere)",
    )
    parser.add_argument(
        "--device", choices=("auto", "cuda", "cpu"), default="auto", help="default: auto"
    )
    args = parser.parse_args(argv)
    if not args.minutes > 0:
        parser.error(f"--minutes {args.minutes:g}: expected a number above 0")
    return args


def _sections(text: str) -> list[str]:
    wanted = [name for name in text.split(",") if name]
    unknown = [name for name in wanted if name not in SECTIONS]
    if unknown or not wanted:
        raise argparse.ArgumentTypeError(
            f"{text!r} holds no known section; expected some of {','.join(SECTIONS)}"
        )
    return [name for name in SECTIONS if name in wanted]


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    here = runner.device_here()
    if args.device == "cuda" and here != "cuda":
        print("gpu_check: --device cuda, but torch finds no GPU here", file=sys.stderr)
        return 255
    device = here if args.device == "auto" else args.device
    machine = runner.machine_here(device)
    card = (machine.get("gpu") or {}).get("name")
    path = args.json
    if path is None and card:
        name = re.sub(r"[^a-z0-9]+", "_", card.lower()).strip("_")
        path = ROOT / "benchmarks" / "results" / f"gpu_{name}.json"
    print(f"GPU check on {card or 'the CPU: there is no GPU, all is small'}, torch "
          f"{machine.get('torch', '?')}", flush=True)  # fmt: skip
    results = {
        "benchmark": "gpu_check",
        "device": device,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine,
        "sources": runner.fingerprint(),
        "settings": {"sections": args.sections, "minutes": args.minutes},
        "sections": {},
    }
    if path is not None:
        results["sections"] = runner.earlier_sections(path, results)

    def write() -> None:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(path.name + ".part")
            part.write_text(json.dumps(results, indent=1) + "\n")
            os.replace(part, path)

    write()
    status = runner.run_sections(args.sections, device, args.minutes, results, write)
    results["machine"] = runner.machine_here(device)
    write()
    print("\n" + runner.summary(results))
    if path is not None:
        print(f"written to {path}")
    return status


if __name__ == "__main__":
    sys.exit(main())
