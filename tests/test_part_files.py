"""Files are whole or not there, and what a killed process leaves is removed by the next one."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from blockcopy_plugins.part_files import PartFile, remove_leftovers, save_whole, whole_file

ROOT = Path(__file__).resolve().parents[1]


def test_a_file_appears_whole(tmp_path):
    target = tmp_path / "new" / "a b.json"
    with whole_file(target) as path:
        path.write_text("half")
        assert not target.exists() and path.suffix == ".json" and ".part" in path.name
    assert target.read_text() == "half" and list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_exception_leaves_what_was_there(tmp_path, error):
    target = tmp_path / "a.json"
    target.write_text("older")
    with pytest.raises(error), whole_file(target) as path:
        path.write_text("half")
        raise error
    assert target.read_text() == "older" and list(tmp_path.iterdir()) == [target]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    target = tmp_path / "out.mp4"
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from blockcopy_plugins.part_files import PartFile\n"
        "PartFile(sys.argv[2]); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ROOT), str(target)])
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.") and left.name.endswith(".part.mp4")
    # Of another file, of no form of ours, and one that is being written.
    others = [tmp_path / name for name in (".out2.0123abcd.part.mp4", ".out.part.mp4", "out.mp4")]
    for path in others:
        path.write_text("x")
    alive = PartFile(target)
    assert not left.exists()
    remove_leftovers(target)
    assert alive.path.exists() and all(path.exists() for path in others)
    alive.drop()
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), whole_file(tmp_path / "file" / "a.json"):
        pytest.fail("the block must not be entered")
    assert os.listdir(tmp_path) == ["file"]


def test_what_torch_saves_is_read_again(tmp_path):
    save_whole({"a": torch.arange(5)}, tmp_path / "new/a.pth")
    assert torch.load(tmp_path / "new/a.pth")["a"].tolist() == [0, 1, 2, 3, 4]


def test_a_full_disk_is_said_with_the_file(tmp_path):
    """In a process that may write so many bytes to a file and no more; torch says nothing of it."""
    code = (
        "import resource, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "import torch\n"
        "from blockcopy_plugins.part_files import save_whole, whole_file\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "def write_text(path):\n"
        "    with whole_file(path) as half: half.write_text('x' * 9000)\n"
        "for write in (lambda path: save_whole(torch.zeros(9000), path), write_text):\n"
        "    try: write(sys.argv[2])\n"
        "    except OSError as error: print(error.errno, error)\n"
    )
    target = tmp_path / "a.pth"
    target.write_text("older")
    command = [sys.executable, "-c", code, str(ROOT), str(target)]
    done = subprocess.run(command, text=True, capture_output=True)
    said = done.stdout.splitlines()
    assert len(said) == 2 and all(line.startswith(f"{errno.EFBIG} ") for line in said), done.stderr
    assert all(f"cannot write {target} (File too large); make room" in line for line in said)
    assert target.read_text() == "older" and list(tmp_path.iterdir()) == [target]


def test_a_file_whose_name_is_taken_by_a_folder(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OSError), whole_file(tmp_path / "a.json") as path:
        path.write_text("whole")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


def test_an_error_about_another_file_is_said_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="other.png") as told:
        with whole_file(tmp_path / "a.json"):
            (tmp_path / "other.png").read_bytes()
    assert "cannot write" not in str(told.value)


@pytest.mark.parametrize("stem", ["a+b", "[x]", "a.b", "(", "100%", "ü"])
def test_leftovers_of_any_name_and_none_of_another(tmp_path, stem):
    left = tmp_path / f".{stem}.0123abcd.part.mp4"
    others = [f".{stem}.0123abcd.part.mp4.bak", ".aab.0123abcd.part.mp4", ".x.0123abcd.part.mp4"]
    for path in (left, *(tmp_path / name for name in others)):
        path.write_text("x")
    remove_leftovers(tmp_path / f"{stem}.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
