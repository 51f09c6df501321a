"""What nobody else may read in the address of a camera is in nothing that is said or kept."""

from __future__ import annotations

import logging
import threading
import traceback
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockcopy_plugins.addresses import masked

SECRETS = {
    "rtsp://admin:s3cret@cam/live": "rtsp://***@cam/live",
    "rtsp://admin:s3@cret@cam:554/live": "rtsp://***@cam:554/live",
    "rtsp://admin:s3/cret@cam/live": "rtsp://***@cam/live",
    "rtsp://admin:s3?cret@cam/live": "rtsp://***@cam/live",
    "rtsp://admin:s3#cret@cam/live": "rtsp://***@cam/live",
    "rtsp://s3cret@cam/live": "rtsp://***@cam/live",
    "http://cam:8080/video?token=s3cret&size=2": "http://cam:8080/video?token=***&size=***",
    "http://cam/video?s3cret": "http://cam/video?***",
    "rtsp://cam/user=admin&password=s3cret&channel=1": (
        "rtsp://cam/user=***&password=***&channel=1"
    ),
    "https://cam/live.m3u8#token=s3cret": "https://cam/live.m3u8#token=***",
}
PLAIN = [
    "rtsp://cam:554/live/ch1",
    "http://cam:8080/@stream",
    "udp://@239.0.0.1:1234".replace("@", ""),
    "/data/a@b.mp4",
    "C:\\videos\\a.mp4",
    "no address: a=b, user@host",
]


@pytest.mark.parametrize("address", list(SECRETS))
def test_secrets_are_masked_and_the_rest_stays(address):
    assert masked(address) == SECRETS[address]
    said = f"[Errno 5] Input/output error: '{address}'; last error log: [tcp] {address} failed"
    assert "s3" not in masked(said) and masked(said).count(SECRETS[address]) == 2
    assert masked(masked(said)) == masked(said)


@pytest.mark.parametrize("text", PLAIN)
def test_what_holds_no_secret_stays(text):
    assert masked(text) == text


WORD = st.text("abcXYZ019-._~!$&'()*+,;=:%", min_size=1, max_size=12).map(lambda t: "q9Z" + t)


@given(user=WORD, password=WORD, token=WORD)
def test_any_user_password_and_token(user, password, token):
    user, password, token = (quote(part, safe="") for part in (user, password, token))
    address = f"rtsp://{user}:{password}@cam.example:554/live/1?key={token}&x={token}"
    found = masked(f"cannot open '{address}': no route")
    assert "q9Z" not in found
    assert found == "cannot open 'rtsp://***@cam.example:554/live/1?key=***&x=***': no route"


@pytest.fixture
def broken_stream(tmp_path):
    """A camera behind a password that breaks off in the middle."""
    av = pytest.importorskip("av")
    np = pytest.importorskip("numpy")
    path = tmp_path / "s.ts"
    with av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n in range(8):
            image = np.full((48, 64, 3), 20 * n, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())
    data = path.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if "gone" in self.path else 200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://admin:s3cret@127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_nothing_that_is_said_of_a_stream_has_its_password(broken_stream, caplog):
    from blockcopy_plugins.datasets import LiveSource
    from blockcopy_plugins.errors import FrameError

    said = []
    with caplog.at_level(logging.DEBUG):
        with LiveSource(f"{broken_stream}/cam?token=s3cret", timeout=5) as source:
            said += [source.name, repr(source), *(str(frame.index) for frame in source)]
        for address in (f"{broken_stream}/gone?token=s3cret", "rtsp://admin:s3cret@127.0.0.1:1/x"):
            with pytest.raises(FrameError) as error:
                LiveSource(address, timeout=5)
            said.append("".join(traceback.format_exception(error.value)))
        with LiveSource(f"{broken_stream}/cam?token=s3cret", start=500, timeout=5) as source:
            with pytest.raises(FrameError) as error:
                list(source)
            said.append("".join(traceback.format_exception(error.value)))
    said.append(caplog.text)
    assert "breaks off" in caplog.text and "127.0.0.1" in said[0]
    assert not [text for text in said if "s3cret" in text or "admin" in text]
