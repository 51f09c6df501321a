"""The package's names, which load what they need only when used."""

from __future__ import annotations

import pytest

from blockcopy_plugins import visualization


def test_every_name_is_there():
    pytest.importorskip("av")
    pytest.importorskip("cv2")
    pytest.importorskip("matplotlib")
    for name in visualization.__all__:
        assert getattr(visualization, name).__name__ == name
    assert set(dir(visualization)) == set(visualization.__all__)
    with pytest.raises(AttributeError, match="no_such"):
        visualization.no_such  # noqa: B018
