"""What setup.py does about the CUDA kernels, and what a user is told of it; no GPU is needed."""

from __future__ import annotations

import importlib.machinery
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from blockcopy_plugins import info
from blockcopy_plugins.ops import extension_status, has_extension, library

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the fake nvcc is a shell script")
NEWEST = "sm_75 sm_80 sm_86 sm_87 sm_88 sm_89 sm_90 sm_100 sm_103 sm_120"
OLDER = "sm_50 sm_52 sm_75 sm_80 sm_86 sm_87 sm_89 sm_90 sm_90a"
# What nvcc 13.0 says of a missing semicolon, behind a warning whose excerpt has the word in it.
LOG = """In file included from torch/headeronly/macros/Macros.h:5:
Exception.h:12:9: warning: unused variable 'error' [-Wunused-variable]
   12 |   const char* error = "fatal error: nothing";
cuda_ops/cuda/kernel.cu(7): error: expected a ";"
      return
            ^
cuda_ops/cuda/kernel.cu(9): error: a later one
2 errors detected in the compilation of "cuda_ops/cuda/kernel.cu".
"""
FIRST = 'cuda_ops/cuda/kernel.cu(7): error: expected a ";"'


def write_nvcc(home: Path, knows: str = NEWEST, works: bool = True, release: str = "13.0") -> Path:
    """A CUDA compiler that knows what it is, and fails at whatever it is to compile."""
    nvcc = home / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True, exist_ok=True)
    (home / "bin" / "log.txt").write_text(LOG)
    nvcc.write_text(
        "#!/bin/sh\n"
        f'case "$*" in\n'
        f"*--version*) {'' if works else 'exit 1;'} echo 'release {release}, V{release}.88';;\n"
        f"*--list-gpu-code*) printf '%s\\n' {knows};;\n"
        f"*--dryrun*) echo '#$ TOP={home}/bin/..' >&2;;\n"
        f"*) cat '{home}/bin/log.txt' >&2; exit 2;;\n"
        "esac\n"
    )
    nvcc.chmod(0o755)
    return nvcc


@pytest.fixture
def toolkit(tmp_path, monkeypatch):
    """A toolkit of CUDA 13.0 beside a PyTorch that says it was made for it."""
    write_nvcc(tmp_path / "toolkit")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(tmp_path / "toolkit"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return tmp_path / "toolkit"


def code(*numbers: int) -> list[str]:
    real = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in numbers]
    return [*real, f"-gencode=arch=compute_{numbers[-1]},code=compute_{numbers[-1]}"]


@pytest.mark.parametrize(
    ("knows", "expected", "words"),
    [
        (NEWEST, code(75, 80, 86, 89, 90, 100), "7.5;8.0;8.6;8.9;9.0;10.0+PTX;"),
        (OLDER, code(75, 80, 86, 89, 90), "7.5;8.0;8.6;8.9;9.0+PTX;"),
    ],
)
def test_without_a_gpu_the_kernels_are_built_for_all(
    run_setup, toolkit, capsys, knows, expected, words
):
    write_nvcc(toolkit, knows)
    (extension,) = run_setup()[0]["ext_modules"]
    assert {"cuda_ops/cuda/gather.cu", "cuda_ops/register.cpp"} <= set(extension.sources)
    flags = extension.extra_compile_args["nvcc"]
    assert [flag for flag in flags if "arch" in flag] == expected
    # PyTorch looks for cards where no flag names an architecture, and fails where there is none.
    assert cpp_extension._get_cuda_arch_flags(flags) == []
    (line,) = capsys.readouterr().out.splitlines()
    assert words in line and "TORCH_CUDA_ARCH_LIST" in line


@pytest.mark.parametrize("visible", [True, False])
def test_pytorch_is_asked_where_it_knows(run_setup, toolkit, capsys, monkeypatch, visible):
    """Where there is a card, or the user has named architectures."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible)
    if not visible:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6")
    (extension,) = run_setup()[0]["ext_modules"]
    assert extension.extra_compile_args["nvcc"] == ["-O3"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("torch_cuda", "release", "problem"),
    [
        (None, "13.0", "made without CUDA"),
        ("12.4", None, "no working nvcc was found; install the CUDA 12.4 toolkit"),
        ("12.4", "fails", "no working nvcc was found"),
        ("12.4", "no program", "no working nvcc was found"),
        ("12.4", "13.0", "nvcc is of CUDA 13"),
        ("13.2", "13.0", None),
    ],
)
def test_cuda_is_built_only_where_it_fits(
    run_setup, toolkit, monkeypatch, recwarn, torch_cuda, release, problem
):
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    if release is None:
        shutil.rmtree(toolkit)
    elif release == "fails":
        write_nvcc(toolkit, works=False)
    elif release == "no program":
        (toolkit / "bin" / "nvcc").write_bytes(b"\0\1\2\3")
    (extension,) = run_setup()[0]["ext_modules"]
    assert any(source.endswith(".cu") for source in extension.sources) == (problem is None)
    # A CPU build of PyTorch is nobody's mistake.
    warned = [str(w.message) for w in recwarn if "the CUDA kernels are not built" in str(w.message)]
    assert len(warned) == (problem is not None and torch_cuda is not None)
    assert all(problem in message for message in warned)
    if problem is not None:
        monkeypatch.setenv("FORCE_CUDA", "1")
        with pytest.raises(SystemExit, match=f"FORCE_CUDA is set, but .*{problem}"):
            run_setup()


def test_the_toolkit_behind_a_script_is_found(run_setup, tmp_path, monkeypatch):
    (tmp_path / "toolkit" / "include").mkdir(parents=True)
    nvcc = write_nvcc(tmp_path / "toolkit")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "nvcc"
    script.write_text(f'#!/bin/sh\nexec {nvcc} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("BLOCKCOPY_NO_EXT", "1")
    with pytest.warns(UserWarning):
        _, functions = run_setup()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    functions["find_toolkit"]()
    assert "CUDA_HOME" not in os.environ  # it has no headers either
    (tmp_path / "toolkit" / "include" / "cuda_runtime.h").touch()
    functions["find_toolkit"]()
    assert Path(os.environ["CUDA_HOME"]) == (tmp_path / "toolkit").resolve()
    monkeypatch.setenv("CUDA_HOME", "/chosen")
    functions["find_toolkit"]()
    assert os.environ["CUDA_HOME"] == "/chosen"


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (LOG, FIRST),
        ("a.cpp:3:10: fatal error: cuda.h: No such file\nx.cpp:1:1: error: y\n", None),
        ("nvcc fatal   : Unsupported gpu architecture 'compute_200'\n", None),
        ("ptxas error   : Entry function uses too much shared data\n", None),
        ("k.cu(3): error #20: identifier is undefined\n", None),
        ("/usr/bin/ld: cannot find -lcudart: No such file or directory\n", None),
        ("a.o: in function `f': a.cpp:(.text+0x1): undefined reference to `g'\n", None),
        ("a.cpp(3): error C2065: 'x': undeclared identifier\n", None),
        ("-Werror=format [-Wno-error]\nwarning: no errors\n", "RuntimeError: ninja failed"),
    ],
)
def test_the_first_error_of_a_log(run_setup, monkeypatch, log, line):
    monkeypatch.setenv("BLOCKCOPY_NO_EXT", "1")
    with pytest.warns(UserWarning):
        _, functions = run_setup()
    pieces = [log[:30].encode(), log[30:].encode()]
    found = functions["first_error"](pieces, RuntimeError("ninja failed\nand so on"))
    assert found == (line or log.splitlines()[0])


def test_output_of_compilers_is_copied(run_setup, monkeypatch, capfd):
    monkeypatch.setenv("BLOCKCOPY_NO_EXT", "1")
    with pytest.warns(UserWarning):
        _, functions = run_setup()
    talk = "echo from a child; echo its error >&2"
    with functions["copied_output"]() as pieces:
        subprocess.run(talk, shell=True, check=True)
    subprocess.run(talk, shell=True, check=True)
    assert b"".join(pieces) == b"from a child\nits error\n"
    out, err = capfd.readouterr()
    assert out == "from a child\nits error\nfrom a child\n" and err == "its error\n"


# -- a real build ----------------------------------------------------------------------------------

# setup.py as a PyTorch for CUDA would run it. The extension is a module without operators: what is
# built does not matter here, and the real one takes minutes.
BUILD = """
import os, runpy, sys, torch
from torch.utils import cpp_extension
torch.version.cuda, cpp_extension.CUDA_HOME = "13.0", os.environ["CUDA_HOME"]
if sys.argv.pop(1) == "plain":
    cpp_extension.is_ninja_available = lambda: False
runpy.run_path("setup.py", run_name="__main__")
"""
MODULE = """
#include <Python.h>
PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1,
                               nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
"""


@pytest.fixture
def project(tmp_path):
    if not (ROOT / "setup.py").is_file():
        pytest.skip("setup.py is not here: the tests run against an installed package")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    package, sources = tmp_path / "blockcopy_plugins", tmp_path / "cuda_ops"
    for folder in (package, sources / "include", sources / "cpu", sources / "cuda"):
        folder.mkdir(parents=True)
    (package / "__init__.py").touch()
    (sources / "register.cpp").write_text(MODULE)
    (sources / "checks.cpp").write_text("int checks() { return 0; }\n")
    (sources / "cuda" / "kernel.cu").write_text("__global__ void kernel() { return }\n")
    write_nvcc(tmp_path / "toolkit")

    def build(*command, driver="ninja", **environment):
        variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "FORCE_CUDA")}
        variables |= {"CUDA_HOME": str(tmp_path / "toolkit"), "BLOCKCOPY_REQUIRE_EXT": "1"}
        return subprocess.run(
            [sys.executable, "-c", BUILD, driver, *command],
            cwd=tmp_path,
            env=variables | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return tmp_path, build


@pytest.mark.parametrize("driver", ["ninja", "plain"])
def test_cpu_kernels_are_built_where_cuda_fails(project, driver):
    place, build = project
    done = build("build_ext", "--inplace", driver=driver)
    assert done.returncode == 0, done.stderr
    assert FIRST in done.stdout and f"compiling failed: {FIRST}" in done.stderr
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    assert (place / "blockcopy_plugins" / f"_C{suffix}").is_file()
    load = "import torch, blockcopy_plugins._C as c; print(c.__name__)"
    subprocess.run([sys.executable, "-c", load], cwd=place, check=True, timeout=120)
    note = json.loads((place / "blockcopy_plugins" / "_build.json").read_text())
    assert note == {"extension": None, "cuda": f"compiling failed: {FIRST}", "architectures": None}


def test_forced_cuda_fails(project):
    place, build = project
    done = build("build_ext", "--inplace", FORCE_CUDA="1")
    assert done.returncode != 0 and f"compiling failed: {FIRST}" in done.stderr
    assert not list((place / "blockcopy_plugins").glob("_C*"))


def test_a_wheel_tells_why_nothing_was_compiled(project):
    place, build = project
    (place / "cuda_ops" / "checks.cpp").write_text("int checks() { return }\n")
    assert build("bdist_wheel").returncode != 0
    done = build("bdist_wheel", BLOCKCOPY_REQUIRE_EXT="0")
    assert done.returncode == 0, done.stderr
    (wheel,) = (place / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        note = json.loads(archive.read("blockcopy_plugins/_build.json"))
        assert not any("/_C." in name for name in archive.namelist())
    assert note["extension"].startswith("compiling failed: cuda_ops/checks.cpp:1:")


# -- what the user is told -------------------------------------------------------------------------


@pytest.fixture
def note(tmp_path, monkeypatch):
    """Returns a function that writes the note of a build, None for a damaged one."""
    monkeypatch.setattr(library, "__file__", str(tmp_path / "ops" / "library.py"))

    def write(**note):
        (tmp_path / "_build.json").write_text(json.dumps(note) if note else "{")

    return write


@pytest.mark.skipif(not has_extension(), reason="the extension is not built")
def test_info_tells_why_there_is_no_cuda(note):
    built = extension_status()
    note(extension=None, cuda=f"compiling failed: {FIRST}", architectures=None)
    if torch._C._dispatch_has_kernel_for_dispatch_key("blockcopy::gather", "CUDA"):
        assert "CPU and CUDA kernels" in built and FIRST not in extension_status()
        return
    assert built == "loaded, with CPU kernels"
    problem = f"; the CUDA kernels are not built: compiling failed: {FIRST}"
    assert extension_status() == built + problem
    assert info.environment()["native kernels"] == "CPU kernels" + problem
    note()
    assert extension_status() == built


def test_the_reason_is_told_where_there_is_no_extension(note, monkeypatch):
    monkeypatch.delenv(library.DISABLE_VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, library.EXTENSION_MODULE, None)
    note(extension="compiling failed: a.cpp:1:1: error: no", cuda=None, architectures=None)
    assert library._load_extension() == (
        False,
        "not built (compiling failed: a.cpp:1:1: error: no); fix that and run "
        "`pip install -e . --no-build-isolation` to build it",
    )
    note(extension=None, cuda=None, architectures=None)
    assert "install a C++ compiler" in library._load_extension()[1]
