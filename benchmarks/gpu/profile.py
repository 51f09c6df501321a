"""Section ``profile``: where a frame with a quarter of its blocks goes.

Kernels by time, launches, waits of the host for the device, what ran as a graph and what not and
why, bandwidth of gather and scatter beside a plain copy, memory beyond dense.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

import blockcopy_plugins as bc
from benchmarks import networks, ops
from benchmarks.grids import random_grid
from blockcopy_plugins.policy import Policy, build_policy
from blockcopy_plugins.policy.dictated import DictatedPolicy

from .device_reads import DeviceReads
from .recording_backend import with_graphs
from .section import Section

_ROOT = Path(__file__).resolve().parents[2]

RATE = 0.25
NETWORKS = ("mask-rcnn_r50_fpn", "swiftnet_r18")
POLICIES: tuple[dict[str, Any], ...] = (
    # In a frame in which it saves up it would not look, and then do so after another's choice ran.
    dict(type="GainPolicy", target=RATE, per_frame=True),
    dict(type="RLPolicy", target=RATE),
    dict(type="FrameDifferencePolicy", target=RATE),
    dict(type="EveryNthFramePolicy", n=4),
    dict(type="RandomPolicy", rate=RATE),
)

_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch", "cudaMemcpyAsync")
_FRAMES = 3
_ROWS = 12


def run(section: Section) -> None:
    """Take frames apart."""
    for name in NETWORKS:
        for graphs in (True, False) if section.device == "cuda" else (False,):
            section.need(5)
            _kernels(section, name, graphs)
        _memory(section, name)
    for config in POLICIES:
        section.need(3)
        _waits(section, config)
    _bandwidth(section)


class Subject:
    """A network and its converted copy, on frames of noise.

    Args:
        section: Tells the device and the size.
        name: Of the network.
        policy: Beside the dictated grid; ``None`` for none.
        graphs: Whether frames are captured.
    """

    def __init__(
        self, section: Section, name: str, policy: Policy | None = None, graphs: bool = True
    ) -> None:
        self.device = section.device
        block, size, width = (64, (192, 256), 0.125) if section.small else (128, (1024, 2048), 1.0)
        dtype = torch.float32 if section.small else torch.float16
        net = networks.build(name, width=width).to(section.device, dtype)
        self.net = net.to(memory_format=torch.channels_last)
        self.draw = torch.Generator().manual_seed(0)
        self.frame = (
            torch.randn(1, 3, *size, generator=self.draw)
            .to(section.device, dtype)
            .contiguous(memory_format=torch.channels_last)
        )
        self.shape = (1, size[0] // block, size[1] // block)
        self.policy = DictatedPolicy(policy)
        shared = {id(t): t for t in (*self.net.parameters(), *self.net.buffers())}
        config = bc.BlockCopyConfig(block_size=block, policy=self.policy, cuda_graphs=graphs)
        self.model = bc.blockcopy_(copy.deepcopy(self.net, shared), config)

    def sparse(self, rate: float = RATE) -> Any:
        """A frame on other blocks than the one before."""
        self.draw_grid(rate)
        return self.call()

    def draw_grid(self, rate: float = RATE) -> None:
        """Pick the blocks of the next frame."""
        self.policy.grid = random_grid(rate, self.shape, self.draw)

    def call(self) -> Any:
        """A frame on the blocks that were picked."""
        return self._run(self.model)

    def dense(self) -> Any:
        """The same frame by the plain network."""
        return self._run(self.net)

    def _run(self, net: nn.Module) -> Any:
        # In inference mode composite ops arrive whole, and who counts reads would not see them.
        with torch.no_grad():
            return net(self.frame)


def _kernels(section: Section, name: str, graphs: bool) -> None:
    subject = Subject(section, name, build_policy(POLICIES[0]), graphs)
    for rate in (1.0, *[RATE] * 6):
        subject.sparse(rate)
    activities = [ProfilerActivity.CPU]
    if section.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize()
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(_FRAMES):
            subject.sparse()
        if section.device == "cuda":
            torch.cuda.synchronize()
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    launches: Counter[str] = Counter()
    for event in profiler.events():
        launched = next((kind for kind in _LAUNCHES if event.name.startswith(kind)), None)
        if launched is not None:
            launches[launched] += 1
        if section.device == "cuda":
            counted, spent = event.device_type == DeviceType.CUDA, event.time_range.elapsed_us()
        else:
            counted = event.name.startswith(("aten::", "blockcopy"))
            spent = event.self_cpu_time_total
        if counted:
            times[event.name] += spent
            calls[event.name] += 1
    found = bc.report(subject.model).graphs
    rows = [
        {"kernel": kernel, "ms": spent / 1e3 / _FRAMES, "calls": calls[kernel] / _FRAMES}
        for kernel, spent in times.most_common(_ROWS)
    ]
    total = sum(times.values()) / 1e3 / _FRAMES
    per_frame = {kind: count / _FRAMES for kind, count in launches.items()}
    section.add(
        f"{name}, {RATE:.0%}, {'graphs' if graphs else 'no graphs'}: {total:.2f} ms in "
        f"{sum(calls.values()) / _FRAMES:.0f} kernels, launches {per_frame or 'not seen'}",
        kind="kernels", network=name, graphs=graphs, ms=total, kernels=rows,
        kernels_per_frame=sum(calls.values()) / _FRAMES, launches=per_frame,
        replayed=0 if found is None else found.replayed,
        without_graph={} if found is None else dict(found.eager_calls),
    )  # fmt: skip
    for row in rows[:6]:
        section.say(f"  {row['ms']:8.3f} ms {row['calls']:6.1f} x  {row['kernel'][:90]}")


def _memory(section: Section, name: str) -> None:
    subject = Subject(section, name)
    row: dict[str, Any] = {"kind": "memory", "network": name}
    if section.device == "cuda":
        row["dense_mib"] = _peak(subject.dense)
        before = torch.cuda.memory_allocated()
        for rate in (1.0, *[RATE] * 4):
            subject.sparse(rate)
        row["kept_mib"] = (torch.cuda.memory_allocated() - before) / 2**20
        row["sparse_mib"] = _peak(subject.sparse)
    else:
        subject.sparse(1.0)
        subject.sparse()
    report = bc.report(subject.model)
    row["state_mib"] = report.state_bytes / 2**20
    row["graphs_mib"] = 0.0 if report.graphs is None else report.graphs.graph_bytes / 2**20
    text = ", ".join(f"{k.removesuffix('_mib')} {v:.1f}" for k, v in row.items() if "_mib" in k)
    section.add(f"{name}: MiB {text}", **row)


def _peak(run: Callable[[], Any]) -> float:
    """Most MiB allocated during a frame, beyond what was before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _waits(section: Section, config: dict[str, Any]) -> None:
    """How often the host waits for the device in a frame in which nothing is captured."""
    counts: list[dict[str, int]] = []
    with DeviceReads() if section.small else nullcontext() as device:
        subject = Subject(section, NETWORKS[1], build_policy(config))
        if device is not None:
            device.put(subject.model)
            device.put(subject.frame)
            with_graphs(subject.model)
        subject.sparse(1.0)
        for _ in range(10):
            captured = _captured(subject.model)
            found = _count_waits(subject, device)
            if _captured(subject.model) == captured:
                counts.append(found)
    most = max((sum(found.values()) for found in counts), default=0)
    where: Counter[str] = Counter()
    for found in counts:
        where.update(found)
    section.check(most <= 1, f"{config['type']}: a frame waits {most} times: {dict(where)}")
    section.add(
        f"{config['type']}: the host waits at most {most} times in a frame",
        kind="waits", policy=config["type"], most=most, where=dict(where), frames=len(counts),
    )  # fmt: skip


def _captured(model: nn.Module) -> int:
    found = bc.report(model).graphs
    return 0 if found is None else found.captured


def _count_waits(subject: Subject, device: DeviceReads | None) -> dict[str, int]:
    """Of one frame, by line; ``device`` stands in for a GPU."""
    subject.draw_grid()
    if device is not None:
        device.waits.clear()
        subject.call()
        return dict(device.waits)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            subject.call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found: Counter[str] = Counter()
    for warning in caught:
        if "synchronizing" in str(warning.message):
            path = warning.filename.rpartition("site-packages/")[2].removeprefix(f"{_ROOT}/")
            found[f"{path}:{warning.lineno}"] += 1
    return found


def _bandwidth(section: Section) -> None:
    """GB/s of gather and scatter at the maps of a ResNet-50 with FPN."""

    class Silent:
        @staticmethod
        def update() -> None:
            """Each row is told when all are there."""

    options = ["--channels", "16", "--blocks", "16", "--repeats", "3"] if section.small else []
    args = ops.parse_arguments(options)
    dtype = "float32" if section.small else "float16"
    threads = torch.get_num_threads()
    for row in ops.measure(args, section.device, threads, dtype, Silent()):
        section.add(
            f"{row['channels']} channels, {row['block']} px: gather {row['gather']['GB/s']:.0f} "
            f"GB/s ({row['gather']['share']:.0%} of a copy), scatter {row['scatter']['GB/s']:.0f} "
            f"({row['scatter']['share']:.0%})",
            kind="bandwidth", **row,
        )  # fmt: skip
