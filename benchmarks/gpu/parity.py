"""Section ``parity``: each CUDA kernel against its pure-PyTorch twin on the CPU.

Kernels that copy are compared bit for bit, those that reckon within rounding (:mod:`.reckoning`).
Without a GPU the kernels run on the host, thread by thread.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from blockcopy_plugins import ops
from blockcopy_plugins.ops import gather_reference, scatter_

from . import reckoning
from .host_emulation import EmulationUnavailable, HostEmulation
from .section import Section

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CHANNELS = (1, 2, 3, 6, 8, 16, 64, 300)  # pixels of 2 to 1200 bytes: each width of a vector
SIZES = ((1, 1), (7, 5), (33, 41))
STREAMS = (1, 3)
OFFSETS = (0, 1, 4)  # elements by which a map's address is off
LARGE = (2, 64, 256, 512)  # map of a network at stride 4, two streams


class Case(NamedTuple):
    """A map, blocks of it and the tables of a window."""

    state: Tensor  # (slots, C, H, W), channels last
    blocks: Tensor  # int32 (n, 3): slot, row, column
    rows: Tensor  # int32 (GH, h)
    cols: Tensor  # int32 (GW, w)


class OnDevice:
    """The native kernels, as the engine calls them; results come back to the CPU."""

    def __init__(self, device: str, offset: int = 0) -> None:
        self.device = device
        self.offset = offset

    def gather(self, case: Case, fill: float) -> Tensor:
        """A new tensor of the blocks and their halo."""
        found = ops.gather(_shifted(case.state, self.device, self.offset), *self._there(case), fill)
        return found.cpu()

    def gather_out(self, case: Case, fill: float) -> Tensor:
        """The same into memory that is there."""
        state = _shifted(case.state, self.device, self.offset)
        shape = (len(case.blocks), state.size(1), case.rows.size(1), case.cols.size(1))
        out = torch.full(shape, 99.0).to(state.dtype).contiguous(memory_format=torch.channels_last)
        out = out.to(self.device)
        ops.gather(state, *self._there(case), fill, out=out)
        return out.cpu()

    def scatter_(self, state: Tensor, packed: Tensor, blocks: Tensor) -> Tensor:
        """The map after blocks were written to it."""
        state = _shifted(state, self.device, self.offset)
        ops.scatter_(state, packed.to(self.device), blocks.to(self.device))
        return state.cpu()

    def _there(self, case: Case) -> tuple[Tensor, ...]:
        return tuple(part.to(self.device) for part in case[1:])


class OnHost:
    """The kernels' threads, one after the other."""

    def __init__(self, emulation: HostEmulation, offset: int = 0) -> None:
        self.emulation = emulation
        self.offset = offset

    def gather(self, case: Case, fill: float) -> Tensor:
        """See :class:`OnDevice`."""
        state = _shifted(case.state, "cpu", self.offset)
        found = self.emulation.gather(state, *case[1:], fill)
        return torch.empty(0) if found is None else found

    gather_out = gather

    def scatter_(self, state: Tensor, packed: Tensor, blocks: Tensor) -> Tensor:
        """See :class:`OnDevice`."""
        state = _shifted(state, "cpu", self.offset)
        return state if self.emulation.scatter_(state, packed, blocks) else torch.empty(0)


def run(section: Section) -> None:
    """Compare all kernels in all cases."""
    if section.small:
        with tempfile.TemporaryDirectory() as folder:
            try:
                emulation = HostEmulation(Path(folder), section.emulation_flags)
            except EmulationUnavailable as error:
                section.skip(f"the kernels cannot run on the host: {error}")
                return
            compare(section, lambda offset: OnHost(emulation, offset))
            compare_reckoning(section, reckoning.ReckoningOnHost(emulation))
        return
    status = ops.extension_status()
    if not section.check("CPU and CUDA" in status, f"there are no CUDA kernels: {status}"):
        return
    for name in _cuda_kernels():
        known = name in (*KERNELS, *reckoning.RECKONING)
        section.check(known, f"blockcopy::{name} has a CUDA kernel and no case here")
    compare(section, lambda offset: OnDevice(section.device, offset))
    compare_reckoning(section, reckoning.ReckoningOnDevice(section.device))
    if not section.quick:
        section.check(_side_stream(section), "a kernel did not run on the current stream")


def compare(section: Section, kernels: Callable[[int], OnDevice | OnHost]) -> None:
    """Run all cases.

    Args:
        section: Is told.
        kernels: Gives the kernels to test, for maps whose address is off by so many elements.
    """
    generator = torch.Generator().manual_seed(0)
    # A quick check takes the one size that neither vectors nor blocks divide.
    sizes = SIZES[1:2] if section.quick else SIZES
    for dtype in DTYPES:
        wrong: dict[str, list[str]] = {name: [] for name in KERNELS}
        count = 0
        for size, channels, streams in itertools.product(sizes, CHANNELS, STREAMS):
            case = _draw(generator, (streams, channels, *size), dtype)
            for offset in OFFSETS:
                what = f"{streams} x {channels} x {size[0]} x {size[1]}, address + {offset}"
                for name in _differing(kernels(offset), case, generator):
                    wrong[name].append(what)
                count += 1
        if not (section.small or section.quick):
            for name in _differing(kernels(0), _large(dtype), generator):
                wrong[name].append("of a network's size")
            count += 1
        name = str(dtype).removeprefix("torch.")
        bad = {kernel: cases for kernel, cases in wrong.items() if cases}
        section.add(
            f"{name}: {count} cases of {', '.join(KERNELS)}, {'equal' if not bad else 'DIFFER'}",
            dtype=name, cases=count, differing={k: len(v) for k, v in bad.items()},
        )  # fmt: skip
        for kernel, cases in bad.items():
            section.fail(f"blockcopy::{kernel}, {name}: {len(cases)} of {count}, as {cases[0]}")


def compare_reckoning(section: Section, kernels: reckoning.Kernels) -> None:
    """Run all cases of the kernels that reckon.

    Args:
        section: Is told.
        kernels: To test.
    """
    for dtype in reckoning.DTYPES:
        wrong: dict[str, list[str]] = {}
        count = 0
        large = not (section.small or section.quick)
        for kernel, case, fits in reckoning.results(kernels, dtype, section.quick, large):
            count += 1
            if not fits:
                wrong.setdefault(kernel, []).append(case)
        name = str(dtype).removeprefix("torch.")
        section.add(
            f"{name}: {count} cases of {', '.join(reckoning.RECKONING)}, "
            f"{'within rounding' if not wrong else 'WRONG'}",
            dtype=name, cases=count, differing={k: len(v) for k, v in wrong.items()},
            kernels="reckoning",
        )  # fmt: skip
        for kernel, cases in wrong.items():
            section.fail(f"blockcopy::{kernel}, {name}: {len(cases)} of {count}, as {cases[0]}")


def _differing(kernels, case: Case, generator: torch.Generator) -> Iterator[str]:
    """Names of the kernels that do not give their twin's bits."""
    for fill in (0.0, float("-inf")):
        wanted = gather_reference(*case, fill)
        if not _same_bits(kernels.gather(case, fill), wanted):
            yield "gather"
        if not _same_bits(kernels.gather_out(case, fill), wanted):
            yield "gather_out"
    state, packed, blocks = _blocks_to_write(case, generator)
    wanted = state.clone(memory_format=torch.preserve_format)
    scatter_.reference(wanted, packed, blocks)
    if not _same_bits(kernels.scatter_(state, packed, blocks), wanted):
        yield "scatter_"


KERNELS = ("gather", "gather_out", "scatter_")


def _cuda_kernels() -> list[str]:
    """Names of this package's operators that have a CUDA kernel."""
    names = {name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    ours = sorted(name for name in names if name.startswith("blockcopy::"))
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return [name.removeprefix("blockcopy::") for name in ours if has(name, "CUDA")]


def _draw(generator: torch.Generator, shape: tuple[int, int, int, int], dtype) -> Case:
    """Random values, with some that only bits tell apart, and random blocks and tables."""

    def integers(low: int, high: int, *size: int) -> Tensor:
        return torch.randint(low, high, size, generator=generator, dtype=torch.int32)

    slots, _, height, width = shape
    state = torch.randn(shape, generator=generator)
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 0.0])
    where = torch.randint(0, 40, shape, generator=generator)
    state = torch.where(where < 4, odd[where.clamp(max=3)], state).to(dtype)
    rows, cols = integers(-1, height, 3, 11), integers(-1, width, 4, 18)
    blocks = torch.stack([integers(0, end, 9) for end in (slots, len(rows), len(cols))], 1)
    return Case(state.contiguous(memory_format=torch.channels_last), blocks, rows, cols)


def _large(dtype) -> Case:
    """The 3x3 window of a network at stride 4, blocks of 128 px, a quarter executed."""
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(LARGE, generator=generator).to(dtype)
    grid = torch.rand(LARGE[0], 8, 16, generator=generator) < 0.25
    rows, cols = (
        ops.window.window_table(blocks=n, block_out=32, size=n * 32, kernel=3, padding=1)
        for n in (8, 16)
    )
    state = state.contiguous(memory_format=torch.channels_last)
    return Case(state, grid.nonzero().int().contiguous(), rows, cols)


def _blocks_to_write(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A map, different blocks of it and new values for them; the last row and column are cut."""
    state = case.state
    height, width = (max(1, side // 3) for side in state.shape[2:])
    every = torch.cartesian_prod(
        torch.arange(state.size(0)),
        torch.arange(-(-state.size(2) // height)),
        torch.arange(-(-state.size(3) // width)),
    )
    chosen = torch.randperm(len(every), generator=generator)[: max(1, len(every) // 2)]
    blocks = every[chosen].int().contiguous()
    packed = torch.randn(len(blocks), state.size(1), height, width, generator=generator)
    return state, packed.to(state.dtype).contiguous(memory_format=torch.channels_last), blocks


def _shifted(tensor: Tensor, device: str, elements: int) -> Tensor:
    """The same values, channels last, at an address that many elements behind another."""
    slots, channels, height, width = tensor.shape
    memory = torch.zeros(tensor.numel() + elements, dtype=tensor.dtype, device=device)[elements:]
    return memory.view(slots, height, width, channels).permute(0, 3, 1, 2).copy_(tensor)


def _same_bits(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    integers = {2: torch.int16, 4: torch.int32}[wanted.element_size()]
    return torch.equal(found.contiguous().view(integers), wanted.contiguous().view(integers))


def _side_stream(section: Section) -> bool:
    """Whether what a side stream computes is read there, and what it gives is used there."""
    case = Case(*(part.to(section.device) for part in _large(torch.float32)))
    expected = ops.gather(case.state * 2, *case[1:]) + 1
    busy = torch.randn(4096, 4096, device=section.device)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(20):
            busy = busy @ busy * 1e-3
        doubled = case.state * 2
        found = ops.gather(doubled, *case[1:]) + 1
    side.synchronize()
    same = torch.equal(found, expected)
    section.add(
        f"a stream that is not the default one: {'in order' if same else 'NOT in order'}",
        side_stream=same,
    )
    return same
