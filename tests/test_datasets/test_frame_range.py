"""Ranges of numbered images, against the shell that the notation is taken from."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from blockcopy_plugins.datasets.frame_range import range_names
from blockcopy_plugins.datasets.video_list import list_videos
from blockcopy_plugins.errors import FrameError

RANGES = ["{0..3}", "{000..003}", "{8..11}", "{08..11}", "{8..011}", "{000275..000278}", "{1..1}"]


@pytest.mark.parametrize("numbers", RANGES)
def test_names_are_those_of_the_shell(numbers):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    told = subprocess.run([bash, "-c", f"echo x_{numbers}_y.png"], text=True, capture_output=True)
    assert list(range_names(f"folder/x_{numbers}_y.png")) == told.stdout.split()


def test_ranges_without_end_are_refused_at_once():
    with pytest.raises(FrameError, match="range of 10000000000 frames.*Correct the numbers"):
        range_names("x_{0..9999999999}.png")
    with pytest.raises(FrameError, match="not a range"):
        range_names("x_{5..1}.png")


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path):
    root = tmp_path / "cam[1]*"
    root.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (root / name).write_text("")
    assert [path.rpartition("/")[2] for path in list_videos("*.mp4", str(root))] == [
        "a.mp4",
        "b.mp4",
    ]
