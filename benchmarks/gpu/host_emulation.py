"""The CUDA kernels run on the host: every "thread" of a launch in a loop.

The headers of ``cuda_ops`` hold all of the kernels but the names of the thread registers, so that
vector widths, the dealing of work to threads, what passes through shared memory and the refusal of
bad indices are checked without a GPU. Threads that wait for each other run step by step.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

_ROOT = Path(__file__).resolve().parents[2]
INCLUDE = _ROOT / "cuda_ops" / "include"
SOURCE = Path(__file__).with_suffix(".cpp")

_GUARD = 99.0
# As in values.h.
_VALUE_TYPES = MappingProxyType(
    {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
)


class EmulationUnavailable(Exception):
    """There is no C++ compiler, or it failed; the message says which."""


class HostEmulation:
    """The kernels, compiled for the host.

    Args:
        folder: Where the library is put.
        flags: More of them for the compiler, such as ``-fsanitize=undefined``.

    Raises:
        EmulationUnavailable: If it cannot be compiled.
    """

    def __init__(self, folder: Path, flags: Sequence[str] = ()) -> None:
        names = ("c++", "g++", "clang++")
        compiler = next((path for name in names if (path := shutil.which(name))), None)
        if compiler is None:
            raise EmulationUnavailable("no C++ compiler was found; install g++ or clang++")
        output = folder / "host_emulation.so"
        command = [compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        command += [*flags, f"-I{INCLUDE}", str(SOURCE), "-o", str(output)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise EmulationUnavailable(f"{compiler} failed: {result.stderr.strip()}")
        self._library = ctypes.CDLL(str(output))
        self._library.run_gather.restype = ctypes.c_bool
        self._library.run_scatter.restype = ctypes.c_bool
        self._library.run_scale_shift.restype = ctypes.c_bool
        self._library.run_all_finite.restype = ctypes.c_bool
        self._library.width_of.restype = ctypes.c_int64

    def gather(
        self,
        state: Tensor,
        blocks: Tensor,
        rows: Tensor,
        cols: Tensor,
        fill: float = 0.0,
        launch: tuple[int, int] = (0, 0),
    ) -> Tensor | None:
        """What ``blockcopy::gather`` gives.

        Args:
            state: ``(slots, C, H, W)``, channels last.
            blocks: int32 ``(n, 3)``.
            rows: int32 ``(GH, h)``.
            cols: int32 ``(GW, w)``.
            fill: Value outside the map.
            launch: Thread blocks at most along each axis, each then doing more; 0 for as many as
                on a GPU.

        Returns:
            ``(n, C, h, w)``, or ``None`` if a thread found an index out of range.

        Raises:
            AssertionError: If memory behind the result was written.
        """
        shape = (blocks.size(0), state.size(1), rows.size(1), cols.size(1))
        # A guard zone of one more block finds writes beyond the end.
        memory = torch.full((shape[0] + 1, *shape[1:]), _GUARD).to(state.dtype)
        memory = memory.contiguous(memory_format=torch.channels_last)
        pattern = torch.full((16 // state.element_size(),), fill).to(state.dtype)
        geometry = _sizes(
            state.size(0), *state.shape[2:], blocks.size(0), rows.size(0), cols.size(0),
            rows.size(1), cols.size(1),
        )  # fmt: skip
        valid = self._library.run_gather(
            geometry, _pointer(state), _pointer(blocks), _pointer(rows), _pointer(cols),
            _pointer(pattern), _pixel_bytes(state), _pointer(memory), *map(ctypes.c_uint32, launch),
        )  # fmt: skip
        if not bool((memory[-1].float() == _GUARD).all()):
            raise AssertionError("the gather kernel wrote behind the end of its result")
        return memory[:-1] if valid else None

    def scatter_(
        self, state: Tensor, packed: Tensor, blocks: Tensor, launch: tuple[int, int] = (0, 0)
    ) -> bool:
        """Do what ``blockcopy::scatter_`` does to ``state``; False if an index is out of range."""
        geometry = _sizes(
            state.size(0), *state.shape[2:], packed.size(0), packed.size(2), packed.size(3)
        )
        return self._library.run_scatter(
            geometry, _pointer(state), _pointer(packed), _pointer(blocks), _pixel_bytes(state),
            *map(ctypes.c_uint32, launch),
        )  # fmt: skip

    def reduce_picture(self, frame: Tensor, side: int) -> Tensor:
        """What ``blockcopy::reduce_picture`` gives of a frame that is dense in either layout."""
        images, channels, height, width = frame.shape
        last = frame.is_contiguous(memory_format=torch.channels_last)
        shape = (images, channels, -(-height // side), -(-width // side))
        memory = _guarded(shape, torch.float32)
        lanes = channels if last else 1
        self._library.run_reduce_picture(
            _sizes(images * channels // lanes, height, width, lanes, side), _value_type(frame),
            _pointer(frame), _pointer(memory),
        )  # fmt: skip
        return _unguarded("reduce_picture", memory)

    def block_moments(
        self,
        map: Tensor,
        places: Tensor | None,
        block: Sequence[int],
        blocks: Sequence[int],
        size: Sequence[int],
        groups: int,
    ) -> Tensor:
        """What ``blockcopy::block_moments`` gives of a map in channels-last order."""
        images, channels, height, width = map.shape
        count = images if places is not None else images * blocks[0] * blocks[1]
        memory = _guarded((count, 1 + 2 * groups), torch.float64)
        self._library.run_block_moments(
            _sizes(count, channels, groups, *block, *blocks, *size, width, height * width),
            _value_type(map), _pointer(map), _pointer(places), _pointer(memory),
        )  # fmt: skip
        return _unguarded("block_moments", memory)

    def scale_shift(
        self,
        map: Tensor,
        places: Tensor | None,
        scale: Tensor,
        shift: Tensor,
        launch: tuple[int, int] = (0, 0),
    ) -> Tensor | None:
        """What ``blockcopy::scale_shift`` gives; ``None`` if an image is out of range."""
        count, channels, height, width = map.shape
        memory = _guarded((count, height, width, channels), map.dtype)
        work = torch.promote_types(map.dtype, torch.float32)
        scale, shift = scale.to(work).contiguous(), shift.to(work).contiguous()
        valid = self._library.run_scale_shift(
            _sizes(len(scale), count, height, channels, width), _value_type(map), _pointer(map),
            _pointer(places), _pointer(scale), _pointer(shift), _pointer(memory),
            ctypes.c_uint32(launch[0]), ctypes.c_uint32(launch[1]),
        )  # fmt: skip
        return _unguarded("scale_shift", memory).permute(0, 3, 1, 2) if valid else None

    def block_divergence(
        self,
        previous: Tensor,
        current: Tensor,
        size: Sequence[int],
        grid: Sequence[int],
        block_size: int,
        cells: int,
        clip: float,
    ) -> Tensor:
        """What ``blockcopy::block_divergence`` gives of contiguous maps."""
        memory = _guarded(tuple(grid), torch.float32)
        self._library.run_block_divergence(
            _sizes(len(current), *previous.shape[1:], *current.shape[1:], *grid, block_size, cells,
                   *size),
            ctypes.c_double(clip), _pointer(previous), _pointer(current), _pointer(memory),
        )  # fmt: skip
        return _unguarded("block_divergence", memory)

    def finish_conv_(
        self,
        sums: Tensor,
        bias: Tensor | None,
        norm: Sequence[Tensor | None],
        eps: float,
        residual: Tensor | None,
        low: float,
        high: float,
        strips: int = 5,
    ) -> None:
        """Do what ``blockcopy::finish_conv_`` does; a thread takes each ``strips``-th pixel."""
        vectors = [_pointer(v).value for v in (bias, *(norm or [None] * 4))]
        wide = bool(norm) and norm[2].dtype == torch.float32
        self._library.run_finish(
            _sizes(sums.numel() // sums.size(1), sums.size(1), strips), _value_type(sums),
            ctypes.c_bool(wide), _pointer(sums), _pointer(residual),
            (ctypes.c_void_p * 5)(*vectors), *map(ctypes.c_double, (eps, low, high)),
        )  # fmt: skip

    def all_finite(self, values: Tensor) -> bool:
        """What ``blockcopy::all_finite`` says of dense values."""
        return self._library.run_all_finite(
            _value_type(values), _pointer(values), ctypes.c_int64(values.numel())
        )

    def vector_width(self, pixel_bytes: int, first: int, second: int) -> int:
        """Bytes that a thread moves at once between two addresses, 1 to 16."""
        return self._library.width_of(
            ctypes.c_int64(pixel_bytes), ctypes.c_void_p(first), ctypes.c_void_p(second)
        )


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _value_type(tensor: Tensor) -> ctypes.c_int32:
    return ctypes.c_int32(_VALUE_TYPES[tensor.dtype])


def _guarded(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Memory of a shape, and behind it a guard zone that finds writes beyond the end."""
    return torch.full((shape[0] + 1, *shape[1:]), _GUARD).to(dtype)


def _unguarded(kernel: str, memory: Tensor) -> Tensor:
    if not bool((memory[-1] == _GUARD).all()):
        raise AssertionError(f"the {kernel} kernel wrote behind the end of its result")
    return memory[:-1]


def _sizes(*values: int) -> ctypes.Array:
    return (ctypes.c_int64 * len(values))(*values)


def _pixel_bytes(tensor: Tensor) -> ctypes.c_int64:
    return ctypes.c_int64(tensor.size(1) * tensor.element_size())
