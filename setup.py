"""Build of the compiled kernels, ``blockcopy_plugins._C``; metadata is in ``pyproject.toml``.

What can be built here is built: the CPU kernels where there is PyTorch and a C++ compiler, the CUDA
kernels too where PyTorch was made for CUDA and a matching ``nvcc`` is there. Where the CUDA kernels
do not compile, the CPU kernels are built without them; where those do not, the wheel is pure Python
and the operators run as their PyTorch twins. What is missing and why is written into
``blockcopy_plugins/_build.json``, which ``python -m blockcopy_plugins.info`` shows.

CUDA kernels are built for the GPUs that are visible, without any for all usual ones.

Environment variables (1 = on):
    BLOCKCOPY_NO_EXT: build no extension.
    BLOCKCOPY_REQUIRE_EXT: fail instead of going on without the extension.
    BLOCKCOPY_NATIVE: compile for this machine's processor only (``-march=native``).
    FORCE_CUDA: fail instead of going on without the CUDA kernels.
    TORCH_CUDA_ARCH_LIST: compute capabilities to build for, such as "8.6;9.0+PTX".
    CUDA_HOME: folder of the CUDA toolkit, if it is not that of the nvcc on PATH.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from setuptools import setup
from setuptools.errors import CompileError, LinkError

# Relative to this file's folder, which setuptools requires of source paths.
SOURCES = Path("cuda_ops")
EXTENSION = "blockcopy_plugins._C"
BUILD_NOTE = "_build.json"

# Turing, A100, consumer Ampere, Ada, Hopper, Blackwell. The newest comes as PTX too, which later
# ones compile when it is loaded.
ARCHITECTURES = (75, 80, 86, 89, 90, 100)

# Of gcc, clang and MSVC; of nvcc, cudafe++ and ptxas; of linkers. Not in excerpts of the source.
ERROR = re.compile(
    r"(?!\s*\d* \|).*(\berror\b[^:]*:|\bfatal\b[^:]*:|undefined reference to|cannot find -l)"
)


def flag(name: str) -> bool:
    """Whether an environment variable is switched on."""
    return os.environ.get(name, "").strip().lower() not in ("", "0", "false", "off", "no")


def skip_extension(reason: str) -> dict:
    """Build options of a pure-Python wheel; an error if the extension was required."""
    message = f"{reason}: blockcopy_plugins is built without its compiled kernels"
    if flag("BLOCKCOPY_REQUIRE_EXT"):
        raise SystemExit(f"error: {message}, but BLOCKCOPY_REQUIRE_EXT is set")
    warnings.warn(f"{message} and will use the slower PyTorch twins", stacklevel=2)
    return {}


def skip_cuda(problem: str) -> None:
    """Go on without the CUDA kernels; an error if they were required."""
    if flag("FORCE_CUDA"):
        raise SystemExit(f"error: FORCE_CUDA is set, but the CUDA kernels are not built: {problem}")
    warnings.warn(f"the CUDA kernels are not built: {problem}", stacklevel=2)


def has_compiler() -> bool:
    """Whether a C++ compiler is there."""
    candidates = [os.environ.get("CXX", "").split(" ")[0]]
    candidates += ["cl"] if sys.platform == "win32" else ["c++", "g++", "clang++"]
    return any(name and shutil.which(name) for name in candidates)


# -- the CUDA toolkit ------------------------------------------------------------------------------


def ask_nvcc(nvcc: str | None, *arguments: str) -> str:
    """What an nvcc prints; nothing where there is none or it does not work."""
    if nvcc is None:
        return ""
    try:
        done = subprocess.run([nvcc, *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout + done.stderr if done.returncode == 0 else ""


def nvcc_of(cuda_home: str | None) -> str | None:
    """The CUDA compiler of a toolkit."""
    return shutil.which("nvcc", path=os.path.join(cuda_home, "bin")) if cuda_home else None


def nvcc_major(cuda_home: str | None) -> int | None:
    """Major version of the CUDA compiler in ``cuda_home``, None where none works."""
    match = re.search(r"release (\d+)\.", ask_nvcc(nvcc_of(cuda_home), "--version"))
    return int(match.group(1)) if match else None


def find_toolkit() -> None:
    """Set CUDA_HOME where the nvcc on PATH is a script or a link into the toolkit.

    PyTorch takes the folder above that of nvcc for the toolkit, which then has no headers.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None or os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return
    header = Path("include", "cuda_runtime.h")
    if (Path(nvcc).parent.parent / header).is_file():
        return
    told = re.search(r"TOP=(.+)", ask_nvcc(nvcc, "--dryrun", "-x", "cu", "-c", os.devnull))
    if told and (Path(told.group(1).strip()) / header).is_file():
        os.environ["CUDA_HOME"] = str(Path(told.group(1).strip()).resolve())


def cuda_problem(torch_cuda: str | None, cuda_home: str | None) -> str | None:
    """Why the CUDA kernels cannot be built, None if they can.

    Args:
        torch_cuda: CUDA version PyTorch was made for, None for a CPU build.
        cuda_home: Folder of the CUDA toolkit that was found, or None.
    """
    if torch_cuda is None:
        return "this PyTorch was made without CUDA; install a CUDA build of PyTorch"
    found = nvcc_major(cuda_home)
    if found is None:
        return f"no working nvcc was found; install the CUDA {torch_cuda} toolkit or set CUDA_HOME"
    if found != int(torch_cuda.split(".")[0]):
        return f"nvcc is of CUDA {found}, but PyTorch was made for {torch_cuda}; set CUDA_HOME"
    return None


def architectures(nvcc: str | None) -> list[int]:
    """Those of :data:`ARCHITECTURES` that an nvcc knows, ascending."""
    known = {int(number) for number in re.findall(r"sm_(\d+)\b", ask_nvcc(nvcc, "--list-gpu-code"))}
    return [number for number in ARCHITECTURES if number in known] or list(ARCHITECTURES)


def architecture_flags(numbers: list[int]) -> list[str]:
    """Options of nvcc: code for these architectures, and PTX of the newest."""
    flags = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in numbers]
    return [*flags, f"-gencode=arch=compute_{numbers[-1]},code=compute_{numbers[-1]}"]


# -- the extension ---------------------------------------------------------------------------------


@contextmanager
def copied_output() -> Iterator[list[bytes]]:
    """Gives what this process and the compilers that it starts print meanwhile, once it is over."""
    pieces: list[bytes] = []
    reader, writer = os.pipe()
    stdout, stderr = os.dup(1), os.dup(2)

    def copy_all() -> None:
        with open(reader, "rb", buffering=0) as pipe, open(stdout, "wb") as out:
            while piece := pipe.read(1 << 16):
                pieces.append(piece)
                out.write(piece)
                out.flush()

    thread = Thread(target=copy_all, daemon=True)
    thread.start()
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    os.close(writer)
    try:
        yield pieces
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.close(stderr)
        # A compiler's server that lives on would hold the pipe open.
        thread.join(timeout=10)


def first_error(pieces: list[bytes], error: Exception) -> str:
    """The line of a build's log that tells why it failed."""
    for line in b"".join(pieces).decode(errors="replace").splitlines():
        if ERROR.match(line):
            # What follows are consequences, and the compiler's thousands of warnings.
            return line.strip().replace(f"{Path(__file__).resolve().parent}{os.sep}", "")[:400]
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def extension_options() -> dict:
    """The arguments of ``setup`` that concern the extension."""
    if flag("BLOCKCOPY_NO_EXT"):
        return skip_extension("BLOCKCOPY_NO_EXT is set")
    find_toolkit()
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        return skip_extension(f"PyTorch cannot be imported ({error})")
    if not has_compiler():
        return skip_extension("no C++ compiler was found (set CXX)")

    windows = sys.platform == "win32"
    # Nobody reads floating-point exceptions or errno; without these flags GCC turns no condition on
    # floats into a blend, and loops that have one are not vectorized for AVX2.
    arithmetic = ["-fno-trapping-math", "-fno-math-errno"]
    host_flags = ["/O2"] if windows else ["-O3", "-g0", "-fvisibility=hidden", *arithmetic]
    if flag("BLOCKCOPY_NATIVE") and not windows:
        host_flags.append("-march=native")
    if torch.backends.openmp.is_available() and not windows:
        # at::parallel_for is a header template that runs serially unless compiled with OpenMP.
        host_flags.append("-fopenmp")

    def make(kind, sources: list[Path], **flags: list[str]):
        return kind(
            EXTENSION,
            [source.as_posix() for source in sources],
            include_dirs=[str(Path(__file__).resolve().parent / SOURCES / "include")],
            depends=[p.as_posix() for end in ("*.h", "*.inc") for p in sorted(SOURCES.rglob(end))],
            extra_compile_args={"cxx": list(host_flags), **flags},
        )

    sources = sorted(SOURCES.glob("*.cpp")) + sorted(SOURCES.glob("cpu/**/*.cpp"))
    extension = for_cpu = make(cpp_extension.CppExtension, sources)
    note: dict[str, str | None] = {"extension": None, "cuda": None, "architectures": None}
    problem = cuda_problem(torch.version.cuda, cpp_extension.CUDA_HOME)
    if problem is None:
        nvcc_flags = ["-O3"]
        wanted = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
        if wanted in ("", "native") and not torch.cuda.is_available():
            numbers = architectures(nvcc_of(cpp_extension.CUDA_HOME))
            nvcc_flags += architecture_flags(numbers)
            wanted = ";".join(f"{n // 10}.{n % 10}" for n in numbers) + "+PTX"
            print(
                f"no GPU is visible: the CUDA kernels are built for compute capabilities {wanted}; "
                "TORCH_CUDA_ARCH_LIST chooses others"
            )
        note["architectures"] = wanted or "those of the GPUs that were visible"
        sources += sorted(SOURCES.glob("cuda/*.cpp")) + sorted(SOURCES.glob("cuda/*.cu"))
        extension = make(cpp_extension.CUDAExtension, sources, nvcc=nvcc_flags)
    elif flag("FORCE_CUDA") or torch.version.cuda is not None:
        skip_cuda(problem)
        note["cuda"] = problem

    class BuildExtension(cpp_extension.BuildExtension):
        """Goes on without what the compiler fails at, unless it is required, and notes why."""

        def run(self) -> None:
            super().run()
            # Now that is the source folder where the extension is built in place.
            place = Path(self.get_ext_fullpath(EXTENSION)).with_name(BUILD_NOTE)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(note, indent=1) + "\n")

        def build_extensions(self) -> None:
            compiler = self.compiler
            if extension is not for_cpu:
                # PyTorch changes the compiler object.
                self.compiler = copy.copy(compiler)
                try:
                    with copied_output() as log:
                        super().build_extensions()
                    return
                # Whatever it is, the CPU kernels do not depend on it.
                except Exception as error:
                    failure = f"compiling failed: {first_error(log, error)}"
                skip_cuda(failure)
                note["cuda"], note["architectures"] = failure, None
                public = {k: v for k, v in vars(for_cpu).items() if not k.startswith("_")}
                vars(extension).update(public)
                self.compiler = compiler
            try:
                with copied_output() as log:
                    super().build_extensions()
            # PyTorch's ninja driver raises RuntimeError, setuptools' compilers the other two.
            except (RuntimeError, CompileError, LinkError) as error:
                note["extension"] = f"compiling failed: {first_error(log, error)}"
                skip_extension(note["extension"])
                self.extensions = []

    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildExtension}}


setup(**extension_options())
