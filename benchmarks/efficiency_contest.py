"""Runs dense, the other engines and block-sparse on the same frames, in turn."""

from __future__ import annotations

import argparse
import copy
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .efficiency_figures import LAYOUTS, Setting, efficiency_row, fastest_engine

if TYPE_CHECKING:
    from .quantised import Quantiser

# torch comes later: the allocator and OpenMP's settings must be in place before it.

_FORMATS = {"channels_last": "channels_last", "contiguous": "contiguous_format"}
_PAUSE = 0.02  # seconds; then threads of the engine before have gone to sleep


class Contest:
    """Dense, the other engines and block-sparse on the same frames, in turn.

    Args:
        setting: What is measured.
        args: Of the command line.
        quantiser: For engines of 8 bits.
    """

    def __init__(self, setting: Setting, args: argparse.Namespace, quantiser: Quantiser) -> None:
        import torch

        from .clock import Clock
        from .region import Region, build_model

        self.setting = setting
        self.args = args
        self.quantiser = quantiser
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
        # They run one frame each; no speed depends on the values.
        actions |= {peer.name: lambda index, peer=peer: peer.run() for peer in peers}
        times, policy_times, executed = self._alternate(actions, sparse, bar)

        figures = [
            {
                **asdict(self.setting),
                "engine": peer.name,
                "version": peer.version,
                "setting": peer.setting,
                "exact": peer.exact,
                "deviation": peer.deviation,
                "ms": statistics.median(times[peer.name]),
                "times": times[peer.name],
            }
            for peer in peers
        ]
        fastest = fastest_engine(statistics.median(times["torch"]), figures)
        int8_ms = next((figure["ms"] for figure in figures if not figure["exact"]), None)
        rows = [
            self._row(block, rate, sparse[block], times, policy_times, executed, fastest, int8_ms)
            | {"deviation": deviations[block]}
            for block, rate in itertools.product(self.args.block_sizes, self.args.rates)
        ]
        return rows, [*figures, *absent]

    def whole(self, part: Sequence[dict], bar) -> list[dict]:
        """Measure the whole model, with what stands behind the dense heads.

        The frames differ wherever blocks are executed, so that only regions over blocks that were
        not may repeat bit for bit: those repeat in a video too.

        Args:
            part: Rows of :meth:`part`.
            bar: Progress.

        Returns:
            A row for each block size and rate; or one row with the reason where it cannot run.
        """
        import torch

        from .whole_model import WholeModel, as_it_can_run

        # Which layout the dense model has is settled by its weights; the frames follow them.
        frames = [self._frame_in(self.layout, i) for i in range(len(self.frames))]
        try:
            dense = WholeModel(as_it_can_run(self.model, getattr(torch, _FORMATS[self.layout])))
            found = dense.set_threshold(frames[0], self.args.detections)
            sparse = {}
            for block in self.args.block_sizes:
                model, policy = self._converted(self.model, block)
                sparse[block] = (WholeModel(model), policy)
                sparse[block][0].keep_as(dense)
            actions = {"torch": lambda index: dense(frames[index])}
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

    def _row(
        self, block, rate, sparse, times, policy_times, executed, fastest, int8_ms=None
    ) -> dict:
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
                int8_ms=int8_ms,
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
                made.append(
                    make_peer(
                        name,
                        self.dense,
                        frame,
                        self.setting.threads,
                        self.setting.model,
                        self.quantiser,
                    )
                )
            except PeerUnavailable as error:
                absent.append({**asdict(self.setting), "engine": name, "reason": str(error)})
        return made, absent

    def _converted(self, model, block: int) -> tuple:
        from .busy_scene import dictated_beside_scene
        from .conversion import sparse_copy
        from .region import task_of

        task, setting = task_of(self.model), self.setting
        policy = dictated_beside_scene(
            task, setting.size, setting.device, self.clock, self.args.seed, self.args.policy
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
