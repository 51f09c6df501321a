"""What tests of benchmarks on a tiny detector share."""

from __future__ import annotations

import importlib
from types import ModuleType, SimpleNamespace

import pytest


@pytest.fixture
def projects() -> ModuleType:
    """Tiny projects of MMDetection and MMSegmentation; skips where a package is missing."""
    pytest.importorskip("cv2")
    pytest.importorskip("mmdet")
    return importlib.import_module("tests.test_integrations.tiny_projects")


@pytest.fixture
def detector_on_clip(projects, tmp_path):
    """Returns a function that writes a tiny detector and a clip of so many frames."""

    def write(frames: int) -> SimpleNamespace:
        import cv2

        clip = tmp_path / "clip"
        clip.mkdir()
        for number, picture in enumerate(projects.pictures(frames)):
            cv2.imwrite(str(clip / f"{number:02d}.png"), picture)
        config, weights = projects.write_detector(tmp_path)
        return SimpleNamespace(
            config=str(config), weights=str(weights), clip=f"a={clip}", json=tmp_path / "out.json"
        )

    return write
