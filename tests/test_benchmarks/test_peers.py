"""Other engines: their outputs are compared, and what is not there is a reason, not an error."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parents[2]

from benchmarks import peers  # noqa: E402
from benchmarks.peers import Peer, PeerUnavailable, make_peer  # noqa: E402
from benchmarks.quantised import Quantiser, read_frames  # noqa: E402

FRAME = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two outputs, one of them in a list."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = F.relu(self.a(x))
        return x, [self.b(x)]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_outputs_are_those_of_torch(name, net):
    for needed in ("onnx", "onnxscript", name):
        pytest.importorskip(needed)
    peer = make_peer(name, net, FRAME, 1)
    with torch.no_grad():
        first, (second,) = net(FRAME)
    got = [torch.as_tensor(value) for value in peer.run()]
    torch.testing.assert_close(got[0], first, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got[1], second, rtol=1e-4, atol=1e-5)
    assert peer.deviation < 1e-4 and peer.version and peer.name == name


@pytest.mark.slow
def test_torch_compile(net):
    peer = make_peer("torch.compile", net, FRAME, 1)
    assert peer.deviation < 1e-4


@pytest.fixture
def clip(tmp_path):
    """Six grey frames, each 20 levels lighter than the one before."""
    cv2 = pytest.importorskip("cv2")
    pytest.importorskip("av")
    path = tmp_path / "grey.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 64))
    for i in range(6):
        writer.write(np.full((64, 96, 3), 60 + 20 * i, np.uint8))
    writer.release()
    return path


def test_frames_are_from_all_over_the_clip(clip):
    frames = read_frames(clip, 3, (32, 48))
    assert [tuple(frame.shape) for frame in frames] == [(1, 3, 32, 48)] * 3
    blue = [frame[0, 0].mean().item() * 57.375 + 103.53 for frame in frames]
    assert blue == pytest.approx([60, 100, 160], abs=3), "frames 0, 2 and 5"
    assert len(read_frames(clip, 25, (32, 48))) == 6, "all that there are"


def test_int8_is_near_the_float32_outputs_of_a_frame_kept_back(net, clip):
    for needed in ("onnx", "onnxscript", "openvino", "nncf"):
        pytest.importorskip(needed)
    quantiser = Quantiser(clip, 3)
    peer = make_peer("openvino-int8", net, FRAME, 1, "net", quantiser)
    kept_back = read_frames(clip, 4, (32, 48))[2]
    with torch.no_grad():
        first, (second,) = net(kept_back)
    for value, wanted in zip(peer.run(), (first, second), strict=True):
        error = (torch.as_tensor(value) - wanted).abs().max() / wanted.abs().max()
        assert 1e-5 < error < 0.1, "8 bits are neither exact nor far off"
    assert 1e-5 < peer.deviation < 0.1 and not peer.exact
    assert peer.name == "openvino-int8" and "nncf" in peer.setting and "3 frames" in peer.setting


def test_a_network_is_quantised_once_for_a_size(net, clip, monkeypatch):
    for needed in ("onnx", "onnxscript", "openvino"):
        pytest.importorskip(needed)
    nncf = pytest.importorskip("nncf")
    calls, quantize = [], nncf.quantize
    monkeypatch.setattr(nncf, "quantize", lambda *a, **b: calls.append(1) or quantize(*a, **b))
    quantiser = Quantiser(clip, 1)
    first = quantiser.quantise("net", net, (32, 48))
    assert quantiser.quantise("net", net, (32, 48)) is first and len(calls) == 1
    assert quantiser.quantise("other", net, (32, 48)) is not first and len(calls) == 2
    assert quantiser.quantise("net", net, (32, 64)).frame.shape == (1, 3, 32, 64)


def test_nncf_that_is_not_installed_is_told(net, monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(PeerUnavailable, match=r"nncf is not installed: pip install .*peers"):
        make_peer("openvino-int8", net, FRAME, 1)


@pytest.mark.parametrize(("error", "refused"), [(0.3, False), (1.5, True), (float("nan"), True)])
def test_inexact_outputs_are_compared_with_their_own(error, refused, net, monkeypatch):
    expected = [torch.ones(4), torch.arange(3.0)]

    def make(region, frame, threads, network, quantiser):
        outputs = [expected[0] * (1 + error), expected[1]]
        return Peer("openvino-int8", "0", "", lambda: outputs, expected)

    monkeypatch.setattr(peers, "_openvino_int8", make)
    if refused:
        with pytest.raises(PeerUnavailable, match="deviate from torch's by"):
            make_peer("openvino-int8", net, FRAME, 1)
    else:
        assert make_peer("openvino-int8", net, FRAME, 1).deviation == pytest.approx(error)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_what_is_not_installed_is_told(name, net, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(PeerUnavailable, match=rf"{name} is not installed: pip install .*peers"):
        make_peer(name, net, FRAME, 1)


def test_onnx_that_is_not_installed_is_told(net, monkeypatch):
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(PeerUnavailable, match="onnx is not installed"):
        make_peer("onnxruntime", net, FRAME, 1)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (lambda a, b: [a, b + 0.01 * b.abs().max()], "deviate from torch's by 0.01"),
        (lambda a, b: [a, torch.full_like(b, float("nan"))], "deviate from torch's by inf"),
        (lambda a, b: [b, a], "not those of torch"),
        (lambda a, b: [a], "not those of torch"),
    ],
)
def test_other_outputs_than_torchs_are_refused(outputs, words, net, monkeypatch):
    def make(region, frame, threads):
        with torch.no_grad():
            first, (second,) = region(frame)
        return Peer("openvino", "0", "", lambda: outputs(first, second))

    monkeypatch.setattr(peers, "_openvino", make)
    with pytest.raises(PeerUnavailable, match=words):
        make_peer("openvino", net, FRAME, 1)


def test_an_engine_that_fails_is_a_reason(net, monkeypatch):
    def make(region, frame, threads):
        raise OSError("of\n  its own")

    monkeypatch.setattr(peers, "_openvino", make)
    with pytest.raises(PeerUnavailable, match="OSError: of its own"):
        make_peer("openvino", net, FRAME, 1)
