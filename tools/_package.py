"""Which ``blockcopy_plugins`` a tool in a clone imports."""

from __future__ import annotations

import sys
from pathlib import Path

_CLONE = Path(__file__).resolve().parent.parent


def find_package() -> None:
    """Put the clone on the path, so that it works without being installed.

    The clone comes first if its kernels were built, otherwise last: if the package was installed,
    but not in place, the kernels are in the installed package.
    """
    built = any((_CLONE / "blockcopy_plugins").glob("_C.*"))
    sys.path.insert(0 if built else len(sys.path), str(_CLONE))
