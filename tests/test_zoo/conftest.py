"""What the tests of the zoos share: the repository's own tools, and architectures as parameters."""

from __future__ import annotations

import pytest

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")
