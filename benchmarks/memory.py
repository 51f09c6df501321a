"""Memory beyond dense, and over many frames: it must not grow.

``python -m benchmarks.memory --frames 10000 --json memory.json``

A converted model runs frames with a real policy and changing grids. The state's bytes and the
memory in use are noted all along: what counts is the growth after the tenth frame, and how much
more there is than while the dense model ran, beside one copy of the inputs of the spatial ops. In
use is resident memory once the allocator has given back what is free (where it is glibc's); on a
GPU what torch has allocated there. Resident is what the system sees without that: it holds the free
memory between the allocations of all sizes that changing numbers of blocks make.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

from . import command

_FIRST = 10  # frames, until all that is allocated once is there


def resident_bytes() -> int:
    """Resident memory of this process.

    Raises:
        RuntimeError: If neither /proc nor psutil tells.
    """
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    try:
        import psutil
    except ImportError as error:
        raise RuntimeError("there is no /proc here: pip install psutil") from error
    return psutil.Process().memory_info().rss


def memory_bytes(device: str) -> tuple[int, int]:
    """Memory in use on a device, and the resident memory of the process; see the module.

    On a GPU the second is what torch has reserved there.
    """
    if device != "cpu":
        import torch

        return torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    resident = resident_bytes()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes(), resident


def spatial_inputs(model, frame) -> int:
    """Bytes of one copy of the inputs of a dense model's spatial ops.

    Spatial is what reads neighbours: convolutions and pooling whose kernel or stride is not 1, and
    resizes. What two of them read is counted once.

    Args:
        model: A dense model.
        frame: ``(1, 3, H, W)``.
    """
    import torch

    from .spatial_inputs import SpatialInputs

    # Not in inference mode, in which tensors do not count their in-place changes.
    with torch.no_grad(), SpatialInputs() as inputs:
        model(frame)
    return inputs.bytes()


def measure(args: argparse.Namespace, device: str, bar) -> dict:
    """Run the frames.

    Args:
        args: Of the command line.
        device: ``'cpu'`` or ``'cuda'``.
        bar: Progress, told of each frame.

    Returns:
        See :func:`figures`.
    """
    import torch

    import blockcopy_plugins as bc

    from .busy_scene import dictated_beside_scene
    from .conversion import sparse_copy
    from .grids import draw_grid, executed_blocks
    from .region import build_region, task_of

    height, width = args.size
    grid = (-(-height // args.block_size), -(-width // args.block_size))
    dtype = getattr(torch, args.dtype)
    dense = build_region(args.model, dtype, device=device)
    draw = torch.Generator().manual_seed(0)
    frames = [
        torch.randn(1, 3, height, width, generator=draw)
        .to(device=device, dtype=dtype)
        .contiguous(memory_format=torch.channels_last)
        for _ in range(3)
    ]
    inputs = spatial_inputs(dense, frames[0])
    policy = dictated_beside_scene(task_of(dense.model), args.size, device)
    model = sparse_copy(dense, args.block_size, policy)
    gc.collect()
    samples = []
    step = max(1, args.frames // 100)
    with torch.inference_mode():
        for index in range(5):
            dense(frames[index % 3])
        before, resident = memory_bytes(device)
        for index in range(args.frames):
            rate = torch.rand(1, generator=draw).item()
            count = executed_blocks(rate, grid[0] * grid[1])
            policy.grid = draw_grid(count, grid, draw).to(device)
            model(frames[index % 3])
            policy.seconds()
            if index <= _FIRST or index % step == 0 or index == args.frames - 1:
                state = bc.report(model).state_bytes
                samples.append((index, *memory_bytes(device), state))
            bar.update()
    return {
        "device": device,
        "dense_resident_bytes": resident,
        **figures(before, inputs, samples),
    }


def figures(before: int, inputs: int, samples: Sequence[tuple[int, int, int, int]]) -> dict:
    """What the samples tell.

    Args:
        before: Bytes in use after the dense model ran, before the converted one did.
        inputs: Bytes of one copy of the spatial ops' inputs.
        samples: ``(frame, bytes in use, resident bytes, bytes of the state)``.

    Returns:
        Growth after the tenth frame (of the memory in use: the median of the last tenth of the
        samples), memory beyond dense at the end, and both it and the state in copies of the
        spatial ops' inputs.
    """
    late = [s for s in samples if s[0] >= _FIRST] or list(samples)
    tail = late[-max(1, len(late) // 10) :]
    in_use = int(statistics.median(s[1] for s in tail))
    return {
        "dense_bytes": before,
        "spatial_inputs_bytes": inputs,
        "in_use_last": in_use,
        "in_use_growth": in_use - late[0][1],
        "beyond_dense_bytes": in_use - before,
        "beyond_dense_copies": (in_use - before) / inputs,
        "resident_last": int(statistics.median(s[2] for s in tail)),
        "resident_growth": int(statistics.median(s[2] for s in tail)) - late[0][2],
        "state_bytes": late[-1][3],
        "state_copies": late[-1][3] / inputs,
        "state_growth": late[-1][3] - late[0][3],
        "samples": [
            dict(zip(("frame", "in_use", "resident", "state_bytes"), s, strict=True))
            for s in samples
        ],
    }


def print_table(found: dict, frames: int) -> None:
    """Print the figures for people."""
    mib = 2**20
    print(f"\n{found['device']}, {frames} frames")
    lines = [
        ("state", found["state_bytes"], found["state_growth"], found["state_copies"]),
        (
            "in use beyond dense",
            found["beyond_dense_bytes"],
            found["in_use_growth"],
            found["beyond_dense_copies"],
        ),
        ("resident", found["resident_last"], found["resident_growth"], None),
        ("one copy of the spatial ops' inputs", found["spatial_inputs_bytes"], None, 1.0),
        ("in use by dense", found["dense_bytes"], None, None),
        ("resident with dense", found["dense_resident_bytes"], None, None),
    ]
    command.print_columns(
        ("", "MiB", f"grown after frame {_FIRST}", "copies of the inputs"),
        [
            (
                name,
                f"{size / mib:.1f}",
                "" if growth is None else f"{growth / mib:.3f}",
                "" if copies is None else f"{copies:.2f}",
            )
            for name, size, growth, copies in lines
        ],
    )


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command.new_parser("memory", __doc__)
    parser.add_argument("--model", default="mask-rcnn_r50_fpn", help="see benchmarks.efficiency")
    parser.add_argument("--size", type=command.sizes, default=[(128, 192)], metavar="HxW")
    parser.add_argument("--block-size", type=int, default=64)
    parser.add_argument("--dtype", choices=command.DTYPES, default="float32")
    parser.add_argument("--devices", type=command.devices, default=["cpu"], help="cpu, cuda")
    parser.add_argument("--frames", type=int, default=10000, help="default 10000")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=command.json_file, help="file to write")
    args = parser.parse_args(argv)
    if len(args.size) != 1:
        parser.error(f"--size: one size is expected, found {len(args.size)}")
    args.size = args.size[0]
    return args


def main(argv: Sequence[str] | None = None) -> dict:
    """Measure, print and write.

    Returns:
        What goes into the JSON file.
    """
    args = parse_arguments(argv)
    # The system's allocator as it is: one that keeps pages could hide a leak, or look like one.
    allocator = command.prepare_process(retain=False)
    import torch

    torch.set_num_threads(args.threads)
    from .machine import describe

    there, absent = command.usable_devices(args.devices)
    results = {
        "benchmark": "memory",
        "machine": describe(allocator, there),
        "settings": command.settings_of(args, "json"),
        "absent": absent,
        "runs": [],
    }
    for device in there:
        with command.progress(args.frames, f"frames on {device}") as bar:
            results["runs"].append(measure(args, device, bar))
        print_table(results["runs"][-1], args.frames)
    command.write_json(results, args.json)
    return results


if __name__ == "__main__":
    main()
