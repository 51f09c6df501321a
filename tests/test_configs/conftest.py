"""The look-alike of Cityscapes that the configs are run on."""

from __future__ import annotations

import pytest

from examples.tiny_cityscapes import make_tiny_cityscapes


@pytest.fixture(scope="session")
def cityscapes(tmp_path_factory):
    """Two clips of train and two of val, frames -3 to 0 of each, at 256x512."""
    return make_tiny_cityscapes(tmp_path_factory.mktemp("cityscapes"), frames=(3, 0))
