"""Cameras that send over UDP or over TCP alone, behind a few lines of RTSP; FFmpeg sends."""

from __future__ import annotations

import shutil
import socket
import socketserver
import subprocess
import threading

import av
import numpy as np
import pytest

from blockcopy_plugins.datasets import LiveSource

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg here")
SIZE = (48, 64)


class Camera(socketserver.StreamRequestHandler):
    """Answers as RFC 2326 has it, and refuses the transport that its server does not offer."""

    def handle(self):
        channel = port = None
        while line := self.rfile.readline().decode().strip():
            method, address = line.split()[:2]
            head = {}
            while field := self.rfile.readline().decode().strip():
                name, _, value = field.partition(":")
                head[name.lower()] = value.strip()
            code, fields, body = "200 OK", {"Session": "1"}, ""
            if method == "DESCRIBE":
                body = self.server.description
                fields = {"Content-Type": "application/sdp", "Content-Base": f"{address}/"}
            elif method == "SETUP":
                asked = head["transport"]
                over = "tcp" if "TCP" in asked else "udp"
                self.server.asked.append(over)
                if over != self.server.offers:
                    code = "461 Unsupported Transport"
                elif over == "udp":
                    port = int(asked.split("client_port=")[1].split("-")[0])
                    fields["Transport"] = f"{asked};server_port=6970-6971"
                else:
                    channel = int(asked.split("interleaved=")[1].split("-")[0])
                    fields["Transport"] = asked
            fields = {"CSeq": head["cseq"], "Content-Length": len(body), **fields}
            text = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
            self.wfile.write(f"RTSP/1.0 {code}\r\n{text}\r\n{body}".encode())
            if method == "PLAY":
                self.server.play(self.wfile, port, channel)
            if method == "TEARDOWN":
                return


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, video, description, offers):
        super().__init__(("127.0.0.1", 0), Camera)
        self.video, self.description, self.offers = video, description, offers
        self.asked, self.senders = [], []

    def play(self, stream, port, channel):

        if port is None:  # packets come to a port of ours, and go on between the answers
            inside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            inside.bind(("127.0.0.1", 0))
            inside.settimeout(20)
            port = inside.getsockname()[1]

            def forward():
                try:
                    while packet := inside.recv(65536):
                        size = len(packet).to_bytes(2, "big")
                        stream.write(b"$" + bytes([channel]) + size + packet)
                except (OSError, ValueError):
                    inside.close()

            threading.Thread(target=forward, daemon=True).start()
        command = ["ffmpeg", "-v", "error", "-re", "-stream_loop", "50", "-i", str(self.video)]
        command += ["-c", "copy", "-f", "rtp", f"rtp://127.0.0.1:{port}?pkt_size=1200"]
        self.senders.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A film of whole frames, and its description for RTSP."""
    path = tmp_path_factory.mktemp("rtsp") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.gop_size = 1
        for n in range(10):
            image = np.full((*SIZE, 3), 100 + 10 * (n % 2), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())
    told = path.with_name("film.sdp")
    command = ["ffmpeg", "-v", "error", "-t", "0.1", "-i", str(path), "-c", "copy", "-f", "rtp"]
    subprocess.run([*command, "-sdp_file", str(told), "rtp://127.0.0.1:5998"], check=True)
    lines = [line for line in told.read_text().splitlines() if not line.startswith("SDP:")]
    lines = [line.replace("m=video 5998", "m=video 0") for line in lines]
    return path, "\r\n".join([*lines, "a=control:track0", ""])


@pytest.mark.parametrize("offers", ["udp", "tcp"])
def test_the_transport_that_the_camera_offers_is_found(film, offers):
    server = Server(*film, offers)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        address = f"rtsp://127.0.0.1:{server.server_address[1]}/live"
        with LiveSource(address, timeout=10, frames=4, drop=False) as source:
            frames = [frame.image for frame in source]
    finally:
        for sender in server.senders:
            sender.terminate()
            sender.wait()
        server.shutdown()
        thread.join()
        server.server_close()
    assert offers in server.asked
    assert len(frames) == 4 and {frame.shape for frame in frames} == {(*SIZE, 3)}
    assert {round(float(frame.mean()) / 10) for frame in frames} <= {10, 11}
