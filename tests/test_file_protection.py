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


PLAYLISTS = {
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.6,\n{}\n#EXT-X-ENDLIST\n",
    "map.m3u8": '#EXTM3U\r\n#EXT-X-MAP:URI="{}"\r\n#EXTINF:0.6,\r\nnone.m4s\r\n',
    "list.ffconcat": "ffconcat version 1.0\nfile {}\n",
    "quoted.ffconcat": "ffconcat version 1.0\n  file  '{}'\nduration 3\n",
    "byte_order.m3u8": "\ufeff#EXTM3U\n{}\n",
    "dash.mpd": '<?xml version="1.0"?>\n<MPD><Period><BaseURL>{}</BaseURL></Period></MPD>\n',
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("name", ["film.mp4", "sub/a b.mp4", "über 100%.mp4"])
def test_what_a_playlist_names_is_read_too(tmp_path, kind, name):
    film = tmp_path / name
    film.parent.mkdir(exist_ok=True)
    film.write_bytes(b"film")
    (tmp_path / kind).write_text(PLAYLISTS[kind].format(name), "utf-8")
    # One playlist names the other, and that the first one.
    (tmp_path / "master.m3u8").write_text(f"#EXTM3U\n{kind}\nmaster.m3u8\n")
    for playlist in (kind, "master.m3u8"):
        said = refused([("IN", tmp_path / playlist)], [("OUT", film)])
        assert "the same file as a part of IN" in said and playlist in said
        assert refused([("IN", tmp_path / playlist)], [("OUT", tmp_path / "other.mp4")]) is None


def test_what_is_no_playlist_names_nothing(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"film")
    (tmp_path / "notes.txt").write_text("film.mp4\n")
    assert refused([("IN", tmp_path / "notes.txt")], [("OUT", tmp_path / "film.mp4")]) is None


def test_a_name_that_looks_like_an_address_is_a_file_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file:a.mp4").write_bytes(b"its own")
    Path("a.mp4").write_bytes(b"another")
    Path("rtsp:").mkdir()
    Path("rtsp://b.mp4").write_bytes(b"x")
    assert refused([("IN", "file:a.mp4")], [("OUT", "a.mp4")]) is None
    assert refused([("IN", "file:a.mp4")], [("OUT", "./file:a.mp4")]) is not None
    assert refused([("IN", "rtsp://b.mp4")], [("OUT", "rtsp:/b.mp4")]) is not None


def test_a_folder_that_is_a_symlink_to_nothing(tmp_path):
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    said = refused([], [("OUT", tmp_path / "gone/out.mp4")])
    assert said is not None and "is not a folder" in said


def test_a_folder_that_cannot_be_entered(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.X_OK)  # root may all
    assert "you may write to" in refused([], [("OUT", tmp_path / "out.mp4")])


def test_an_image_among_the_frames_by_another_spelling(tmp_path, monkeypatch):
    (tmp_path / "frames").mkdir()
    (tmp_path / "link").symlink_to("frames")
    (tmp_path / "frames/0.png").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    for folder, plot in (
        ("link", "frames/c.png"),
        ("frames", "link/c.png"),
        ("frames/", "frames/./c.png"),
    ):
        assert "among the images" in refused([("--video", folder)], [("plot", plot)])


@pytest.mark.parametrize("missing", ["", "not/yet/there"])
def test_an_output_that_cannot_be_made_is_refused_before_anything_runs(tmp_path, missing):
    folder = tmp_path / missing
    # While it is unfinished, its name is longer than a file system takes.
    long = folder / f"{'a' * 240}.json"
    said = refused([], [("--out", long)])
    assert "--out" in said and "too long" in said and "shorter name" in said
    assert refused([], [("--out", folder / f"{'a' * 200}.json")]) is None
    assert list(tmp_path.iterdir()) == []
