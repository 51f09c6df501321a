"""``python -m benchmarks.gpu SECTION``: one section of the GPU check in a process of its own.

Only ``tools/gpu_check.py`` needs to call this: an error of CUDA, a crash or a hang in one section
then leaves the others as they are.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from pathlib import Path

from .section import OutOfTime, Section
from .sections import SECTIONS


def main(argv: list[str] | None = None) -> int:
    """Run a section; returns 1 if it found something wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--file", type=Path, help="JSON to write")
    parser.add_argument("--deadline", type=float, help="by time.time()")
    parser.add_argument("--quick", action="store_true", help="few cases, for slow tools around it")
    parser.add_argument("--emulation-flags", default="", help="of the compiler, on the host")
    args = parser.parse_args(argv)
    section = Section(
        args.section,
        args.device,
        args.file,
        args.deadline,
        args.quick,
        args.emulation_flags.split(),
    )
    try:
        importlib.import_module(f"benchmarks.gpu.{args.section}").run(section)
    except OutOfTime as error:
        section.cut_short(str(error))
    # The section is one of several, which are told of nothing but its file.
    except Exception as error:
        traceback.print_exc()
        section.fail(f"{type(error).__name__}: {error}")
    section.write()
    return 1 if section.failures else 0


if __name__ == "__main__":
    sys.exit(main())
