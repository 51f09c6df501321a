"""Outputs against inputs, however their paths are spelled; the file system itself is the oracle."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.file_protection import check_outputs, local_path

SPELLINGS = {
    "same": lambda place, name: place / name,
    "dot": lambda place, name: f"{place}/./{name}",
    "up and down": lambda place, name: f"{place}/sub/../{name}",
    "relative": lambda place, name: os.path.relpath(place / name),
    "symlink": lambda place, name: place / f"symlink to {name}",
    "symlinked folder": lambda place, name: place / "folder" / name,
    "hard link": lambda place, name: place / f"hard link to {name}",
    "FFmpeg's scheme": lambda place, name: f"file:{place / name}",
    "file address": lambda place, name: (place / name).as_uri(),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("files")
    (place / "sub").mkdir()
    (place / "folder").symlink_to(place)
    for name in ("a b.mp4", "c.json"):
        (place / name).write_text(name)
        (place / f"symlink to {name}").symlink_to(name)
        os.link(place / name, place / f"hard link to {name}")
    return place


def refused(inputs, outputs):
    try:
        check_outputs(inputs, outputs)
    except ConfigError as error:
        return str(error)
    return None


@given(data=st.data())
def test_an_output_that_is_an_input_is_refused_and_no_other(place, data):
    names = ["a b.mp4", "c.json"]
    spelling = st.sampled_from([s for s in SPELLINGS])
    read, written = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(names))
    source = SPELLINGS[data.draw(spelling)](place, read)
    target = SPELLINGS[data.draw(spelling.filter(lambda s: "scheme" not in s and "addr" not in s))]
    target = target(place, written)

    said = refused([("IN", source)], [("OUT", target)])

    assert (said is not None) == os.path.samefile(place / read, target)
    if said is not None:
        assert str(target) in said and "IN" in said and "another name" in said


@given(first=st.sampled_from(list(SPELLINGS)[:5]), second=st.sampled_from(list(SPELLINGS)[:5]))
def test_two_outputs_are_one_file_before_either_exists(place, first, second):
    def spell(how, name):
        return f"{place}/sub/{name}" if how == "symlink" else SPELLINGS[how](place, name)

    inside = {how: os.path.realpath(spell(how, "new.mp4")) for how in (first, second)}
    said = refused([], [("A", spell(first, "new.mp4")), ("B", spell(second, "new.mp4"))])
    assert (said is not None) == (inside[first] == inside[second])
    assert refused([], [("A", spell(first, "new.mp4")), ("B", spell(second, "other.mp4"))]) is None


def test_an_image_among_the_frames_that_are_read(tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    (frames / "0.png").write_bytes(b"x")
    assert "among the images" in refused([("--video", frames)], [("plot", frames / "curve.png")])
    # What is no image is no frame, and a subfolder is not read.
    assert refused([("--video", frames)], [("--out", frames / "results.json")]) is None
    assert refused([("--video", frames)], [("plot", frames / "sub/curve.png")]) is None


def test_what_cannot_be_written_is_said_first(tmp_path):
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refused([], [("OUT", tmp_path / "file/out.mp4")])
    assert "is a folder" in refused([], [("OUT", tmp_path)])
    assert refused([], [("OUT", tmp_path / "new/folder/out.mp4")]) is None
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]  # nothing was made


def test_a_read_only_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may all
    assert "read-only" in refused([], [("OUT", tmp_path / "out.mp4")])


@pytest.mark.parametrize("address", ["rtsp://camera/out.mp4", "http://host/a.mp4"])
def test_addresses_are_no_files(address):
    assert local_path(address) is None
    assert refused([("IN", address)], [("OUT", "out.mp4")]) is None
