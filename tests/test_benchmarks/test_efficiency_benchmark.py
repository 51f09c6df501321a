"""The benchmark's figures follow from its times. How fast anything is, is not tested."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parents[2]

import blockcopy_plugins as bc  # noqa: E402
from benchmarks.busy_scene import POLICIES, dictated_beside_scene  # noqa: E402
from benchmarks.clock import Clock  # noqa: E402
from benchmarks.command import usable_devices  # noqa: E402
from benchmarks.deviation import deviation  # noqa: E402
from benchmarks.efficiency import parse_arguments  # noqa: E402
from benchmarks.efficiency_figures import LAYOUTS, efficiency_row, fastest_engine  # noqa: E402
from benchmarks.efficiency_report import save_plot  # noqa: E402
from benchmarks.grids import draw_grid, executed_blocks  # noqa: E402
from benchmarks.region import MODELS, build_region, find_config, task_of  # noqa: E402


def test_row_is_computed_from_its_times():
    row = efficiency_row(
        executed=32,
        blocks=128,
        dense=[1000.0, 1200.0, 5000.0],
        sparse=[260.0, 290.0, 280.0, 900.0],
        policy=[1.0, 1.0, 1.0, 13.0],
    )
    assert row["dense_ms"] == 1200.0 and row["model_ms"] == 285.0
    assert row["policy_ms"] == 4.0, "an update in one of four frames is a quarter of an update each"
    assert row["sparse_ms"] == 289.0
    assert row["speedup"] == pytest.approx(1200.0 / 289.0)
    assert row["efficiency"] == pytest.approx(1200.0 / 289.0 * 0.25)


@pytest.mark.parametrize("pattern", ["random", "clustered"])
@pytest.mark.parametrize("count", [0, 1, 5, 24])
def test_grid_has_the_exact_count(pattern, count):
    draw = torch.Generator().manual_seed(1)
    grid = draw_grid(count, (4, 6), draw, pattern)
    assert grid.shape == (1, 4, 6) and grid.dtype == torch.bool and int(grid.sum()) == count


def test_clustered_grid_is_one_patch():
    grid = draw_grid(6, (20, 20), torch.Generator().manual_seed(3), "clustered")[0]
    spread = grid.nonzero().float().std(0).max().item()
    assert spread < 2.5, "6 blocks around one point, not over 20 x 20"


def test_count_of_a_rate():
    assert [executed_blocks(r, 128) for r in (1.0, 0.5, 0.25, 0.125, 0.001)] == [128, 64, 32, 16, 1]


def test_fastest_engine_is_what_the_speedup_is_over():
    row = efficiency_row(
        executed=1, blocks=4, dense=[200.0], sparse=[45.0], policy=[5.0], fastest=("other", 150.0)
    )
    assert row["speedup"] == 4.0 and row["efficiency"] == 1.0
    assert row["speedup_over_fastest"] == 3.0 and row["policy_share"] == 0.025
    assert row["fastest"] == {"engine": "other", "ms": 150.0}
    alone = efficiency_row(executed=1, blocks=4, dense=[200.0], sparse=[45.0], policy=[5.0])
    assert alone["fastest"]["engine"] == "torch" and alone["speedup_over_fastest"] == 4.0


def test_engines_that_are_absent_are_not_the_fastest():
    peers = [{"engine": "a", "reason": "gone"}, {"engine": "b", "ms": 90.0}]
    assert fastest_engine(100.0, peers) == ("b", 90.0)
    assert fastest_engine(80.0, peers) == ("torch", 80.0)
    assert fastest_engine(80.0, []) == ("torch", 80.0)


def test_engines_of_lower_precision_are_not_the_fastest_but_compared():
    peers = [{"engine": "a", "ms": 20.0, "exact": False}, {"engine": "b", "ms": 90.0}]
    assert fastest_engine(100.0, peers) == ("b", 90.0)
    times = dict(executed=1, blocks=4, dense=[200.0], sparse=[45.0], policy=[5.0])
    assert efficiency_row(**times, int8_ms=20.0)["speedup_over_int8"] == 0.4
    assert efficiency_row(**times)["speedup_over_int8"] is None


def test_lines_of_the_plot_are_called_by_what_differs(tmp_path, monkeypatch):
    from blockcopy_plugins.visualization import speedup

    drawn = {}
    monkeypatch.setattr(
        speedup, "plot_speedup", lambda s, path, fastest: drawn.update(s=s, f=fastest)
    )
    row = dict(model="m", dtype="float32", device="cpu", threads=2, block_size=64, rate=0.5)
    row |= dict(speedup=1.8, speedup_over_fastest=1.2)
    rows = [
        row | dict(size=[64, 128], fastest={"engine": "torch", "ms": 1.0}),
        row | dict(size=[32, 64], fastest={"engine": "other", "ms": 1.0}),
    ]
    save_plot({"rows": rows}, "x.png")
    assert drawn["s"] == {
        "m, 64\u00d7128, float32": [(0.5, 1.8)],
        "m, 32\u00d764, float32": [(0.5, 1.8)],
    }
    assert drawn["f"] == {"m, 32\u00d764, float32": [(0.5, 1.2)]}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sizes", "1024"],
        ["--sizes", "0x64"],
        ["--block-sizes", "0"],
        ["--rates", "1.5"],
        ["--rates", "0"],
        ["--dtypes", "int8"],
        ["--devices", "tpu"],
        ["--peers", "tensorrt"],
        ["--calibration-frames", "0"],
        ["--plot", "x.jpg"],
    ],
)
def test_bad_arguments_are_errors(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        parse_arguments(arguments)
    assert error.value.code == 2
    assert arguments[1] in capsys.readouterr().err


def test_lists_on_the_command_line():
    args = parse_arguments("--sizes 64x128,32x64 --rates 1,0.25 --devices cpu,cuda".split())
    assert args.sizes == [(64, 128), (32, 64)] and args.rates == [1.0, 0.25]
    assert args.devices == ["cpu", "cuda"] and args.peers == []


@pytest.mark.parametrize("beside", list(POLICIES))
def test_dictated_policy_executes_what_it_is_told_and_is_timed(beside):
    class Ticks:
        device = "cpu"
        count = 0

        def mark(self):
            self.count += 1
            return self.count

        def between(self, first, second):
            return 10.0 * (second - first)

    policy = dictated_beside_scene("boxes", (96, 128), clock=Ticks(), policy=beside)
    assert type(policy.beside._learned).__name__ == beside
    net = torch.nn.Conv2d(3, 4, 3, 1, 1).eval()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=32, policy=policy))
    draw = torch.Generator().manual_seed(0)
    for count in (12, 3, 7):
        policy.grid = draw_grid(count, (3, 4), draw)
        net(torch.randn(1, 3, 96, 128))
        assert torch.equal(policy.ran, policy.grid) and int(policy.ran.sum()) == count
        assert policy.seconds() == 20.0, "one tick to choose, one to learn"
        assert policy.seconds() == 0.0


def test_clock_of_a_gpu_waits_before_and_after_and_asks_the_events(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("event")

        def elapsed_time(self, other):
            return 12.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("wait"))
    clock = Clock("cuda", "cpu")
    first = clock.start()
    clock.mark()
    last = clock.stop()
    assert log == ["wait", "event", "event", "event", "wait"]
    assert clock.between(first, last) == 0.012


def test_names_of_models():
    pytest.importorskip("mmdet")
    pytest.importorskip("mmseg")
    for name in MODELS:
        assert Path(find_config(name)).name.startswith(name)
    with pytest.raises(FileNotFoundError, match="0 configs .*no-such-net"):
        find_config("no-such-net")


def test_regions_stop_at_the_dense_head():
    pytest.importorskip("mmseg")
    region = build_region("deeplabv3plus_r50", torch.float32)
    assert task_of(region.model) == "segmentation"
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in region.modules())
    with torch.inference_mode():
        assert region(torch.randn(1, 3, 64, 64)).shape == (1, 19, 16, 16)


@pytest.mark.parametrize("name", ["csp_r50", "mgan_vgg16", "swiftnet_r18", "swiftnet_r50"])
def test_the_networks_of_this_package_have_regions(name):
    pytest.importorskip("mmdet")
    pytest.importorskip("mmseg")
    with torch.device("meta"):
        region = build_region(name, torch.float32, device="meta")
        out = region(torch.empty(1, 3, 128, 256))
    if task_of(region.model) == "segmentation":
        assert out.shape == (1, 19, 32, 64)
    else:
        stride, kinds = {"csp_r50": (4, 3), "mgan_vgg16": (8, 2)}[name]
        maps = tree_leaves(out[1])
        assert len(maps) == kinds
        for level in maps:
            assert level.shape[2:] == (128 // stride, 256 // stride)


@pytest.mark.parametrize("name", ["csp_r50", "swiftnet_r18"])
def test_folding_batch_norms_does_not_change_the_model(name, monkeypatch):
    """SwiftNet's decoder normalises before it convolves: only its backbone can be folded."""
    pytest.importorskip("mmdet")
    pytest.importorskip("mmseg")

    def norms(module):
        return sum(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in module.modules())

    folded = build_region(name, torch.float32)
    assert norms(folded.model.backbone) == 0
    # Five of the pooling, three upsamplings of two layers each, one of the head.
    assert norms(folded) == {"csp_r50": 0, "swiftnet_r18": 12}[name]
    with monkeypatch.context() as patch:
        patch.setattr("benchmarks.region._fold_batch_norms", lambda model: None)
        plain = build_region(name, torch.float32)
    assert norms(plain.model.backbone) > 0
    frame = torch.randn(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert deviation(folded(frame), plain(frame)) < 1e-4


def run(module, *arguments):
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    return subprocess.run(
        command,
        cwd=os.path.dirname(sys.executable),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_command_writes_consistent_json(tmp_path):
    pytest.importorskip("mmdet")
    pytest.importorskip("matplotlib")
    target, plot = tmp_path / "results.json", tmp_path / "plot.png"
    thin = ROOT / "configs/_base_/models/mask-rcnn_r18-thin_fpn.py"
    done = run(
        *("efficiency", "--models", str(thin)),
        *"--sizes 64x128 --block-sizes 64,32 --rates 1,0.5 --dtypes float32".split(),
        *"--threads 1 --repeats 2 --warmup 1 --whole-detector --peers onnxruntime".split(),
        *("--json", str(target), "--plot", str(plot)),
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(target.read_text())
    assert set(results["machine"]) >= {"cpu", "cores", "threads", "torch", "allocator", "commit"}
    assert results["machine"]["threads"] == 1
    assert [(row["block_size"], row["executed"]) for row in results["rows"]] == [
        (64, 2),
        (64, 1),
        (32, 8),
        (32, 4),
    ]
    for row in results["rows"]:
        times = row["times"]
        assert {len(times[name]) for name in ("dense", "sparse", "policy")} == {2}
        dense = statistics.median(times["dense"])
        sparse = statistics.median(times["sparse"]) + statistics.fmean(times["policy"])
        assert row["policy_ms"] > 0 and row["state_bytes"] > 0
        assert row["blocks"] == {64: 2, 32: 8}[row["block_size"]]
        assert row["speedup"] == pytest.approx(dense / sparse)
        assert row["efficiency"] == pytest.approx(dense / sparse * row["executed"] / row["blocks"])
        assert row["macs_dense"] > 10 * row["macs_policy"] > 0
        assert row["deviation"] < 1e-4 and row["dense_layout"] in LAYOUTS
    (check,) = results["checks"]
    assert max(check["against_dense"], check["against_reference"]) < 1e-4
    (peer,) = results["peers"]
    assert peer["engine"] == "onnxruntime" and ("ms" in peer) != ("reason" in peer)
    assert [row["detections"] for row in results["whole"]] == [20] * 4
    for row, part in zip(results["whole"], results["rows"], strict=True):
        assert row["part_speedup"] == part["speedup"] and row["dense_ms"] > part["dense_ms"]
    assert "100.0%" in done.stdout and "50.0%" in done.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_a_device_that_is_not_there_is_told():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    there, absent = usable_devices(["cpu", "cuda"])
    assert there == ["cpu"] and absent[0]["what"] == "device cuda" and absent[0]["reason"]
    with pytest.raises(SystemExit, match="none of the devices"):
        usable_devices(["cuda"])


@pytest.mark.parametrize("module", ["efficiency", "ops", "memory", "profile", "tables", "policies"])
def test_help_explains(module):
    done = run(module, "--help")
    assert done.returncode == 0, done.stderr
    assert (
        f"python -m benchmarks.{module}" in done.stdout
        and "--json" in done.stdout
        or (module == "tables")
    )
