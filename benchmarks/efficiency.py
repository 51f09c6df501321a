"""Sparse efficiency E = (dense time / sparse time) x executed rate.

``python -m benchmarks.efficiency --json results.json --plot speedup.png``

Dense and sparse frames alternate in one process, with the same weights, threads and dtype; medians
are compared. Dense is torch at its best: batch norm folded, channels last or not, whichever is
faster, inference mode, an allocator that keeps its pages. The time of a sparse frame has the policy
in it, its updates included. With --peers other engines run the same dense part in the same loop,
and the speed-up against the fastest of all is told too. The outputs are compared with the dense
model and the masked reference first. Nothing here is a test: the figures are those of the machine
and of the hour.
"""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import command

# torch comes later: the allocator and OpenMP's settings must be in place before it.

LAYOUTS = ("channels_last", "contiguous")
_FORMATS = {"channels_last": "channels_last", "contiguous": "contiguous_format"}

_PAUSE = 0.02  # seconds; then threads of the engine before have gone to sleep
_MOST_LINES = 8  # of a plot


@dataclass(frozen=True)
class Setting:
    """What all figures of one alternated loop have in common.

    Attributes:
        model: Name of the model.
        size: ``(H, W)`` of the frames in pixels.
        dtype: Of weights and frames.
        device: ``'cpu'`` or ``'cuda'``.
        threads: Of torch and of the other engines.
    """

    model: str
    size: tuple[int, int]
    dtype: str
    device: str
    threads: int

    def __str__(self) -> str:
        height, width = self.size
        return (
            f"{self.model}, {height}x{width}, {self.dtype}, {self.device}, {self.threads} threads"
        )


def efficiency_row(
    *,
    executed: int,
    blocks: int,
    dense: Sequence[float],
    sparse: Sequence[float],
    policy: Sequence[float],
    fastest: tuple[str, float] | None = None,
) -> dict:
    """Figures of one rate, from its times.

    Args:
        executed: Executed blocks of a frame.
        blocks: All blocks of a frame.
        dense: Milliseconds of each dense frame of torch.
        sparse: Milliseconds of each sparse frame without the policy.
        policy: Milliseconds of the policy in each of them. Their mean counts, not their median:
            most frames have no update in them.
        fastest: Name and milliseconds of the fastest dense engine, by default torch.

    Returns:
        ``rate``, ``dense_ms``, ``model_ms``, ``policy_ms``, ``sparse_ms`` (the sum of the two
        before), ``speedup``, ``efficiency``, ``policy_share`` (of the dense time), ``fastest`` and
        ``speedup_over_fastest``, and the ``times`` themselves.
    """
    rate = executed / blocks
    dense_ms, model_ms = statistics.median(dense), statistics.median(sparse)
    policy_ms = statistics.fmean(policy)
    sparse_ms = model_ms + policy_ms
    name, fastest_ms = ("torch", dense_ms) if fastest is None else fastest
    return {
        "rate": rate,
        "executed": executed,
        "blocks": blocks,
        "dense_ms": dense_ms,
        "model_ms": model_ms,
        "policy_ms": policy_ms,
        "policy_share": policy_ms / dense_ms,
        "sparse_ms": sparse_ms,
        "speedup": dense_ms / sparse_ms,
        "efficiency": dense_ms / sparse_ms * rate,
        "fastest": {"engine": name, "ms": fastest_ms},
        "speedup_over_fastest": fastest_ms / sparse_ms,
        "times": {"dense": list(dense), "sparse": list(sparse), "policy": list(policy)},
    }


def fastest_engine(torch_ms: float, peers: Sequence[dict]) -> tuple[str, float]:
    """Name and milliseconds of the fastest dense engine.

    Args:
        torch_ms: Of torch.
        peers: Figures of the other engines; those without ``ms`` were not there.
    """
    engines = [("torch", torch_ms)]
    engines += [(peer["engine"], peer["ms"]) for peer in peers if peer.get("ms")]
    return min(engines, key=lambda engine: engine[1])


class Contest:
    """Dense, the other engines and block-sparse on the same frames, in turn.

    Args:
        setting: What is measured.
        args: Of the command line.
    """

    def __init__(self, setting: Setting, args: argparse.Namespace) -> None:
        import torch

        from .clock import Clock
        from .region import Region, build_model

        self.setting = setting
        self.args = args
        torch.set_num_threads(setting.threads)
        self.clock = Clock(setting.device, args.clock)
        self.dtype = getattr(torch, setting.dtype)
        self.model = build_model(setting.model, self.dtype, args.seed, setting.device)
        self.draw = torch.Generator().manual_seed(args.seed)
        height, width = setting.size
        self.frames = [
            torch.randn(1, 3, height, width, generator=self.draw)
            .to(device=setting.device, dtype=self.dtype)
            .contiguous(memory_format=torch.channels_last)
            for _ in range(args.frames)
        ]
        self.layout = self._faster_layout()
        self.dense = Region(self._in_layout(self.layout)).eval()

    def _faster_layout(self) -> str:
        """Memory layout in which the dense part is faster."""
        import torch

        from .region import Region

        times = {}
        for layout in LAYOUTS:
            region = Region(self._in_layout(layout)).eval()
            frame = self._frame_in(layout, 0)
            with torch.inference_mode():
                for _ in range(3):
                    start = self.clock.start()
                    region(frame)
                    spent = self.clock.between(start, self.clock.stop())
                    times[layout] = min(spent, times.get(layout, spent))
        return min(times, key=times.get)

    def _in_layout(self, layout: str):
        """The whole model, its weights in a memory layout."""
        import torch

        if layout == LAYOUTS[0]:
            return self.model
        return copy.deepcopy(self.model).to(memory_format=torch.contiguous_format)

    def _frame_in(self, layout: str, index: int):
        frame = self.frames[index]
        return frame if layout == LAYOUTS[0] else frame.contiguous()

    def steps(self) -> int:
        """Frames that :meth:`part` and :meth:`whole` will run, for a progress bar."""
        rounds = self.args.warmup + self.args.repeats
        sparse = len(self.args.block_sizes) * (len(self.args.rates) + 1)
        once = rounds * (1 + sparse + len(self.args.peers))
        return once + (rounds * (1 + sparse) if self.args.whole_detector else 0)

    def part(self, bar) -> tuple[list[dict], list[dict]]:
        """Measure the part that runs on blocks.

        Args:
            bar: Progress; is told of each frame.

        Returns:
            A row for each block size and rate, and one for each other engine.
        """
        import torch

        from .check import TOLERANCE, deviation
        from .region import Region

        peers, absent = self._peers()
        region = Region(self.model).eval()
        sparse = {b: self._converted(region, b) for b in self.args.block_sizes}
        frames = [self._frame_in(self.layout, i) for i in range(len(self.frames))]
        # Fully executed first frames: the outputs at this size and dtype are the dense model's.
        deviations = {}
        with torch.inference_mode():
            wanted = self.dense(frames[0])
            for block, (model, policy) in sparse.items():
                policy.grid = self._grid(1.0, block)
                deviations[block] = deviation(model(self.frames[0]), wanted)
                self.clock.stop()
                policy.seconds()  # of this frame, that does not count
                if not deviations[block] <= TOLERANCE[self.setting.dtype]:
                    raise SystemExit(
                        f"{self.setting}, blocks of {block} px: a fully executed frame deviates "
                        f"from dense by {deviations[block]:.2g}; no time means anything."
                    )
        del wanted
        actions: dict[Any, Callable] = {"torch": lambda index: self.dense(frames[index])}
        # They run one frame, that they were made for; no speed depends on the values.
        actions |= {peer.name: lambda index, peer=peer: peer.run() for peer in peers}
        times, policy_times, executed = self._alternate(actions, sparse, bar)

        figures = [
            {
                **asdict(self.setting),
                "engine": peer.name,
                "version": peer.version,
                "setting": peer.setting,
                "deviation": peer.deviation,
                "ms": statistics.median(times[peer.name]),
                "times": times[peer.name],
            }
            for peer in peers
        ]
        fastest = fastest_engine(statistics.median(times["torch"]), figures)
        rows = [
            self._row(block, rate, sparse[block], times, policy_times, executed, fastest)
            | {"deviation": deviations[block]}
            for block, rate in itertools.product(self.args.block_sizes, self.args.rates)
        ]
        return rows, [*figures, *absent]

    def whole(self, part: Sequence[dict], bar) -> list[dict]:
        """Measure the whole model, with what stands behind the dense heads.

        One frame, again and again: then the features under it are the same for any grid, and so are
        the proposals and detections, and the work on them.

        Args:
            part: Rows of :meth:`part`.
            bar: Progress.

        Returns:
            A row for each block size and rate; or one row with the reason where it cannot run.
        """
        import torch

        from .whole_model import WholeModel, as_it_can_run

        self.frames = self.frames[:1]
        # Which layout the dense model has is settled by its weights; the frame follows them.
        frame = self._frame_in(self.layout, 0)
        try:
            dense = WholeModel(as_it_can_run(self.model, getattr(torch, _FORMATS[self.layout])))
            found = dense.set_threshold(frame, self.args.detections)
            sparse = {}
            for block in self.args.block_sizes:
                model, policy = self._converted(self.model, block)
                sparse[block] = (WholeModel(model), policy)
                sparse[block][0].keep_as(dense)
            actions = {"torch": lambda index: dense(frame)}
            times, policy_times, executed = self._alternate(actions, sparse, bar)
        # RoI ops and NMS do not exist in all dtypes on all devices: frameworks raise several.
        except (RuntimeError, NotImplementedError, TypeError) as error:
            text = " ".join(str(error).split())[:300]
            return [{**asdict(self.setting), "reason": f"{type(error).__name__}: {text}"}]
        speedups = {(row["block_size"], row["asked_rate"]): row["speedup"] for row in part}
        return [
            self._row(block, rate, None, times, policy_times, executed, None)
            | {"part_speedup": speedups.get((block, rate)), "detections": found}
            for block, rate in itertools.product(self.args.block_sizes, self.args.rates)
        ]

    def _alternate(self, dense: dict[str, Callable], sparse: dict, bar) -> tuple:
        """Milliseconds of each engine, and of model and policy at each block size and rate."""
        import torch

        clock, args = self.clock, self.args
        times: dict[Any, list[float]] = {}
        policy_times: dict[Any, list[float]] = {}
        executed: dict[Any, list[int]] = {}
        pause = _PAUSE if len(dense) > 1 else 0.0

        def timed(action, given) -> float:
            time.sleep(pause)
            start = clock.start()
            action(given)
            return 1e3 * clock.between(start, clock.stop())

        gc.collect()
        gc.freeze()  # a collection amid a frame, over all that mmdet imported, takes half a second
        with torch.inference_mode():
            for step in range(args.warmup + args.repeats):
                index = step % len(self.frames)
                for name, action in dense.items():
                    spent = timed(action, index)
                    bar.update()
                    if step >= args.warmup:
                        times.setdefault(name, []).append(spent)
                # Another rate first in each round: the policy learns every few frames, and as many
                # rates would else have all of that fall on the same one.
                first = step % len(args.rates)
                rates = [*args.rates[first:], *args.rates[:first]]
                for block, rate in itertools.product(args.block_sizes, rates):
                    model, policy = sparse[block]
                    policy.grid = self._grid(rate, block)
                    spent = timed(model, self.frames[index])
                    of_policy = 1e3 * policy.seconds()
                    bar.update()
                    if step >= args.warmup:
                        key = (block, rate)
                        times.setdefault(key, []).append(spent - of_policy)
                        policy_times.setdefault(key, []).append(of_policy)
                        executed.setdefault(key, []).append(int(policy.ran.sum()))
        gc.unfreeze()
        return times, policy_times, executed

    def _row(self, block, rate, sparse, times, policy_times, executed, fastest) -> dict:
        import blockcopy_plugins as bc

        key = (block, rate)
        rows, columns = self._grid_size(block)
        found = {
            **asdict(self.setting),
            "block_size": block,
            "asked_rate": rate,
            "dense_layout": self.layout,
            **efficiency_row(
                executed=round(statistics.fmean(executed[key])),
                blocks=rows * columns,
                dense=times["torch"],
                sparse=times[key],
                policy=policy_times[key],
                fastest=fastest,
            ),
        }
        if sparse is not None:
            model, policy = sparse
            report = bc.report(model)
            macs = policy.macs((1, 3, *self.setting.size), block)["total"]
            found |= {
                "macs_dense": report.macs_dense + report.macs_outside,
                "macs_policy": macs,
                "state_bytes": report.state_bytes,
                "densified": [f"{op.path}: {op.op}" for op in report.dense_ops],
            }
        return found

    def _peers(self) -> tuple[list, list[dict]]:
        from .peers import PeerUnavailable, make_peer

        made, absent = [], []
        for name in self.args.peers:
            try:
                frame = self._frame_in(self.layout, 0)
                made.append(make_peer(name, self.dense, frame, self.setting.threads))
            except PeerUnavailable as error:
                absent.append({**asdict(self.setting), "engine": name, "reason": str(error)})
        return made, absent

    def _converted(self, model, block: int) -> tuple:
        from .busy_scene import dictated_beside_scene
        from .conversion import sparse_copy
        from .region import task_of

        task, setting = task_of(self.model), self.setting
        policy = dictated_beside_scene(
            task, setting.size, setting.device, self.clock, self.args.seed
        )
        return sparse_copy(model, block, policy, self.args.cuda_graphs), policy

    def _grid_size(self, block: int) -> tuple[int, int]:
        height, width = self.setting.size
        return -(-height // block), -(-width // block)

    def _grid(self, rate: float, block: int):
        from .grids import draw_grid, executed_blocks

        rows, columns = self._grid_size(block)
        count = executed_blocks(rate, rows * columns)
        return draw_grid(count, (rows, columns), self.draw, self.args.pattern).to(
            self.setting.device
        )


def print_tables(results: dict) -> None:
    """Print the figures for people."""
    for setting, rows in itertools.groupby(results["rows"], key=_setting_of):
        rows = list(rows)
        print(f"\n{setting}; dense is {rows[0]['dense_layout']}")
        with_peers = any(row["fastest"]["engine"] != "torch" for row in rows)
        head = ["block", "rate", "dense ms", "sparse ms", "of it policy", "speed-up", "E"]
        head += ["fastest dense", "ms", "speed-up"] if with_peers else []
        lines = []
        for row in rows:
            line = [
                f"{row['block_size']} px",
                f"{row['rate']:.1%}",
                f"{row['dense_ms']:.1f}",
                f"{row['sparse_ms']:.1f}",
                f"{row['policy_ms']:.1f}",
                f"{row['speedup']:.2f}",
                f"{row['efficiency']:.3f}",
            ]
            if with_peers:
                fastest = row["fastest"]
                line += [fastest["engine"], f"{fastest['ms']:.1f}"]
                line += [f"{row['speedup_over_fastest']:.2f}"]
            lines.append(line)
        command.print_columns(head, lines)
    for peer in results["peers"]:
        told = f"{peer['ms']:.1f} ms" if "ms" in peer else f"absent: {peer['reason']}"
        print(f"{peer['engine']} on {_setting_of(peer)}: {told}")
    for setting, rows in itertools.groupby(results["whole"], key=_setting_of):
        print(f"\nwhole model, {setting}")
        for row in rows:
            if "reason" in row:
                print(f"absent: {row['reason']}")
                continue
            print(
                f"  {row['block_size']} px, {row['rate']:.1%}: dense {row['dense_ms']:.1f} ms, "
                f"sparse {row['sparse_ms']:.1f} ms, speed-up {row['speedup']:.2f} "
                f"(of the part on blocks {row['part_speedup']:.2f})"
            )


def _setting_of(row: dict) -> Setting:
    keys = ("model", "dtype", "device", "threads")
    return Setting(size=tuple(row["size"]), **{key: row[key] for key in keys})


def save_plot(results: dict, path: str) -> None:
    """Draw speed-up against executed rate, and dotted against the fastest dense engine.

    Of many models the first dtype alone: more lines than colours cannot be told apart.
    """
    from blockcopy_plugins.visualization.speedup import plot_speedup

    rows = results["rows"]
    if len({(row["model"], row["dtype"]) for row in rows}) > _MOST_LINES:
        rows = [row for row in rows if row["dtype"] == rows[0]["dtype"]]
    settings = [_setting_of(row) for row in rows]
    # A line is called by what differs between the lines.
    shown = [
        name
        for name in ("model", "size", "dtype", "device", "threads")
        if name in ("model", "dtype") or len({getattr(s, name) for s in settings}) > 1
    ]
    several_blocks = len({row["block_size"] for row in rows}) > 1
    series: dict[str, list[tuple[float, float]]] = {}
    fastest: dict[str, list[tuple[float, float]]] = {}
    for setting, row in zip(settings, rows, strict=True):
        parts = [_words(name, getattr(setting, name)) for name in shown]
        name = ", ".join(parts + ([f"{row['block_size']} px"] if several_blocks else []))
        series.setdefault(name, []).append((row["rate"], row["speedup"]))
        if row["fastest"]["engine"] != "torch":
            fastest.setdefault(name, []).append((row["rate"], row["speedup_over_fastest"]))
    plot_speedup(series, path, fastest=fastest)


def _words(name: str, value: Any) -> str:
    if name == "size":
        return f"{value[0]}\u00d7{value[1]}"
    return f"{value} threads" if name == "threads" else str(value)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command.new_parser("efficiency", __doc__)
    parser.add_argument(
        "--models",
        type=command.names,
        default=["mask-rcnn_r50_fpn"],
        help="csp_r50, mgan_vgg16, swiftnet_r18, swiftnet_r50 (of configs/_base_/models), "
        "configs of MMDetection and MMSegmentation: mask-rcnn_r50_fpn (default), "
        "deeplabv3plus_r50, retinanet_r50_fpn, or paths of others",
    )
    parser.add_argument(
        "--sizes", type=command.sizes, default=[(1024, 2048)], metavar="HxW,...", help="of frames"
    )
    parser.add_argument(
        "--block-sizes", type=command.integers, default=[128], metavar="PX,...", help="of blocks"
    )
    parser.add_argument(
        "--rates",
        type=command.rates,
        default=[1.0, 0.5, 0.25, 0.125],
        help="executed rates (default 1,0.5,0.25,0.125)",
    )
    parser.add_argument(
        "--dtypes",
        type=command.dtypes,
        default=["float32", "bfloat16"],
        help="of weights and frames: float32, bfloat16, float16 (default the first two)",
    )
    parser.add_argument(
        "--devices", type=command.devices, default=["cpu"], help="cpu, cuda (default cpu)"
    )
    parser.add_argument(
        "--threads", type=command.integers, default=[os.cpu_count()], help="default all cores"
    )
    parser.add_argument(
        "--peers",
        type=command.names,
        default=[],
        help="other dense engines beside torch: torch.compile,onnxruntime,openvino "
        "(pip install 'blockcopy_plugins[peers]'; torch.compile needs a C++ compiler). One that "
        "is not there or fails is reported with the reason",
    )
    parser.add_argument(
        "--whole-detector",
        action="store_true",
        help="measure the whole model too, with RoI heads and post-processing",
    )
    parser.add_argument(
        "--detections",
        type=int,
        default=20,
        help="detections in a frame of the whole detector: its score threshold is set so "
        "(default 20)",
    )
    parser.add_argument(
        "--cuda-graphs",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="switch CUDA graphs on or off, where this version has them (default: as it does)",
    )
    parser.add_argument(
        "--pattern",
        choices=("random", "clustered"),
        default="random",
        help="executed blocks: each alike, or those around a random point (default random)",
    )
    parser.add_argument("--repeats", type=int, default=12, help="rounds that count (default 12)")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them (default 2)")
    parser.add_argument(
        "--frames", type=int, default=3, help="different frames, taken in turn (default 3)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="compare the outputs with the masked reference first (default yes)",
    )
    command.add_clock(parser)
    parser.add_argument("--json", help="file to write")
    parser.add_argument("--plot", help="PNG to write")
    args = parser.parse_args(argv)
    unknown = set(args.peers) - {"torch.compile", "onnxruntime", "openvino"}
    if unknown:
        parser.error(
            f"--peers: {', '.join(sorted(unknown))} unknown; expected some of "
            "torch.compile,onnxruntime,openvino"
        )
    if args.plot and Path(args.plot).suffix.lower() != ".png":
        parser.error(f"--plot {args.plot}: expected a file that ends in .png")
    return args


def main(argv: Sequence[str] | None = None) -> dict:
    """Measure, print and write.

    Returns:
        What goes into the JSON file.
    """
    args = parse_arguments(argv)
    command.need_matplotlib(args.plot)
    allocator = command.prepare_process(args.clock)
    import torch

    torch.set_num_threads(args.threads[0])
    # The best dense setting on a GPU; frames have one size.
    torch.backends.cudnn.benchmark = True
    from .check import check
    from .machine import describe

    there, absent = command.usable_devices(args.devices)
    results = {
        "benchmark": "efficiency",
        "machine": describe(allocator, there),
        "settings": command.settings_of(args, "json", "plot", "check"),
        "absent": absent,
        "checks": [],
        "rows": [],
        "peers": [],
        "whole": [],
    }
    if args.check:
        for model, device in itertools.product(args.models, there):
            results["checks"].append(check(model, min(args.block_sizes), device, args.seed))
    for device, threads, model, size, dtype in itertools.product(
        there, args.threads, args.models, args.sizes, args.dtypes
    ):
        setting = Setting(model, size, dtype, device, threads)
        contest = Contest(setting, args)
        with command.progress(contest.steps(), str(setting)) as bar:
            rows, peers = contest.part(bar)
            results["rows"] += rows
            results["peers"] += peers
            if args.whole_detector:
                results["whole"] += contest.whole(rows, bar)
        del contest  # its models and state, before the next ones are made
        command.write_json(results, args.json)  # what is measured is kept if the rest fails
    results["machine"]["load_1min_end"] = round(os.getloadavg()[0], 2)
    print_tables(results)
    command.write_json(results, args.json)
    if args.plot:
        save_plot(results, args.plot)
    return results


if __name__ == "__main__":
    main()
