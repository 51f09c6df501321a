"""Other engines: their outputs are compared, and what is not there is a reason, not an error."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parents[2]

from benchmarks import peers  # noqa: E402
from benchmarks.peers import Peer, PeerUnavailable, make_peer  # noqa: E402

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
