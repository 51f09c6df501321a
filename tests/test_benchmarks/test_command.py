"""What the benchmarks' commands share: files for figures that can be written, and stay whole."""

from __future__ import annotations

import argparse
import errno
import json
from pathlib import Path

import pytest

from benchmarks import command


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "figures.json"):
        with pytest.raises(argparse.ArgumentTypeError, match="in a folder that you may write to"):
            command.json_file(str(path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_figures_on_a_full_disk_leave_the_earlier_ones(tmp_path, monkeypatch):
    def full(path, text):
        path.write_bytes(text[:5].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    path = command.json_file(str(tmp_path / "new" / "figures.json"))
    command.write_json({"rows": [1]}, path)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        command.write_json({"rows": [1, 2]}, path)
    assert json.loads(path.read_text()) == {"rows": [1]}
