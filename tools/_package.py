"""Which ``blockcopy_plugins`` a tool of a clone imports."""

from __future__ import annotations

import sys
from pathlib import Path

_CLONE = Path(__file__).resolve().parent.parent


def find_package() -> None:
    """Put the clone on the path, so that it works without being installed.

    It comes first if its kernels were built, else last: of a package that was installed other than
    in place the kernels lie with the installed one.
    """
    built = any((_CLONE / "blockcopy_plugins").glob("_C.*"))
    sys.path.insert(0 if built else len(sys.path), str(_CLONE))
