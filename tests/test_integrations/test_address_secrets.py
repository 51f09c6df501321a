"""Outputs of a camera behind a password name the camera and not the password."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

import blockcopy_plugins as bc

pytest.importorskip("mmseg")
pytest.importorskip("av")

from tests.test_integrations import tiny_projects as projects  # noqa: E402


class Files(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_predictions_have_no_secret_in_their_names(tmp_path):
    config, weights = projects.write_segmentor(tmp_path)
    projects.tiny_detector.write_clip(tmp_path / "clip.mp4", 2, seed=1)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    place = f"127.0.0.1:{server.server_port}/clip.mp4"
    try:
        options = dict(block_size=projects.BLOCK, policy="all")
        with bc.VideoInferencer(str(config), options, weights=str(weights)) as infer:
            address = f"http://admin:s3cret@{place}?token=t0ken"
            told = [output.prediction.metainfo for output in infer(address)]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert len(told) == 2 and told[0]["video_name"] == f"http://***@{place}?token=***"
    for secret in ("admin", "s3cret", "t0ken"):
        assert not [one for one in told if secret in repr(one)]


def test_what_ended_a_run_is_told_without_secrets():
    from blockcopy_plugins.integrations.common.partial_run import partial_run

    for problem in (
        OSError("rtsp://admin:s3cret@cam/x is gone"),
        KeyboardInterrupt("http://a:s3cret@b/"),
    ):
        told = partial_run(problem, 3, 9)
        assert "s3cret" not in told["reason"] and "***@" in told["reason"]
        assert (told["frames_run"], told["frames_planned"]) == (3, 9)
