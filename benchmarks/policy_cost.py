"""What the learned policy costs: milliseconds by part, and multiply-accumulates.

``python -m benchmarks.policy_cost --dense-gmacs 400 --dense-ms 4500 --json policy_cost.json``

An RLPolicy or a GainPolicy (--policies) is driven as the engine drives it, but without a network:
frames and task outputs are made beforehand, and a quarter of the blocks or so is executed. Three
parts are timed.

select    the frame's picture on cells, the policy network, the sampled grid
feedback  information gain, reward, and the memory of the stream
update    one step of REINFORCE on the last --update-every frames; the table has its share of a
          frame, the JSON file the time of each. (A GainPolicy learns in its feedback.)

All cases take turns, frame by frame, in one process; medians are compared. The first --warmup
frames are not counted. Outputs are one of

semantic  logits of --classes classes at 1/--stride of the frame's size
boxes     --detections boxes
masks     the same with masks at a quarter of the frame's size

The goal is at most 2 % of the dense network's multiply-accumulates and time. With --dense-gmacs and
--dense-ms (see benchmarks.efficiency) the shares are shown.

A second table has the information gain of --gain-boxes boxes and of --gain-masks masks by itself,
which is a part of the feedback: to summarise an output, to paint it, to compare it with the last.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from . import command, gain_cost

POLICIES = ("RLPolicy", "GainPolicy")
OUTPUTS = ("semantic", "boxes", "masks")
LAYOUTS = ("channels_last", "contiguous")


class Case(NamedTuple):
    """What is driven."""

    size: tuple[int, int]
    block_size: int
    dtype: str
    layout: str
    output: str
    threads: int
    policy: str = POLICIES[0]


def cost_row(
    case: Case,
    select: Sequence[float],
    feedback: Sequence[float],
    update: Sequence[float],
    update_every: int,
    macs: dict[str, int],
    dense_gmacs: float | None = None,
    dense_ms: float | None = None,
) -> dict[str, Any]:
    """The figures of one case.

    Args:
        case: Which.
        select: Milliseconds of each choice.
        feedback: Milliseconds of each feedback, without the update in it.
        update: Milliseconds of each update.
        update_every: Frames to an update.
        macs: Of the policy for one frame, as :meth:`RLPolicy.macs` counts them.
        dense_gmacs: Of the dense network for one frame.
        dense_ms: Of the dense network for one frame.

    Returns:
        Medians; ``frame_ms``, an update's share included; ``macs_share`` and ``time_share`` of the
        dense network's, None where that is not known.
    """
    medians = [statistics.median(times or [0.0]) for times in (select, feedback, update)]
    frame_ms = medians[0] + medians[1] + medians[2] / update_every
    return {
        **case._asdict(),
        "select_ms": medians[0],
        "feedback_ms": medians[1],
        "update_ms": medians[2],
        "update_every": update_every,
        "frame_ms": frame_ms,
        "macs": macs,
        "macs_share": None if dense_gmacs is None else macs["total"] / 1e9 / dense_gmacs,
        "time_share": None if dense_ms is None else frame_ms / dense_ms,
        "times": {"select": list(select), "feedback": list(feedback), "update": list(update)},
    }


def make_outputs(
    kind: str, size: tuple[int, int], classes: int, stride: int, count: int, scenes: int = 4
) -> list[Any]:
    """Task outputs of a scene in which things move a little.

    Args:
        kind: One of ``OUTPUTS``.
        size: Of the frame in pixels.
        classes: Of the logits.
        stride: Of the logits.
        count: Detections.
        scenes: How many outputs.
    """
    import torch

    from blockcopy_plugins.policy import Detections

    draw = torch.Generator().manual_seed(0)
    if kind == "semantic":
        shape = (classes, -(-size[0] // stride), -(-size[1] // stride))
        logits = torch.randn(shape, generator=draw)
        return [logits + 0.3 * torch.randn(shape, generator=draw) for _ in range(scenes)]
    extent = torch.tensor([size[1], size[0]], dtype=torch.float32)
    corner = 0.8 * extent * torch.rand(count, 2, generator=draw)
    side = (0.02 + 0.1 * torch.rand(count, 2, generator=draw)) * extent
    labels = torch.randint(0, 8, (count,), generator=draw)
    outputs = []
    for _ in range(scenes):
        first = corner + 4 * torch.randn(count, 2, generator=draw)
        boxes = torch.cat([first, first + side], 1).clamp_min(0).minimum(extent.repeat(2))
        scores = 0.3 + 0.7 * torch.rand(count, generator=draw)
        masks = _filled(boxes / 4, -(-size[0] // 4), -(-size[1] // 4)) if kind == "masks" else None
        outputs.append(Detections(boxes, scores, labels, masks, size))
    return outputs


def _filled(boxes: Any, height: int, width: int) -> Any:
    """Masks bool ``(K, height, width)`` that fill their boxes."""
    import torch

    x1, y1, x2, y2 = boxes[:, :, None, None].unbind(1)
    y, x = torch.arange(height)[:, None], torch.arange(width)
    return (x >= x1) & (x < x2) & (y >= y1) & (y < y2)


class Drive:
    """One case at work.

    Args:
        case: Which.
        frames: ``(1, 3, H, W)``, taken in turn.
        outputs: Of the task, taken in turn.
        args: Of the command line.
        now: Seconds.
    """

    def __init__(
        self,
        case: Case,
        frames: Sequence[Any],
        outputs: Sequence[Any],
        args: argparse.Namespace,
        now: Callable[[], float],
    ) -> None:
        import torch

        from blockcopy_plugins.policy import GainPolicy, RLPolicy

        self.case = case
        self.times: dict[str, list[float]] = {"select": [], "feedback": [], "update": []}
        self._frames, self._outputs, self._now = frames, outputs, now
        self._updates: list[float] = []

        if case.policy == "GainPolicy":
            # Even: what it executes in each frame is what it is asked for, whatever it sees.
            self.policy = GainPolicy(target=args.target, per_frame=True)
        else:
            self.policy = RLPolicy(target=args.target, update_every=args.update_every, seed=0)
            self.policy.learner.update = self._timed(self.policy.learner.update)
        height, width = case.size
        shape = (1, -(-height // case.block_size), -(-width // case.block_size))
        self._grid = torch.zeros(shape, dtype=torch.bool)
        self._step = 0

    def _timed(self, update: Callable[[], Any]) -> Callable[[], Any]:
        def timed() -> Any:
            start = self._now()
            loss = update()
            self._updates.append(1e3 * (self._now() - start))
            return loss

        return timed

    def step(self, counted: bool) -> None:
        """Drive the policy over one frame."""
        import torch

        from blockcopy_plugins.policy import PolicyContext

        torch.set_num_threads(self.case.threads)
        frame = self._frames[self._step % len(self._frames)]
        output = self._outputs[self._step % len(self._outputs)]
        first = torch.tensor([self._step == 0])
        context = PolicyContext(
            ("stream",), tuple(self._grid.shape), self.case.block_size, first, (self._step,),
            self._grid, host_first=(self._step == 0,),
        )  # fmt: skip
        self._updates.clear()
        start = self._now()
        grid = self.policy.select(frame, context)
        chosen = self._now()
        self._grid = grid | first[:, None, None]
        context.take_executed(self._grid, self._grid)
        given = self._now()
        self.policy.feedback(frame, self._grid, [output], context)
        done = self._now()
        self._step += 1
        if counted:
            self.times["select"].append(1e3 * (chosen - start))
            self.times["feedback"].append(1e3 * (done - given) - sum(self._updates))
            self.times["update"] += self._updates


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each case."""
    import torch

    from .clock import Clock

    now = Clock(kind=args.clock).mark
    draw = torch.Generator().manual_seed(1)
    outputs = {
        (kind, size): make_outputs(kind, size, args.classes, args.stride, args.detections)
        for kind, size in itertools.product(args.outputs, args.sizes)
    }
    drives = []
    for size, dtype, layout in itertools.product(args.sizes, args.dtypes, args.layouts):
        form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        scene = torch.randn(1, 3, *size, generator=draw)
        frames = [
            (scene + 0.2 * torch.randn(1, 3, *size, generator=draw))
            .to(getattr(torch, dtype))
            .contiguous(memory_format=form)
            for _ in range(3)
        ]
        for block_size, kind, threads, policy in itertools.product(
            args.block_sizes, args.outputs, args.threads, args.policies
        ):
            case = Case(size, block_size, dtype, layout, kind, threads, policy)
            drives.append(Drive(case, frames, outputs[kind, size], args, now))
    total = args.warmup + args.frames
    with torch.inference_mode(), command.progress(total, "frames") as bar:
        for step in range(total):
            for drive in drives:
                drive.step(counted=step >= args.warmup)
            bar.update()
    return [
        cost_row(
            drive.case,
            **drive.times,
            update_every=args.update_every,
            macs=drive.policy.macs((1, 3, *drive.case.size), drive.case.block_size),
            dense_gmacs=args.dense_gmacs,
            dense_ms=args.dense_ms,
        )
        for drive in drives
    ]


def gain_cases(args: argparse.Namespace) -> list[gain_cost.Case]:
    """Detections whose gain is measured by itself."""
    kinds = [("boxes", n) for n in args.gain_boxes] + [("masks", n) for n in args.gain_masks]
    cases = []
    for size, (kind, count) in itertools.product(args.sizes, kinds):
        outputs = make_outputs(kind, size, args.classes, args.stride, count)
        for block_size, threads in itertools.product(args.block_sizes, args.threads):
            cases.append(gain_cost.Case(size, block_size, kind, count, threads, outputs))
    return cases


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Print the figures for people."""
    head = ["case", "threads", "select", "feedback", "update", "ms a frame", "GMACs"]
    shown = [("macs_share", "of dense MACs"), ("time_share", "of dense time")]
    shown = [(key, title) for key, title in shown if rows[0][key] is not None]
    lines = []
    for row in rows:
        height, width = row["size"]
        case = f"{height}x{width}, {row['block_size']} px, {row['dtype']} {row['layout']}"
        lines.append(
            [
                f"{row['policy']}, {case}, {row['output']}",
                str(row["threads"]),
                f"{row['select_ms']:.2f}",
                f"{row['feedback_ms']:.2f}",
                f"{row['update_ms'] / row['update_every']:.2f}",
                f"{row['frame_ms']:.2f}",
                f"{row['macs']['total'] / 1e9:.3f}",
                *(f"{row[key]:.2%}" for key, _ in shown),
            ]
        )
    command.print_columns([*head, *(title for _, title in shown)], lines)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command.new_parser("policy_cost", __doc__)
    parser.add_argument(
        "--sizes", type=command.sizes, default=[(1024, 2048)], metavar="HxW,...",
        help="of the frames in pixels (default 1024x2048)",
    )  # fmt: skip
    parser.add_argument(
        "--block-sizes", type=command.integers, default=[128], metavar="B,...",
        help="in pixels (default 128)",
    )  # fmt: skip
    parser.add_argument(
        "--dtypes", type=command.dtypes, default=["float32", "bfloat16"],
        help="of the frames; the policy itself computes in float32 (default float32,bfloat16)",
    )  # fmt: skip
    parser.add_argument(
        "--layouts", type=_choices(LAYOUTS), default=["channels_last"],
        help=f"of the frames: some of {','.join(LAYOUTS)} (default channels_last)",
    )  # fmt: skip
    parser.add_argument(
        "--policies", type=_choices(POLICIES), default=[POLICIES[0]],
        help=f"some of {','.join(POLICIES)} (default {POLICIES[0]})",
    )  # fmt: skip
    parser.add_argument(
        "--outputs", type=_choices(OUTPUTS), default=list(OUTPUTS),
        help=f"which information gain: some of {','.join(OUTPUTS)} (default all)",
    )  # fmt: skip
    parser.add_argument("--classes", type=int, default=19, help="of the logits (default 19)")
    parser.add_argument("--stride", type=int, default=8, help="of the logits (default 8)")
    parser.add_argument("--detections", type=int, default=100, help="in a frame (default 100)")
    parser.add_argument(
        "--gain-boxes", type=command.integers, default=[300, 1000, 3000], metavar="N,...",
        help="boxes whose gain is measured by itself (default 300,1000,3000)",
    )  # fmt: skip
    parser.add_argument(
        "--gain-masks", type=command.integers, default=[100], metavar="N,...",
        help="the same of masks (default 100)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=command.integers, default=[os.cpu_count() or 1], metavar="T,...",
        help="of torch (default: all cores)",
    )  # fmt: skip
    parser.add_argument("--target", type=float, default=0.25, help="executed rate (default 0.25)")
    parser.add_argument(
        "--update-every", type=int, default=4, help="frames to an update (default 4)"
    )
    parser.add_argument("--frames", type=int, default=40, help="counted (default 40)")
    parser.add_argument("--warmup", type=int, default=8, help="frames before (default 8)")
    parser.add_argument(
        "--dense-gmacs", type=float, help="of the dense network for one frame, in 10^9"
    )
    parser.add_argument("--dense-ms", type=float, help="of the dense network for one frame")
    command.add_clock(parser)
    parser.add_argument("--json", type=command.json_file, help="file to write")
    args = parser.parse_args(argv)
    if args.frames < args.update_every:
        parser.error(f"--frames {args.frames} is less than one update, --update-every")
    return args


def _choices(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        found = command.names(text)
        if not found or set(found) - set(known):
            raise argparse.ArgumentTypeError(f"{text!r} is not some of {','.join(known)}")
        return found

    return parse


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write.

    Returns:
        What goes into the JSON file.
    """
    args = parse_arguments(argv)
    allocator = command.prepare_process(args.clock)
    from .machine import describe

    results = {
        "benchmark": "policy_cost",
        "machine": describe(allocator),
        "settings": command.settings_of(args, "json"),
        "rows": measure(args),
        "gain": gain_cost.measure(gain_cases(args), args.warmup, args.frames, args.clock),
    }
    print_table(results["rows"])
    gain_cost.print_table(results["gain"])
    command.write_json(results, args.json)
    return results


if __name__ == "__main__":
    main()
