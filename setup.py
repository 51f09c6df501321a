"""Build of the compiled kernels, ``blockcopy_plugins._C``; metadata is in ``pyproject.toml``.

What can be built here is built: the CPU kernels where there is PyTorch and a C++ compiler, the CUDA
kernels too where PyTorch was made for CUDA and a matching ``nvcc`` is there. Otherwise the wheel is
pure Python and the operators run as their PyTorch twins.

Environment variables (1 = on):
    BLOCKCOPY_NO_EXT: build no extension.
    BLOCKCOPY_REQUIRE_EXT: fail instead of going on without the extension.
    BLOCKCOPY_NATIVE: compile for this machine's processor only (``-march=native``).
    FORCE_CUDA: build the CUDA kernels, and fail if that cannot work. No GPU is needed; choose the
        architectures with TORCH_CUDA_ARCH_LIST.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

from setuptools import setup
from setuptools.errors import CompileError, LinkError

# Relative to this file's folder, which setuptools requires of source paths.
SOURCES = Path("cuda_ops")
EXTENSION = "blockcopy_plugins._C"


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


def has_compiler() -> bool:
    """Whether a C++ compiler is there."""
    candidates = [os.environ.get("CXX", "").split(" ")[0]]
    candidates += ["cl"] if sys.platform == "win32" else ["c++", "g++", "clang++"]
    return any(name and shutil.which(name) for name in candidates)


def nvcc_major(cuda_home: str | None) -> int | None:
    """Major version of the CUDA compiler in ``cuda_home``, None where there is none."""
    nvcc = shutil.which("nvcc", path=os.path.join(cuda_home, "bin")) if cuda_home else None
    if nvcc is None:
        return None
    output = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"release (\d+)\.", output)
    return int(match.group(1)) if match else None


def wants_cuda(torch_cuda: str | None, cuda_home: str | None) -> bool:
    """Whether to build the CUDA kernels.

    Args:
        torch_cuda: CUDA version PyTorch was made for, None for a CPU build.
        cuda_home: Folder of the CUDA toolkit that was found, or None.

    Raises:
        SystemExit: If FORCE_CUDA is set and it cannot work.
    """
    found = nvcc_major(cuda_home)
    if torch_cuda is None:
        problem = "this PyTorch was made without CUDA; install a CUDA build of PyTorch"
    elif found is None:
        problem = f"no nvcc was found; install the CUDA {torch_cuda} toolkit or set CUDA_HOME"
    elif found != int(torch_cuda.split(".")[0]):
        problem = f"nvcc is of CUDA {found}, but PyTorch was made for {torch_cuda}; set CUDA_HOME"
    else:
        return True
    if flag("FORCE_CUDA"):
        raise SystemExit(f"error: FORCE_CUDA is set, but {problem}")
    if torch_cuda is not None:
        warnings.warn(f"the CUDA kernels are not built: {problem}", stacklevel=2)
    return False


def extension_options() -> dict:
    """The arguments of ``setup`` that concern the extension."""
    if flag("BLOCKCOPY_NO_EXT"):
        return skip_extension("BLOCKCOPY_NO_EXT is set")
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        return skip_extension(f"PyTorch cannot be imported ({error})")
    if not has_compiler():
        return skip_extension("no C++ compiler was found (set CXX)")

    class BuildExtension(cpp_extension.BuildExtension):
        """Goes on without the extension when the compiler fails, unless it is required."""

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            # PyTorch's ninja driver raises RuntimeError, setuptools' compilers the other two.
            except (RuntimeError, CompileError, LinkError) as error:
                skip_extension(f"compiling failed ({error})")
                self.extensions = []

    windows = sys.platform == "win32"
    host_flags = ["/O2"] if windows else ["-O3", "-g0", "-fvisibility=hidden"]
    if flag("BLOCKCOPY_NATIVE") and not windows:
        host_flags.append("-march=native")
    if torch.backends.openmp.is_available() and not windows:
        # at::parallel_for is a header template that runs serially unless compiled with OpenMP.
        host_flags.append("-fopenmp")
    sources = [SOURCES / "register.cpp", SOURCES / "checks.cpp"]
    sources += sorted(SOURCES.glob("cpu/**/*.cpp"))
    flags = {"cxx": host_flags}
    kind = cpp_extension.CppExtension
    if wants_cuda(torch.version.cuda, cpp_extension.CUDA_HOME):
        kind = cpp_extension.CUDAExtension
        sources += sorted(SOURCES.glob("cuda/*.cpp")) + sorted(SOURCES.glob("cuda/*.cu"))
        flags["nvcc"] = ["-O3"]
    extension = kind(
        EXTENSION,
        [source.as_posix() for source in sources],
        include_dirs=[str(Path(__file__).resolve().parent / SOURCES / "include")],
        depends=[p.as_posix() for kind in ("*.h", "*.inc") for p in sorted(SOURCES.rglob(kind))],
        extra_compile_args=flags,
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildExtension}}


setup(**extension_options())
