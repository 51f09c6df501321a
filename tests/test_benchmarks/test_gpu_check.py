"""The GPU check: each section finds what is wrong, and none takes the others with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.gpu import (
    build,
    dense_engines,
    host_emulation,
    laws,
    parity,
    profile,
    reckoning,
    runner,
    speed,
    tables,
)
from benchmarks.gpu.section import OutOfTime, Section
from benchmarks.gpu.sections import SECTIONS
from blockcopy_plugins import ops
from blockcopy_plugins.policy import Policy

ROOT = Path(__file__).resolve().parents[2]
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler"
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8))
        self.body = nn.Conv2d(8, 8, 3, 1, 1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = F.relu(self.stem(x))
        return {"logits": self.head(F.relu(x + self.body(x)))}


def build_net(name, width):
    torch.manual_seed(0)
    net = Net().eval()
    nn.init.uniform_(net.stem[1].running_mean, -0.5, 0.5)
    nn.init.uniform_(net.stem[1].running_var, 0.5, 2.0)
    return net


@pytest.fixture()
def one_small_network(monkeypatch):
    for module in (laws, speed, profile):
        monkeypatch.setattr(module.networks, "NETWORKS", {"a": None})
        monkeypatch.setattr(module.networks, "build", build_net)
    monkeypatch.setattr(profile, "NETWORKS", ("a", "a"))
    monkeypatch.setattr(speed, "settings", lambda small: [speed.Setting("a", "float32", 2)])


def section(name="laws", **options):
    return Section(name, "cpu", **options)


# -- sections -------------------------------------------------------------------------------------


@needs_compiler
def test_parity_holds_for_the_kernels_on_the_host():
    found = section("parity", quick=True)
    parity.run(found)
    copied = [row["dtype"] for row in found.rows if "kernels" not in row]
    reckoned = [row["dtype"] for row in found.rows if row.get("kernels") == "reckoning"]
    assert not found.failures and copied == ["float32", "float16", "bfloat16"]
    assert reckoned == ["float32", "float16", "bfloat16", "float64"]


@pytest.mark.parametrize("kernel", parity.KERNELS)
def test_parity_finds_one_wrong_bit(kernel):
    class Wrong(parity.OnDevice):
        pass

    def wrong(self, *args):
        found = getattr(parity.OnDevice, kernel)(self, *args)
        if found.numel() > 100:
            first = found.view(torch.int32 if found.element_size() == 4 else torch.int16)
            first[-1, -1, -1, -1] ^= 1
        return found

    setattr(Wrong, kernel, wrong)
    found = section("parity", quick=True)
    parity.compare(found, lambda offset: Wrong("cpu", offset))
    assert found.failures and all(f"blockcopy::{kernel}," in text for text in found.failures)


@pytest.mark.parametrize("kernel", reckoning.RECKONING)
def test_parity_finds_a_result_that_is_off(kernel):
    """By a thousandth in one value; each kernel alone is named."""

    class Wrong(reckoning.ReckoningOnDevice):
        pass

    def wrong(self, *args):
        found = getattr(reckoning.ReckoningOnDevice, kernel)(self, *args)
        if kernel == "all_finite":
            return True
        found[-1] *= 1.03 if found.dtype == torch.bfloat16 else 1.004
        return found

    setattr(Wrong, kernel, wrong)
    found = section("parity", quick=True)
    parity.compare_reckoning(found, Wrong("cpu"))
    assert found.failures and all(f"blockcopy::{kernel}," in text for text in found.failures)


def test_a_kernel_without_a_case_is_told(monkeypatch):
    monkeypatch.setattr(parity, "_cuda_kernels", lambda: ["gather", "new_kernel"])
    monkeypatch.setattr(parity.ops, "extension_status", lambda: "loaded, with CPU and CUDA kernels")
    found = Section("parity", "cuda", quick=True)
    monkeypatch.setattr(parity, "compare", lambda *args: None)
    monkeypatch.setattr(parity, "compare_reckoning", lambda *args: None)
    parity.run(found)
    assert found.failures == ["blockcopy::new_kernel has a CUDA kernel and no case here"]


def test_laws_hold_on_a_network(one_small_network):
    found = section()
    laws.run(found)
    assert not found.failures and len(found.rows) == 3
    assert found.rows[0]["graphs"] and found.rows[0]["replayed"] > 0


def test_laws_find_a_lost_halo(one_small_network, monkeypatch):
    """Blocks that see nothing of their neighbours: all is right but where grids are partial."""
    plain = ops.gather

    def without_halo(state, blocks, rows, cols, fill=0.0, out=None):
        found = plain(state, blocks, rows, cols, fill, out=out)
        if rows.size(1) == cols.size(1) == 34:  # of the 3x3 convolution at stride 2
            found[:, :, [0, -1]] = 0
        return found

    import blockcopy_plugins.engine.frame.packing as packing

    monkeypatch.setattr(packing.ops, "gather", without_halo)
    # The package's own convolutions do not gather.
    convert = laws.bc.BlockCopyConfig

    def torch_convolutions(**options):
        return convert(**options, fuse=False)

    monkeypatch.setattr(laws.bc, "BlockCopyConfig", torch_convolutions)
    from blockcopy_plugins.engine.conv import cpu_convolutions as engine

    monkeypatch.setattr(engine.CpuConvolutions, "make", staticmethod(lambda *args: None))
    found = section()
    laws.run(found)
    assert any("law_3" in text for text in found.failures), found.failures


def test_laws_find_a_fault_that_is_not_refused(one_small_network, monkeypatch):
    from blockcopy_plugins.engine import session

    monkeypatch.setattr(session, "check_finite", lambda *args, **options: None)
    found = section()
    laws.run(found)
    assert any("NaN was not refused" in text for text in found.failures), found.failures


def test_speed_figures_follow_from_the_times(one_small_network):
    found = section("speed")
    speed.run(found)
    assert not found.failures
    # 3 x 4 blocks: an eighth of them is 1.5, of which two are executed.
    assert {(row["policy"], row["rate"]) for row in found.rows} == {
        (policy, rate) for policy in speed.POLICIES for rate in (1.0, 0.5, 0.25, 2 / 12)
    }
    for row in found.rows:
        assert row["E"] == pytest.approx(row["dense_ms"]["torch"] / row["sparse_ms"] * row["rate"])
        assert sorted(row["times"])[1] == row["sparse_ms"]  # the median of three


def test_speed_refuses_wrong_outputs(one_small_network, monkeypatch):
    monkeypatch.setattr(speed, "deviation", lambda *args: 1.0)
    found = section("speed")
    speed.run(found)
    assert not found.rows and "deviates from dense" in found.failures[0]


def test_folded_batch_norms_give_the_same():
    net, frame = build_net("a", 1.0), torch.randn(1, 3, 20, 30)
    with torch.no_grad():
        wanted = net(frame)["logits"]
        folded = dense_engines.fold_batch_norms_(net)
        torch.testing.assert_close(folded(frame)["logits"], wanted)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert not any(module.training for module in folded.modules())


class Reads(Policy):
    """Looks at the picture twice in a frame."""

    def select(self, frame, context):
        bright = frame.mean().item() + frame.amax().item() > -99
        return torch.full(context.grid_shape, bright)


def test_profile_counts_waits(one_small_network, monkeypatch):
    found = section("profile")
    profile.run(found)
    kinds = [row["kind"] for row in found.rows]
    assert {"kernels", "memory", "waits", "bandwidth"} == set(kinds)
    assert kinds.count("waits") == len(profile.POLICIES)
    assert not found.failures
    monkeypatch.setattr(profile, "build_policy", lambda config: Reads())
    found = section("profile")
    profile._waits(found, dict(type="Reads"))
    assert "Reads: a frame waits 3 times" in found.failures[0]


def test_a_section_stops_where_its_time_is_over(one_small_network):
    found = section(deadline=0.0)
    with pytest.raises(OutOfTime):
        laws.run(found)


# -- sections in processes of their own -----------------------------------------------------------

FAKES = {
    "build": "def run(section): section.add('fine', figure=1)",
    "parity": "def run(section): section.add('half', figure=2); raise ValueError('broken')",
    "laws": "import os, signal\ndef run(section):\n    section.add('half', figure=3)\n"
    "    os.kill(os.getpid(), signal.SIGSEGV)",
    "speed": "import time\ndef run(section):\n    section.add('one', figure=4)\n"
    "    section.need(1e9)",
    "profile": "def run(section): section.skip('no tool')",
    "sanitizer": "import time\ndef run(section): section.add('one', figure=5); time.sleep(600)",
}


@pytest.fixture()
def fakes(tmp_path, monkeypatch):
    """A checkout whose sections do what ``FAKES`` say."""
    folder = tmp_path / "benchmarks" / "gpu"
    folder.mkdir(parents=True)
    for name in ("__init__", "__main__", "section", "sections"):
        shutil.copy(ROOT / "benchmarks" / "gpu" / f"{name}.py", folder)
    shutil.copy(ROOT / "benchmarks" / "__init__.py", folder.parent)
    for name, text in FAKES.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(runner, "_ROOT", tmp_path)
    monkeypatch.setattr(runner, "_GRACE", 1)


def test_sections_stand_alone(fakes):
    results, written = {"sections": {}}, []
    names = [name for name in SECTIONS if name != "sanitizer"]

    def write():
        written.append(list(results["sections"]))

    status = runner.run_sections(names, "cpu", 10, results, write)
    found = results["sections"]
    assert {name: found[name]["status"] for name in names} == {
        "build": "passed",
        "parity": "failed",
        "laws": "failed",
        "speed": "passed",
        "profile": "skipped",
    }
    assert status == 2 + 4
    assert found["parity"]["failures"] == ["ValueError: broken"]
    assert found["parity"]["rows"] == [{"figure": 2}], "what was found before stands"
    assert "ended with -11" in found["laws"]["failures"][0]
    assert found["laws"]["rows"] == [{"figure": 3}]
    assert found["speed"]["cut_short"] and found["speed"]["rows"] == [{"figure": 4}]
    assert written == [names[: i + 1] for i in range(5)], "at once, section by section"
    text = runner.summary(results)
    assert "parity     failed" in text and "- ValueError: broken" in text
    assert "profile    skipped" in text and "no tool" in text


def test_a_section_that_hangs_is_ended(fakes, monkeypatch):
    plan = SECTIONS["sanitizer"]
    monkeypatch.setattr(
        runner, "SECTIONS", {**SECTIONS, "sanitizer": type(plan)(plan.what, needs=3, leaves=0)}
    )
    results = {"sections": {}}
    status = runner.run_sections(["sanitizer"], "cpu", 4 / 60, results, lambda: None)
    found = results["sections"]["sanitizer"]
    assert status == 32 and "did not end" in found["failures"][0]
    assert found["rows"] == [{"figure": 5}]


def test_a_section_without_time_is_skipped(fakes):
    results = {"sections": {}}
    status = runner.run_sections(["build", "profile"], "cpu", 1 / 60, results, lambda: None)
    assert status == 0 and {f["status"] for f in results["sections"].values()} == {"skipped"}


# -- the command ----------------------------------------------------------------------------------


def gpu_check(*arguments, timeout=300):
    command = [sys.executable, str(ROOT / "tools" / "gpu_check.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def test_the_command_on_a_machine_without_a_gpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    file = tmp_path / "found.json"
    result = gpu_check("--sections", "parity", "--minutes", "0.1", "--json", str(file))
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(file.read_text())
    assert found["device"] == "cpu" and found["machine"]["gpu"] is None
    assert found["sections"]["parity"]["status"] == "skipped", "6 s are too few for it"
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
    result = gpu_check("--device", "cuda")
    assert result.returncode == 255 and "finds no GPU" in result.stderr


def test_sections_of_the_same_sources_and_card_stay_in_the_file(tmp_path):
    file = tmp_path / "found.json"
    machine = {"gpu": {"name": "A card"}, "torch": "2.11.0"}
    of_now = {"machine": machine, "sources": runner.fingerprint()}
    file.write_text(json.dumps({**of_now, "sections": {"laws": {"status": "passed"}}}))
    assert runner.earlier_sections(file, of_now) == {"laws": {"status": "passed"}}
    for other in (
        {**of_now, "sources": "others"},
        {**of_now, "machine": {**machine, "torch": "2.13.0"}},
        {**of_now, "machine": {**machine, "gpu": {"name": "Another"}}},
    ):
        assert runner.earlier_sections(file, other) == {}
    file.write_text("{")
    assert runner.earlier_sections(file, of_now) == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sections", "party"), "'party' holds no known section; expected some of build,parity"),
        (("--sections", ","), "holds no known section"),
        (("--minutes", "0"), "expected a number above 0"),
    ],
)
def test_bad_arguments(arguments, words):
    result = gpu_check(*arguments)
    assert result.returncode == 2 and words in result.stderr


@pytest.mark.slow
@needs_compiler
def test_all_sections_on_a_machine_without_a_gpu(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    file = tmp_path / "found.json"
    sections = ",".join(name for name in SECTIONS if name != "build")
    result = gpu_check("--sections", sections, "--json", str(file), timeout=900)
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads(file.read_text())["sections"]
    assert {section["status"] for section in found.values()} == {"passed"}
    assert len(found["parity"]["rows"]) == 7


@pytest.mark.weekly
@needs_compiler
def test_the_build_section_builds(tmp_path):
    """Into a copy of the checkout: the extension at work stays."""
    copy = tmp_path / "checkout"
    skip = shutil.ignore_patterns(".git", ".venv", "build", "*.so", "__pycache__", "tests", "docs")
    shutil.copytree(ROOT, copy, ignore=skip)
    assert build.build(copy, with_cuda=False) is None
    assert list((copy / "blockcopy_plugins").glob("_C*.so"))
    source = copy / "cuda_ops" / "register.cpp"
    source.write_text(source.read_text() + "\nthis is no C++;\n")
    error = build.build(copy, with_cuda=False)
    assert error.startswith("the extension: compiling failed: cuda_ops/register.cpp"), error
    assert list((copy / "blockcopy_plugins").glob("_C*.so")), "what worked before still does"


# -- tables ---------------------------------------------------------------------------------------


def report(device="cuda"):
    speed_row = dict(network="n", dtype="float16", images=8, policy=None, rate=0.25, E=0.91)
    speed_row |= dict(E_fastest=0.83, fastest="CUDA graph", dense_ms={"torch": 9, "CUDA graph": 8})
    gpu = dict(name="A Card", cuda="13.0", cudnn=91000, memory_gib=80)
    return dict(
        device=device,
        time="2030-01-01T00:00:00+00:00",
        machine=dict(gpu=gpu, torch="2.11.0", cores=16, commit="abc"),
        sections=dict(
            build=dict(status="failed", seconds=31.0, failures=["gather.cu(9): error: a | b"]),
            speed=dict(status="passed", cut_short=True, seconds=99.0, rows=[speed_row]),
            profile=dict(
                status="passed",
                seconds=9.0,
                rows=[dict(kind="waits", policy="RLPolicy", most=1, where={}, frames=9)],
            ),
            sanitizer=dict(status="skipped", reason="it is not installed"),
        ),
    )


def test_tables_of_a_card():
    text = tables.gpu_tables([report()])
    assert text.startswith("### A Card")
    assert "| build | failed: gather.cu(9): error: a / b | 31 |" in text
    assert "| speed | passed, cut short | 99 |" in text
    row = "| n | float16 | 8 | none | 9.00 | CUDA graph 8.00 |  |  | **0.91** (0.83) |  |"
    assert row in text
    assert "| RLPolicy | 1 |" in text
    assert "| sanitizer | skipped: it is not installed | 0 |" in text


def test_no_table_without_a_card():
    assert tables.gpu_tables([]) == "**No GPU has run this so far.**"
    assert tables.gpu_tables([report("cpu")]) == "**No GPU has run this so far.**"


def test_the_host_emulation_says_why_it_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(host_emulation.shutil, "which", lambda name: None)
    with pytest.raises(host_emulation.EmulationUnavailable, match="install g"):
        host_emulation.HostEmulation(tmp_path)
