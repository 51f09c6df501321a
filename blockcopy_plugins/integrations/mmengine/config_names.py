"""Lets configs inherit from ``mmseg::`` whatever MMSegmentation's package is called."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec

from mmengine.config.utils import MODULE2PACKAGE


def find_mmseg_configs() -> None:
    """Make ``_base_ = 'mmseg::...'`` find the configs of the installed MMSegmentation.

    MMEngine finds them by the name of the package, for which it has a table, and there ``mmseg`` is
    ``mmsegmentation``. The package of OneDL is called ``onedl-mmsegmentation``, so that MMEngine
    takes it for not installed and raises ModuleNotFoundError. Where the module is there and the
    package of that name is not, the table's entry becomes the module's own name, by which MMEngine
    finds it too, as it does ``mmdet``. The table belongs to the process; no other entry changes,
    and nothing changes where the original package is installed.

    A config that must work in processes that import nothing of ours writes the folder instead:
    ``_base_ = __import__('mmseg').__path__[0] + '/.mim/configs/...'``.
    """
    try:
        distribution(MODULE2PACKAGE["mmseg"])
    except PackageNotFoundError:
        if find_spec("mmseg") is not None:
            MODULE2PACKAGE["mmseg"] = "mmseg"
