"""Tables hold the figures of the JSON files, and only those between the markers change."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

from benchmarks import tables  # noqa: E402

MACHINE = dict(cpu="a CPU", threads=2, torch="9.9", allocator="one", load_1min=0.1, gpu=None)
SETTING = dict(size=[64, 128], device="cpu", threads=2, block_size=32)


def row(model, dtype, rate, **more):
    found = dict(SETTING, model=model, dtype=dtype, rate=rate, dense_ms=400.0, sparse_ms=123.0)
    found |= dict(policy_ms=7.0, speedup=3.25, efficiency=0.81, speedup_over_fastest=2.5)
    return found | dict(fastest={"engine": "openvino", "ms": 307.0}) | more


def efficiency_report():
    engine = dict(SETTING, model="m", setting="fast", version="1.2")
    return dict(
        machine=MACHINE,
        rows=[row("m", "float32", 0.25), row("m", "bfloat16", 0.125)],
        peers=[
            engine | dict(dtype="float32", engine="openvino", ms=307.0),
            engine | dict(dtype="float32", engine="onnxruntime", ms=512.0),
            engine | dict(dtype="bfloat16", engine="onnxruntime", reason="no such | type"),
        ],
        whole=[
            row("m", "float32", 0.25, part_speedup=3.25, speedup=1.5),
            dict(SETTING, model="m", dtype="bfloat16", reason="RuntimeError: no"),
        ],
    )


def test_efficiency():
    text = tables.efficiency(efficiency_report())
    assert (
        "| float32 | 25.0% | 400 | 123 | 7 | 3.25× | **0.81** | openvino, 307 ms | 2.50× |" in text
    )
    assert "| bfloat16 | 12.5% |" in text and "a CPU, 2 threads" in text
    assert "| model |" not in text, "there is but one"
    report = efficiency_report()
    report["rows"].append(row("other", "float32", 0.25))
    assert "| other | float32 |" in tables.efficiency(report)
    report["peers"] = []
    assert "openvino" not in tables.efficiency(report)


def test_gain_cost():
    found = dict(SETTING, output="boxes", count=300, summarise_ms=0.071, output_map_ms=0.02)
    found |= dict(compare_ms=0.118, gain_ms=0.209)
    text = tables.gain_cost(dict(machine=MACHINE, gain=[found, dict(found, count=3000)]))
    assert "| detections | summarise ms | output map ms | compare ms | ms a frame |" in text
    assert "| 300 boxes | 0.07 | 0.02 | 0.12 | **0.21** |" in text
    assert "| 3000 boxes |" in text and "a CPU, 2 threads" in text
    text = tables.gain_cost(dict(machine=MACHINE, gain=[found, dict(found, threads=1)]))
    assert "| threads | detections |" in text and "| 1 | 300 boxes |" in text
    with pytest.raises(tables.OlderResult, match="gain_ms"):
        tables.gain_cost(dict(machine=MACHINE, rows=[]))


def test_peers():
    text = tables.peers(efficiency_report())
    assert "| dtype | torch ms | openvino ms | onnxruntime ms |" in text
    assert "| float32 | 400 | **307** | 512 |" in text
    assert "| bfloat16 | **400** | – (1) | – (2) |" in text
    assert "(1) openvino: not tried. (2) onnxruntime: no such / type." in text
    assert "openvino 1.2 (fast)" in text


def test_int8_stands_beside_its_error_and_is_not_the_fastest():
    report = efficiency_report()
    found = dict(SETTING, model="m", dtype="float32", engine="openvino-int8", setting="nncf")
    report["peers"].append(found | dict(version="1", ms=98.4, deviation=0.0341, exact=False))
    text = tables.peers(report)
    assert "| float32 | 400 | **307** | 512 | 98 (error 3.4%) |" in text
    report["rows"][0]["speedup_over_int8"] = 0.8
    text = tables.efficiency(report)
    assert "| speed-up over it | speed-up over INT8 |" in text
    assert "| openvino, 307 ms | 2.50× | 0.80× |" in text and "| 2.50× | – |" in text


def test_whole():
    text = tables.whole(efficiency_report())
    assert "| float32 | 25.0% | 400 | 123 | **1.50×** | 3.25× |" in text
    assert "m, bfloat16: not measured: RuntimeError: no." in text


def test_ops():
    found = {"copy_GB/s": 10.0, "GB/s": 8.0, "share": 0.8}
    one = dict(device="cpu", threads=1, dtype="float32", kernel=3, dilation=1)
    one |= dict(channels=64, block=32, executed=5, gather=found, scatter=found)
    text = tables.ops(dict(machine=MACHINE, rows=[one, one | dict(dtype="bfloat16")]))
    assert "| bfloat16 | 64 | 32 px | 5 | 10.0 | 8.0 | 80% | 10.0 | 8.0 | 80% |" in text
    assert "| kernel |" not in text


def test_memory():
    samples = [dict(frame=i, in_use=(600 + i) * 2**20, state_bytes=2**20) for i in range(101)]
    run = dict(device="cpu", samples=samples, spatial_inputs_bytes=2**21, state_copies=0.5)
    text = tables.memory(dict(machine=MACHINE, runs=[run | dict(beyond_dense_copies=0.75)]))
    assert "| 10 | 610 | 1.0 |" in text and "| 100 | 700 | 1.0 |" in text
    assert "2.0 MiB: the state is 0.50 of it, all memory beyond dense 0.75." in text


def test_profile():
    def entry(conv, copy, ms):
        return dict(ms=ms, kinds_ms=dict(conv=conv, gather=0.0, copy=copy))

    found = {"dense": entry(9.0, 0.0, 10.0), "0.25": entry(2.5, 0.5, 4.0)}
    run = dict(device="cpu", dtype="float32", profile=found)
    text = tables.profile(dict(machine=MACHINE, runs=[run]))
    assert "| ms | dense | 25.0% |" in text and "| conv | 9.0 | 2.5 |" in text
    assert "gather" not in text and "| **frame** | **10.0** | **4.0** |" in text


def test_user_loops():
    row = dict(name="f(x)", size=[480, 640], dense_ms=50.4, ours_ms=16.6, speedup=3.04, rate=0.25)
    row |= dict(policy_ms=20.2, policy_speedup=2.5, policy_rate=0.262, machine=MACHINE)
    row |= dict(frames_replayed=0, parts_replayed=24, settings=dict(clock="cpu"))
    row["versions"] = dict(torchvision="1.2")
    other = dict(row, name="g(x)", frames_replayed=12, parts_replayed=0, versions=dict(lap="3"))
    text = tables.user_loops(dict(rate=0.25, rows=[row, other]))
    assert "| `f(x)` | 640×480 | 50 | 17 | **3.04×** | 26 % | 20 | 2.50× | 24 parts |" in text
    assert "| 2.50× | 12 frames |" in text
    assert text.count("a CPU") == 1 and text.endswith("cpu time; torchvision 1.2, lap 3.*")
    with pytest.raises(tables.OlderResult, match="policy_ms"):
        tables.user_loops(dict(rate=0.25, rows=[dict(name="f(x)")]))


def test_estimates():
    rates = [
        dict(rate=0.5, sparse_ratio=1.04, speedup_ratio=0.95),
        dict(rate=0.125, sparse_ratio=0.7, speedup_ratio=1.25),
    ]
    network = dict(model="m", size=[64, 128], dtype="float32", threads=1, dense_ms=31.4)
    network |= dict(dense_ratio=1.1, rows=rates)
    network |= dict(machine=MACHINE, settings=dict(clock="cpu"))
    text = tables.estimates(dict(networks=[network, dict(network, threads=2, dense_ratio=0.6)]))
    assert "| network | frame | dtype | threads | dense ms | dense | 50 % | 12.5 % |" in text
    assert "| m | 64×128 | float32 | 1 | 31 | 1.10 | 1.04 (0.95) | 0.70 (1.25) |" in text
    assert "dense times 0.60 to 1.10, 1 of 2 within 20 %" in text
    assert "sparse times 0.70 to 1.04, 2 of 4 within 20 %" in text
    assert "speed-ups 0.95 to 1.25, 2 of 4 within 20 %" in text
    assert text.count("a CPU") == 2 and text.endswith(", cpu time.*")


def test_only_what_is_between_markers_changes(tmp_path, monkeypatch, capsys):
    document = tmp_path / "doc.md"
    document.write_text(
        "a\n<!-- peers -->\nold\n<!-- /peers -->\nb\n<!-- ops -->\nx\n<!-- /ops -->\n"
    )
    (tmp_path / "efficiency.json").write_text(json.dumps(efficiency_report()))
    command = ["tables", "--results", str(tmp_path), "--documents", str(document)]
    monkeypatch.setattr(sys, "argv", command)
    tables.main()
    text = document.read_text()
    assert text.startswith("a\n<!-- peers -->\n| dtype |") and "old" not in text
    assert text.endswith("<!-- /peers -->\nb\n<!-- ops -->\nx\n<!-- /ops -->\n")
    before = text
    (tmp_path / "efficiency.json").write_text(json.dumps({"rows": [{"rate": 1}], "peers": []}))
    tables.main()
    assert document.read_text() == before
    assert "stays as it is" in capsys.readouterr().err


@pytest.mark.parametrize("document", ["README.md", "docs/results.md", "docs/zoo.md"])
def test_markers_of_the_documents_are_known(document):
    import re

    opened = re.findall(r"<!-- (\w+) -->", (ROOT / document).read_text())
    assert opened and set(opened) <= {name for name, _, _ in tables.TABLES}


def test_block_sizes_stand_side_by_side():
    def result(size, grid, *runs):
        found = [
            dict(
                config=dict(type="GainPolicy", target=target),
                grid=grid,
                windows={"all": dict(executed_rate=rate, fidelity_AP50=value)},
            )
            for target, rate, value in runs
        ]
        return dict(clip="clip", block_size=size, figures=["fidelity_AP50"], runs=found)

    report = dict(
        machine=MACHINE,
        results=[
            result(128, [2, 3], (0.1, 0.12, 0.61), (0.3, 0.31, 0.7)),
            result(64, [4, 6], (0.1, 0.104, 0.75)),
        ],
    )
    lines = tables.block_sizes(report).splitlines()
    assert "| clip (blocks of a frame) | target | 64 px | 128 px |" in lines
    assert "| clip (24/6) | 10% | 0.750 (10.4%) | 0.610 (12.0%) |" in lines
    assert "| clip (24/6) | 30% |  | 0.700 (31.0%) |" in lines


def test_time_budget():
    def part(ms):
        return dict(ms=ms, executed_rate=0.5)

    parts = dict(
        zip(("first third", "with others", "last third"), map(part, (9, 12, 10)), strict=True)
    )
    parts["last two thirds"] = part(11.0)
    report = dict(machine=MACHINE, dense_ms=20.4, rows=[dict(target_ms=10, parts=parts)])
    text = tables.time_budget(report)
    assert "| 10 | 9 (50%) | 12 (50%) | 10 (50%) | 11 (50%) | **+10.0%** |" in text
    assert "A dense frame takes 20 ms." in text


def test_fidelity_budget():
    told = dict(mean=0.96, low=0.95, high=0.97)
    row = dict(model="net", clip="street", target=0.95, agreement=0.9612, told=told)
    row |= dict(comparisons=5, executed_rate=0.523, compared_rate=0.011)
    text = tables.fidelity_budget(dict(machine=MACHINE, rows=[row]))
    wanted = "| net | street | 0.95 | **0.961** | 0.960 (0.950 to 0.970) | 5 | 52.3% | 1.1% |"
    assert wanted in text
