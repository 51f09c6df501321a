"""What the tests of the zoos share: the repository's own tools, and architectures as parameters."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
