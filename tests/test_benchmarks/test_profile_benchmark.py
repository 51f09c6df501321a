"""Ops are named by kind, and a frame's time is divided among them without rest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parents[2]

import blockcopy_plugins as bc  # noqa: E402
from benchmarks.clock import Clock  # noqa: E402
from benchmarks.grids import draw_grid  # noqa: E402
from benchmarks.op_timer import OpTimer, kind_of  # noqa: E402
from benchmarks.profile import KINDS, kinds, main, print_profile  # noqa: E402
from benchmarks.unseen_policy import UnseenScene  # noqa: E402
from blockcopy_plugins.policy.dictated import DictatedPolicy  # noqa: E402


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::convolution", "conv"),
        ("aten::conv2d", "conv"),
        ("aten::mkldnn_convolution", "conv"),
        ("mkldnn::_convolution_pointwise", "conv"),
        ("blockcopy::conv", "conv"),
        ("blockcopy::conv2d_fused", "conv"),
        ("blockcopy::conv_gathered", "conv"),
        ("blockcopy::gather", "gather"),
        ("blockcopy::gather_im2col", "gather"),
        ("blockcopy::scatter_", "scatter"),
        ("blockcopy::scatter_rings_", "scatter"),
        ("blockcopy::bucket_count", "other"),
        ("aten::relu_", "pointwise"),
        ("aten::add.Tensor", "pointwise"),
        ("aten::max_pool2d_with_indices", "pooling"),
        ("aten::upsample_nearest2d", "resize"),
        ("aten::clone", "copy"),
        ("aten::copy_", "copy"),
        ("aten::topk", "other"),
    ],
)
def test_kinds_by_name(name, kind):
    assert kind_of(name) == kind and kind in KINDS


class Ticking(Clock):
    """Each mark is one second after the one before, so an op takes one."""

    def __init__(self):
        super().__init__()
        self.now = 0.0

    def mark(self):
        self.now += 1.0
        return self.now


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.b = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = F.relu(self.a(x))
        return F.interpolate(self.b(F.max_pool2d(x, 3, 2, 1)), scale_factor=2, mode="nearest")


def test_ops_of_blocks_are_seen_and_those_of_the_policy_are_not():
    dense, scene = Net().eval(), UnseenScene("boxes")
    scene.prepare((96, 128))
    policy = DictatedPolicy(scene)
    frame = torch.randn(1, 3, 96, 128)
    with torch.inference_mode(), OpTimer(Ticking()) as timer:
        dense(frame)
    found = timer.by_kind()
    assert (found["conv"], found["pooling"], found["resize"], found["pointwise"]) == (2, 1, 1, 1)
    assert found["gather"] == found["scatter"] == 0

    bc.blockcopy_(dense, bc.BlockCopyConfig(block_size=32, policy=policy))
    draw = torch.Generator().manual_seed(0)
    for count in (12, 5, 5):
        policy.grid = draw_grid(count, (3, 4), draw)
        scene.timer = OpTimer(Ticking())
        with torch.inference_mode(), scene.timer:
            dense(frame)
    timed = list(scene.timer.ops)
    names = {name for name, _ in timed}
    assert any("scatter" in name for name in names)
    assert scene.timer.by_kind()["conv"] >= 2 and scene.timer.by_kind()["scatter"] > 0
    # What ran were the packed blocks, not the map that a BlockTensor claims to be.
    assert not any(n.startswith("aten::conv") and s[0] == (1, 3, 96, 128) for n, s in timed)
    # The policy's network has convolutions, its reward draws random numbers.
    weights = {s[1] for n, s in timed if kind_of(n) == "conv" and len(s) > 1}
    assert not any(len(w) == 4 and w[1] not in (3, 8) for w in weights)
    assert not any("bernoulli" in name or "rand" in name for name in names)


def test_time_of_a_frame_is_divided_without_rest():
    """Three frames; an update of the policy in the last; 30 ms of ops in each."""
    frames, policy = [0.050, 0.052, 0.091], [0.002, 0.002, 0.041]
    ops = [{"conv": 0.02, "copy": 0.01}] * 3
    found = kinds(frames, policy, ops)
    assert found["conv"] == pytest.approx(20) and found["copy"] == pytest.approx(10)
    assert found["policy"] == pytest.approx(15), "the mean, with the update in it"
    assert found["dispatch"] == pytest.approx(20), "50 - 30: the median without the policy is 50"
    assert set(found) == set(KINDS)
    assert kinds([0.01], [0.0], [{"conv": 0.02}])["dispatch"] == 0


def test_command(tmp_path, capsys):
    pytest.importorskip("mmdet")
    pytest.importorskip("matplotlib")
    target, plot = tmp_path / "profile.json", tmp_path / "profile.png"
    threads = torch.get_num_threads()
    try:
        results = main(
            "--size 64x128 --block-size 64 --rates 1,0.5 --threads 1 --repeats 1".split()
            + ["--json", str(target), "--plot", str(plot)]
        )
    finally:
        torch.set_num_threads(threads)
    assert target.exists() and plot.read_bytes().startswith(b"\x89PNG")
    (run,) = results["runs"]
    assert list(run["profile"]) == ["dense", "1.0", "0.5"]
    dense, part = run["profile"]["dense"], run["profile"]["0.5"]
    assert dense["kinds_ms"]["policy"] == 0 < part["kinds_ms"]["policy"]
    assert dense["kinds_ms"]["conv"] > 0 and "256x256x3x3" in dense["convolutions_ms"]
    # FPN's four output convolutions and the head's one on five levels.
    assert dense["convolutions_ms"]["256x256x3x3"]["calls"] >= 9
    print_profile(run)
    assert "dispatch" in capsys.readouterr().out
