"""Frames of files, folders, addresses and programs, against those that were written."""

from __future__ import annotations

import io
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from blockcopy_plugins.datasets.live_source import LiveSource
from blockcopy_plugins.errors import ConfigError, FrameError

av = pytest.importorskip("av")
cv2 = pytest.importorskip("cv2")

SIZE = (48, 64)


def picture(number, size=SIZE):
    """Its brightness says which one it is."""
    return np.full((*size, 3), 5 * number, np.uint8)


def number_of(image):
    return round(float(image.mean()) / 5)


def write_video(path, numbers, size=SIZE, rate=10):
    """A video whose every frame is whole (intra), with an index in front."""
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("mjpeg", rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p"
        for i in numbers:
            frame = av.VideoFrame.from_ndarray(picture(i, size), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    end = time.monotonic() + 5
    while not set(threading.enumerate()) <= before:
        assert time.monotonic() < end, threading.enumerate()
        time.sleep(0.005)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("live") / "clip.mp4", range(30))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("frames")
    for i in range(12):
        cv2.imwrite(str(path / f"f{i}.png"), picture(i))
    return path


# ---------------------------------------------------------------------- files, folders, programs


def test_video_file(video):
    with LiveSource(video) as source:
        frames = list(source)
    assert [f.index for f in frames] == list(range(30))
    assert [number_of(f.image) for f in frames] == list(range(30))
    assert [f.time for f in frames] == pytest.approx([i / 10 for i in range(30)])
    assert (source.live, source.frame_rate, source.length) == (False, 10.0, 30)
    assert (source.dropped, source.corrupt) == (0, 0)


def test_file_gives_the_frames_of_the_reader_of_the_test_tool(video):
    from blockcopy_plugins.datasets import VideoReader

    with VideoReader(video) as reader, LiveSource(video) as source:
        for frame in source:
            assert np.array_equal(frame.image, reader.read(frame.index))


def test_file_is_not_dropped_from_however_long_it_takes(video):
    with LiveSource(video) as source:
        first = next(source)
        time.sleep(0.1)
        assert [first.index, *(f.index for f in source)] == list(range(30))


@pytest.mark.parametrize("start, frames, wanted", [(7, None, range(7, 30)), (3, 4, range(3, 7))])
def test_part_of_a_file(video, start, frames, wanted):
    with LiveSource(video, start=start, frames=frames) as source:
        assert source.length == len(wanted)
        assert [(f.index, number_of(f.image)) for f in source] == [(i, i) for i in wanted]


@pytest.mark.parametrize("kind", ["video", "folder", "arrays"])
def test_start_beyond_the_end_is_no_empty_video(kind, video, folder):
    given = {"video": video, "folder": folder, "arrays": [picture(0)]}[kind]
    with LiveSource(given, start=99) as source:
        with pytest.raises(FrameError, match="ends before frame 99; lower the start"):
            next(source)
        assert list(source) == []


def test_folder_in_natural_order(folder):
    with LiveSource(folder) as source:
        assert source.length == 12
        assert [number_of(f.image) for f in source] == list(range(12))
    with LiveSource(str(folder), start=2, frames=3) as source:
        frames = list(source)
        assert [f.index for f in frames] == [number_of(f.image) for f in frames] == [2, 3, 4]
        assert {f.time for f in frames} == {None} and source.length == 3


def test_arrays_are_made_where_they_are_asked_for():
    made = []

    def make():
        for i in range(5):
            made.append(threading.current_thread())
            yield picture(i)

    source = LiveSource(make())
    assert made == []
    assert number_of(next(source).image) == 0
    assert made == [threading.main_thread()]  # and not one more than asked for
    assert [number_of(f.image) for f in source] == [1, 2, 3, 4]


def test_arrays_that_failed_to_come_are_counted_and_passed_over():
    source = LiveSource([picture(0), None, picture(2), None])
    assert [(f.index, number_of(f.image)) for f in source] == [(0, 0), (2, 2)]
    assert source.corrupt == 2


@pytest.mark.parametrize(
    "wrong", [picture(0)[..., 0], picture(0).astype(np.float32), picture(0)[:0], "a.png"]
)
def test_what_is_no_picture_is_named(wrong):
    source = LiveSource([picture(0), wrong])
    next(source)
    with pytest.raises(FrameError, match="frame 1 .*uint8"):
        next(source)


def test_frames_that_change_their_size_come_as_they_are(tmp_path):
    for i in range(6):
        size = SIZE if i < 3 else (32, 32)
        ok, data = cv2.imencode(".jpg", picture(i, size))
        with open(tmp_path / "all.mjpeg", "ab") as file:
            file.write(data.tobytes())
    with LiveSource(tmp_path / "all.mjpeg") as source:
        shapes = [f.image.shape[:2] for f in source]
    assert shapes == [SIZE] * 3 + [(32, 32)] * 3


def test_leaving_early_ends_the_reading(video):
    with LiveSource(video) as source:
        next(source)
    assert list(source) == []
    source.close()


def test_source_that_was_never_read_is_closed_too(video):
    LiveSource(video).close()


@pytest.mark.parametrize(
    "source, options, error, words",
    [
        ("nowhere.mp4", {}, FrameError, "nowhere.mp4"),
        (None, {}, ConfigError, "NoneType"),
        (picture(0), {}, ConfigError, "ndarray"),
        (True, {}, ConfigError, "bool"),
        ([], dict(start=-1), ConfigError, "start=-1"),
        ([], dict(frames=0), ConfigError, "frames=0"),
        ([], dict(timeout=0), ConfigError, "timeout=0"),
        ("http://127.0.0.1:9/a", dict(timeout=2), FrameError, "127.0.0.1:9"),
    ],
)
def test_mistakes_say_what_was_found(source, options, error, words):
    with pytest.raises(error, match=words):
        LiveSource(source, **options)


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "a.mp4").write_text("no video at all")
    with pytest.raises(FrameError, match="a.mp4"):
        LiveSource(tmp_path / "a.mp4")


def test_file_without_a_frame_is_no_empty_video(tmp_path, video):
    data = video.read_bytes()
    begin = data.index(b"mdat") + 4
    (tmp_path / "blank.mp4").write_bytes(data[:begin] + bytes(len(data) - begin))
    with LiveSource(tmp_path / "blank.mp4") as source, pytest.raises(FrameError, match="no frame"):
        next(source)
    assert source.corrupt > 0


# ---------------------------------------------------------------------- addresses


class Camera(BaseHTTPRequestHandler):
    """A camera with an MJPEG stream; its path says what is wrong with it."""

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for i in range(40):
            size = (32, 48) if "resize" in self.path and i >= 20 else SIZE
            data = cv2.imencode(".jpg", picture(i, size))[1].tobytes()
            if "corrupt" in self.path and i in (10, 11):
                data = data[:30] + bytes(len(data) - 30)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + data + b"\r\n")
            except OSError:
                return  # nobody looks any more
            if "stall" in self.path and i == 20:
                self.server.stop.wait(20)
            time.sleep(0.01)


class Server(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True


@pytest.fixture()
def serve():
    """Start a server; its threads end with the test."""
    started = []

    def start(handler):
        server = Server(("127.0.0.1", 0), handler)
        server.stop = threading.Event()
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        started.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in started:
        server.stop.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_stream_of_a_camera(serve):
    with LiveSource(serve(Camera) + "/live", timeout=3) as source:
        assert source.live and source.length is None
        frames = list(source)
    # Nobody was late, but a busy machine may be.
    assert len(frames) + source.dropped == 40 and len(frames) > 20
    assert [number_of(f.image) for f in frames] == pytest.approx([f.index for f in frames], abs=1)
    times = [f.time for f in frames]
    assert times == sorted(times) and 0 <= times[0] < times[-1] < 10


def test_newest_frame_of_a_camera_counts(serve):
    with LiveSource(serve(Camera) + "/live", timeout=3) as source:
        found = []
        for frame in source:
            found.append(frame.index)
            time.sleep(0.06)
    assert source.dropped > 15 and len(found) + source.dropped == 40
    assert found[-1] == 39  # the newest one is never dropped
    assert max(np.diff(found)) > 2


def test_camera_of_which_every_frame_is_wanted(serve):
    with LiveSource(serve(Camera) + "/live", timeout=3, drop=False) as source:
        found = []
        for frame in source:
            found.append(frame.index)
            time.sleep(0.015)
    assert found == list(range(40)) and source.dropped == 0


def test_corrupt_frames_of_a_camera_are_counted(serve, caplog):
    with LiveSource(serve(Camera) + "/corrupt", timeout=3, drop=False) as source:
        frames = list(source)
    assert len(frames) == 38 and source.corrupt == 2
    assert number_of(frames[10].image) == pytest.approx(12, abs=1)
    assert "corrupt packets, which are skipped" in caplog.text


def test_pictures_of_which_a_part_was_lost_on_the_way_are_counted(serve):
    """Packets of a transport stream are missing, as over a bad network."""
    file = io.BytesIO()
    random = np.random.default_rng(0)
    with av.open(file, "w", format="mpegts") as container:
        options = dict(tune="zerolatency", preset="ultrafast", g="5")
        stream = container.add_stream("libx264", rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for _ in range(20):
            noise = random.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="bgr24")))
        container.mux(stream.encode(None))
    data = file.getvalue()
    half = len(data) // 376 * 188

    class Lossy(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            lost = 3 * 188 if "lossy" in self.path else 0
            self.wfile.write(data[:half] + data[half + lost :])

    found = {}
    for kind in ("whole", "lossy"):
        with LiveSource(f"{serve(Lossy)}/{kind}", timeout=3, drop=False) as source:
            assert source.live
            found[kind] = (len(list(source)), source.corrupt)
    assert found == {"whole": (20, 0), "lossy": (19, 1)}


@pytest.mark.parametrize("b_frames", [0, 3])
def test_a_stream_whose_server_goes_away_gives_all_that_came(serve, b_frames):
    """Frames that wait for others in the decoder, or at its end, are not lost with it."""
    file = io.BytesIO()
    with av.open(file, "w", format="mpegts") as container:
        options = dict(bf=str(b_frames), crf="1")
        stream = container.add_stream("libx264", rate=10, options=options)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for i in range(12):
            frame = av.VideoFrame.from_ndarray(picture(3 * i), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = file.getvalue()

    class Ends(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            self.wfile.write(data)

    with LiveSource(serve(Ends) + "/live", timeout=3, drop=False) as source:
        numbers = [number_of(frame.image) for frame in source]
    assert numbers == pytest.approx(list(range(0, 36, 3)), abs=1)


def test_camera_that_changes_its_resolution(serve):
    with LiveSource(serve(Camera) + "/resize", timeout=3, drop=False) as source:
        assert [f.image.shape[:2] for f in source] == [SIZE] * 20 + [(32, 48)] * 20


def test_camera_that_falls_silent_ends_with_a_warning(serve, caplog):
    with LiveSource(serve(Camera) + "/stall", timeout=0.5, drop=False) as source:
        began = time.monotonic()
        assert len(list(source)) == 21
        assert time.monotonic() - began < 5
    assert "breaks off" in caplog.text


def test_leaving_a_camera_ends_the_connection(serve):
    with LiveSource(serve(Camera) + "/live", timeout=3) as source:
        for frame in source:
            if frame.index > 3:
                break
    assert list(source) == []


def test_video_of_a_web_server_is_a_file(serve, video):
    """It states its length, and comes faster than any model: dropping would skip most of it."""

    class Files(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    address = serve(partial(Files, directory=str(video.parent))) + f"/{video.name}"
    with LiveSource(address, timeout=3) as source:
        assert (source.live, source.length) == (False, 30)
        first = next(source)
        time.sleep(0.1)
        assert [number_of(f.image) for f in (first, *source)] == list(range(30))


def test_address_of_nothing(serve):
    class Nothing(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            self.send_error(404)

    with pytest.raises(FrameError, match="404"):
        LiveSource(serve(Nothing) + "/nope", timeout=3)
