"""Paths, patterns and names of videos."""

from __future__ import annotations

import pytest

from blockcopy_plugins.datasets.video_list import list_videos, name_videos
from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.image_names import is_image, natural_key


def test_natural_order():
    names = ["f10", "f9", "f1b2", "f1", "a", "10", "9", "f1b10", "f01"]
    assert sorted(names, key=natural_key) == [
        "9", "10", "a", "f1", "f01", "f1b2", "f1b10", "f9", "f10",
    ]  # fmt: skip
    assert is_image("x/Y.JPG")
    assert not is_image("x.mp4")


def test_paths_and_patterns(tmp_path):
    for i in (2, 10, 1):
        (tmp_path / f"clip{i}.mp4").touch()
    (tmp_path / "frames").mkdir()
    root = str(tmp_path)
    assert list_videos("clip*.mp4", root) == [f"{root}/clip{i}.mp4" for i in (1, 2, 10)]
    assert list_videos(["frames", tmp_path / "clip2.mp4"], root) == [
        f"{root}/frames",
        f"{root}/clip2.mp4",
    ]
    # A name that looks like a pattern but exists is a path.
    (tmp_path / "cam[1].mp4").touch()
    assert list_videos("cam[1].mp4", root) == [f"{root}/cam[1].mp4"]
    with pytest.raises(ConfigError, match="no video file or folder.*clip3.mp4"):
        list_videos("clip3.mp4", root)
    with pytest.raises(ConfigError, match=r"pattern .*\*\.avi' matches nothing"):
        list_videos("*.avi", root)
    with pytest.raises(ConfigError, match="no video is given"):
        list_videos([])


def test_names_are_short_and_unique():
    assert name_videos(["/a/x.mp4", "/a/y.avi"]) == ["x", "y"]
    assert name_videos(["/d/s1/img", "/d/s2/img", "/d/z.mp4"]) == ["s1/img", "s2/img", "z"]
    assert name_videos(["/a/x.mp4", "/a/x.avi"]) == ["x", "x#2"]
    assert name_videos(["/a/x.mp4"] * 3) == ["x", "x#2", "x#3"]
    assert name_videos(["/a/c/x.mp4", "/b/c/x.mp4", "/a/c/x.mp4"]) == ["a/c/x", "b/c/x", "a/c/x#2"]
