"""Lets configs inherit from ``mmseg::``, whatever MMSegmentation's package is called."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

from mmengine.config.utils import MODULE2PACKAGE


def find_mmseg_configs() -> None:
    """Make ``_base_ = 'mmseg::...'`` find the configs of the installed MMSegmentation.

    MMEngine looks up the package's name in a table, which says ``mmsegmentation`` for ``mmseg``.
    OneDL's package is called ``onedl-mmsegmentation``, so MMEngine believes that it is not
    installed and raises ModuleNotFoundError. If the module exists and the package of that name does
    not, this changes the table's entry to the module's own name, by which MMEngine finds it, too,
    as it does ``mmdet``. The table belongs to the process; no other entry changes, and nothing
    changes if the original package is installed.

    A config that has to work in processes that do not import this package names the folder instead:
    ``_base_ = __import__('mmseg').__path__[0] + '/.mim/configs/...'``.
    """
    try:
        distribution(MODULE2PACKAGE["mmseg"])
    except PackageNotFoundError:
        if find_spec("mmseg") is not None:
            MODULE2PACKAGE["mmseg"] = "mmseg"
