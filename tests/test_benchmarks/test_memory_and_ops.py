"""Bytes and bandwidth follow from shapes and times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parents[2]

import blockcopy_plugins as bc  # noqa: E402
from benchmarks import memory, ops  # noqa: E402
from blockcopy_plugins.ops import conv_kernels  # noqa: E402


@pytest.fixture(autouse=True)
def _same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, 2, 1)
        self.b = nn.Conv2d(8, 8, 3, 1, 1)
        self.c = nn.Conv2d(8, 8, 3, 1, 1)
        self.d = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = F.relu(self.a(x), inplace=True)
        y = self.b(x) + self.c(x)  # one map, read twice
        y = self.d(F.max_pool2d(y, 2))  # a 1x1 convolution reads no neighbours
        return F.interpolate(y, scale_factor=2, mode="nearest")


def test_inputs_of_spatial_ops():
    """(3, 64, 96) of a, (8, 32, 48) of b and c, the same of the pooling, (4, 16, 24) resized."""
    net = Net().eval()
    wanted = 4 * (3 * 64 * 96 + 2 * 8 * 32 * 48 + 4 * 16 * 24)
    assert memory.spatial_inputs(net, torch.randn(1, 3, 64, 96)) == wanted


def test_state_is_no_more_than_the_spatial_inputs_and_the_exits():
    net = Net().eval()
    frame = torch.randn(1, 3, 64, 96)
    inputs = memory.spatial_inputs(net, frame)
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=32, policy="random"))
    for _ in range(3):
        out = net(frame)
    assert 0 < bc.report(net).state_bytes <= inputs + out.nbytes


def test_figures_of_memory():
    samples = [(0, 500, 600, 90), (10, 700, 800, 100)]
    samples += [(i, 705, 811, 100) for i in range(11, 31)]
    found = memory.figures(600, 200, samples)
    assert found["in_use_growth"] == 5 and found["state_growth"] == 0
    assert found["beyond_dense_bytes"] == 105 and found["beyond_dense_copies"] == 105 / 200
    assert found["state_copies"] == 0.5 and found["in_use_last"] == 705
    assert found["resident_last"] == 811 and found["resident_growth"] == 11
    assert found["samples"][1] == dict(frame=10, in_use=700, resident=800, state_bytes=100)


def test_figures_of_a_kernel():
    found = ops.figures(seconds=2e-3, copy_seconds=1.5e-3, size=10**6)
    assert found["GB/s"] == pytest.approx(1.0) and found["copy_GB/s"] == pytest.approx(4 / 3)
    assert found["share"] == pytest.approx(0.75) and found["ms"] == 2.0


def test_ops_command(tmp_path, capsys):
    target = tmp_path / "ops.json"
    arguments = "--channels 4,8 --blocks 8 --grid 2x3 --rates 0.5,1 --dtypes float32,bfloat16"
    arguments += f" --threads 1 --repeats 2 --json {target}"
    ops.main(arguments.split())
    rows = json.loads(target.read_text())["rows"]
    assert len(rows) == 8
    for row in rows:
        size = {"float32": 4, "bfloat16": 2}[row["dtype"]] * row["channels"] * row["executed"]
        assert row["executed"] in (3, 6)
        assert row["scatter"]["bytes"] == 64 * size, "8x8 pixels"
        assert row["gather"]["bytes"] == 100 * size, "with a ring of one pixel"
    assert "8 ch, 8 px" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--channels", "4"], ["--grid", "2x3,4x5"]])
def test_bad_arguments_of_ops(arguments):
    with pytest.raises(SystemExit):
        ops.parse_arguments(arguments)


def test_memory_command(tmp_path, capsys):
    pytest.importorskip("mmdet")
    target = tmp_path / "memory.json"
    memory.main(f"--size 64x128 --frames 12 --threads 1 --json {target}".split())
    (run,) = json.loads(target.read_text())["runs"]
    assert run["device"] == "cpu" and run["samples"][-1]["frame"] == 11
    assert run["state_growth"] == 0
    # Rings and the maps of the pyramid, or one copy and the last outputs of the RPN head.
    least, most = (0.3, 0.6) if conv_kernels() else (1.0, 1.05)
    assert least < run["state_copies"] < most
    assert "one copy of the spatial ops' inputs" in capsys.readouterr().out
