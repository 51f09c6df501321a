"""One frame in which not all blocks run: what is known of its outputs, and what is delivered."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..policy import PolicyContext, TaskOutput, output_agreement
from ..policy.agreement import thinned
from ..propagation import Displacement, MapPart, MotionLook, MovingMap, Objects
from ..shared_copy import shared_copy
from .adapter import Call, ModelAdapter
from .frame.counts import FrameCounts
from .frame.host_grid import HostGrid
from .kept_outputs import Batch, Kept, Moving, as_moving, as_task, copied_task, own_task, part_of
from .propagation_memory import PropagationMemory
from .self_check import SelfCheck

# Outputs are kept for frames in which nothing runs, as long as one occurred within so many frames.
_FRAMES_WITHOUT = 100
# Where moving does not pay, it is tried again in one of so many stretches between whole frames.
_TRIED_AGAIN = 4
# So many whole frames are checked at first; then every one, or every fourth if a check takes
# longer than the motion may.
_CHECKED_AT_FIRST = 4


class PropagatedFrame:
    """One frame: what is known of it, and what is delivered.

    Args:
        memory: Memory of all streams of the model.
        adapter: Adapter of the model.
        call: The call.
        context: The policy's context of the call.
        seen: The motion estimate's view of the frame, ``None`` if nothing is moved.
        keeps: Whether to keep outputs in any case.
    """

    def __init__(
        self,
        memory: PropagationMemory,
        adapter: ModelAdapter,
        call: Call,
        context: PolicyContext,
        seen: MotionLook | None,
        keeps: bool,
    ) -> None:
        self._memory = memory
        self._adapter = adapter
        self._call = call
        self._context = context
        self._seen = seen
        self._keeps = keeps or seen is not None
        self._size = (int(call.frame.shape[2]), int(call.frame.shape[3]))
        self._kept = [
            None if first else memory.kept.get(stream)
            for stream, first in zip(context.streams, context.host_first, strict=True)
        ]
        self._moved: dict[tuple[int, str | None], Moving] = {}
        self._ways: dict[tuple[int, int], Displacement] = {}
        self._next: dict[Hashable, Kept] = {}
        self._ran = [True] * len(self._kept)
        self._found: list[tuple[int, float, float]] = []
        self._happened = dict.fromkeys(memory.counts, 0)
        self.repeated = False
        self.has_moved = False

    def __reduce__(self):
        # Policies keep contexts, but nothing of a past frame needs to be copied or pickled.
        return type(None), ()

    # -- what policies may ask ---------------------------------------------------------------------

    def displacement(self, image: int) -> Displacement | None:
        """See :meth:`~blockcopy_plugins.policy.propagated.Propagated.displacement`."""
        if self._seen is None:
            return None
        with self._memory.timed():
            return self._seen.displacement(image)

    def moved_output(self, image: int) -> TaskOutput | None:
        """See :meth:`~blockcopy_plugins.policy.propagated.Propagated.moved_output`."""
        kept = self._kept[image]
        if kept is None or kept.task is None or not self._pays(image):
            return None
        moving = self._advance(image, None, kept.task)
        return as_task(moving.delivered(True)) if moving.has_moved else None

    def output(self, image: int) -> TaskOutput | None:
        """See :meth:`~blockcopy_plugins.policy.propagated.Propagated.output`."""
        kept = self._kept[image]
        if kept is None or kept.task is None:
            return None
        if not self._pays(image):
            return as_task(kept.task.delivered(False))
        return as_task(self._advance(image, None, kept.task).delivered(True))

    # -- frames in which nothing runs --------------------------------------------------------------

    def can_repeat(self, blocks: HostGrid) -> bool:
        """Whether the frame need not go through the network, because none of its blocks runs.

        Args:
            blocks: The grid.
        """
        if blocks.executed or None in self._kept:
            return False
        batch = self._kept[0].batch
        return (
            batch.streams == self._context.streams
            and all(kept.batch is batch for kept in self._kept)
            and self._call.asks is not None
            and batch.asks == self._call.asks
        )

    def repeat(self) -> tuple[Any, FrameCounts, list[TaskOutput] | None]:
        """Return the last outputs again, moved or not.

        Returns:
            The outputs, the MACs of the frame, and the task outputs as the model returned them,
            ``None`` if there are none.
        """
        batch = self._kept[0].batch
        with self._memory.timed():
            images = []
            for image, kept in enumerate(self._kept):
                moves = self._tracks(image)
                parts = {
                    name: self._advance(image, name, part) if moves else part
                    for name, part in kept.parts.items()
                }
                task = kept.task
                if moves and task is not None:
                    task = self._advance(image, None, task)
                self._keep(image, replace(kept, parts=parts, task=task, age=kept.age + 1))
                images.append(self._deliver(image, parts))
                self._ran[image] = False
            out = batch.outputs.join(images, self._call)
        self.repeated = True
        self._happened["repeated"] += len(images)
        tasks = [None if kept.task is None else copied_task(kept.task) for kept in self._kept]
        return out, _of_nothing(batch.counts), None if None in tasks else tasks

    # -- frames that ran ---------------------------------------------------------------------------

    def task_outputs(self, out: Any, wanted: bool) -> list[TaskOutput] | None:
        """The frame's task outputs, if they are needed.

        Args:
            out: What the model returned.
            wanted: Whether the policy needs it.
        """
        if not wanted and self._seen is None:
            return None
        try:
            return self._adapter.task_outputs(out, self._call)
        except BaseException:
            self._drop()
            raise

    def chosen_outputs(
        self, tasks: Sequence[TaskOutput] | None, host: Tensor
    ) -> Sequence[TaskOutput] | None:
        """What would be delivered for a frame that runs once more, whole, to compare.

        Args:
            tasks: The task outputs of its first run.
            host: bool ``(N, GH, GW)`` in host memory, the blocks of that run.
        """
        if tasks is None or self._seen is None:
            return tasks
        found = list(tasks)
        for image, kept in enumerate(self._kept):
            if kept is None or kept.task is None or not self._pays(image):
                continue
            moved = self._advance(image, None, kept.task)
            fresh = part_of(tasks[image], self._size)
            if moved.fits(fresh):
                merged = moved.merged(fresh, host[image], self._context.block_size)
                found[image] = as_task(merged.delivered(True))
        return found

    def deliver(
        self, out: Any, tasks: Sequence[TaskOutput] | None, blocks: HostGrid, counts: FrameCounts
    ) -> Any:
        """Keep what the model returned, and move the parts that did not run.

        Args:
            out: What it returned.
            tasks: Its task outputs, or ``None``.
            blocks: The blocks that ran.
            counts: MACs of the frame.

        Returns:
            What to deliver: ``out``, or the same with moved parts.
        """
        try:
            with self._memory.timed():
                return self._delivered(out, tasks, blocks, counts)
        except BaseException:
            self._drop()
            raise

    def commit(self) -> None:
        """Make this frame the last one of its streams, now that it has run."""
        memory = self._memory
        if self._seen is not None:
            self._commit_motion()
        for image, stream in enumerate(self._context.streams):
            if stream in self._next:
                memory.kept[stream] = self._next[stream]
            elif stream in memory.kept:
                memory.kept.pop(stream, None)
            ago = 0 if not self._ran[image] else memory.without.get(stream)
            if ago is not None:
                memory.without[stream] = ago + 1
        for image, moved, copied in self._found:
            memory.checks.setdefault(self._context.streams[image], SelfCheck()).add(moved, copied)
            memory.agreements[0] += moved
            memory.agreements[1] += copied
            memory.counts["checks"] += 1
        self._happened["frames"] = self._context.host_first.count(False)
        for name, count in self._happened.items():
            memory.counts[name] += count
        memory.calls += 1

    def kept_maps(self) -> list[Tensor]:
        """The copies of maps among the frame's outputs that are kept for the next one."""
        moving = [part for kept in self._next.values() for part in kept.parts.values()]
        moving += [kept.task for kept in self._next.values()]
        return [part.copied for part in moving if isinstance(part, MovingMap)]

    def figures(self) -> dict[str, float]:
        """The frame's figures for logs; means over the batch."""
        if self._seen is None:
            return {}
        checks = [self._memory.checks.get(stream) for stream in self._context.streams]
        checks = [check for check in checks if check is not None and check.checks]
        found = {"moved": float(self.has_moved)}
        if checks:
            found["agreement_moved"] = sum(check.moved for check in checks) / len(checks)
            found["agreement_copied"] = sum(check.copied for check in checks) / len(checks)
        return found

    def note_whole(self, seconds: float) -> None:
        """Note the network's time for all blocks of the batch, which bounds the estimate's."""
        if self._seen is not None and self._call.frame.device.type == "cpu":
            self._memory.budget.note_whole(seconds / len(self._kept))

    # -- inside ------------------------------------------------------------------------------------

    def _commit_motion(self) -> None:
        motion, budget, seen = self._memory.motion, self._memory.budget, self._seen
        if seen.is_asked and self._call.frame.device.type == "cpu":
            budget.note_motion(seen.seconds / len(self._kept))
        whole = all(kept.age == 0 for kept in self._next.values())
        # Only where no content is being followed: pictures of different sizes cannot be compared.
        if budget.is_over and whole and motion.coarsen(self._size):
            budget.note_coarser()
            seen = motion.look(self._call.frame, self._context)
        motion.commit(seen, self._context)

    def _drop(self) -> None:
        """Drop what was kept, since something failed after the frame had run."""
        for stream in self._context.streams:
            self._memory.kept.pop(stream, None)

    def _delivered(self, out: Any, tasks: Any, blocks: HostGrid, counts: FrameCounts) -> Any:
        self._ran = list(blocks.runs)
        if not self._worth_keeping():
            return out
        taken = self._adapter.take_apart(out, self._call)
        if taken is None:
            self._memory.obstacle = (
                f"the model returns {type(out).__name__} with something in it that is neither a "
                "tensor nor a number; give blockcopy_ an adapter with take_apart"
            )
            return out
        batch = Batch(taken, self._context.streams, self._call.asks, counts)
        for image, given in enumerate(taken.images):
            self._take(image, batch, given, None if tasks is None else tasks[image], blocks)
        taken.forget_outputs()
        moves = [
            self._pays(image) and any(part.has_moved for part in self._parts(image).values())
            for image in range(len(blocks.grid))
        ]
        if not any(moves):
            return out
        images = [self._deliver(image, self._parts(image)) for image in range(len(blocks.grid))]
        return taken.join(images, self._call)

    def _worth_keeping(self) -> bool:
        if self._keeps:
            return True
        without = self._memory.without
        ago = [without.get(stream, _FRAMES_WITHOUT) for stream in self._context.streams]
        return not all(self._ran) or min(ago) < _FRAMES_WITHOUT

    def _pays(self, image: int) -> bool:
        check = self._memory.checks.get(self._context.streams[image])
        return self._seen is not None and (check is None or check.pays)

    def _tracks(self, image: int) -> bool:
        """Whether to follow the motion: if it pays, and now and then if it did not."""
        if self._seen is None:
            return False
        kept = self._kept[image]
        return self._pays(image) or kept is None or kept.wholes % _TRIED_AGAIN == 0

    def _is_checked(self, image: int) -> bool:
        """Whether a whole frame is compared with what was moved."""
        check = self._memory.checks.get(self._context.streams[image])
        known = check is not None and check.checks >= _CHECKED_AT_FIRST
        rarely = known and self._memory.check_seconds > self._memory.budget.limit
        turn = not rarely or self._kept[image].wholes % _TRIED_AGAIN == 0
        return self._tracks(image) and turn

    def _advance(self, image: int, name: str | None, part: Moving) -> Moving:
        key = (image, name)
        if key not in self._moved:
            found = self._seen.displacement(image)
            if found is None:
                found = Displacement.unknown(self._size)
            since = getattr(part, "since", None)
            if since is not None and (since.cell != found.cell or since.size != found.size):
                # The cells differ from those before, so it is no longer known where things were.
                found = Displacement.unknown(since.size, since.cell)
            if isinstance(part, MovingMap):
                # Parts of one image have mostly moved in the same way.
                way = (image, id(since))
                if way not in self._ways:
                    self._ways[way] = found.since(since)
                self._moved[key] = replace(part, since=self._ways[way])
            else:
                self._moved[key] = part.moved_by(found)
        return self._moved[key]

    def _parts(self, image: int) -> dict[str, Moving]:
        return self._next[self._context.streams[image]].parts

    def _keep(self, image: int, kept: Kept) -> None:
        self._next[self._context.streams[image]] = kept
        if self._seen is not None and kept.age and self._tracks(image):
            self._happened["unknown"] += self._seen.displacement(image) is None

    def _deliver(self, image: int, parts: dict[str, Moving]) -> dict[str, MapPart | Objects]:
        moved = self._pays(image) and any(part.has_moved for part in parts.values())
        self._happened["moved"] += moved
        self.has_moved |= moved
        return {name: part.delivered(moved) for name, part in parts.items()}

    def _take(self, image: int, batch: Batch, given: Any, task: Any, blocks: HostGrid) -> None:
        """Note the outputs of an image that the model has just returned."""
        kept, executed = self._kept[image], blocks.grid[image]
        size = self._context.block_size
        fresh = {name: part.copy() for name, part in given.items()}
        own = None if task is None or self._seen is None else own_task(task, given, fresh)
        own = part_of(own, self._size) if own is not None else self._policies_task(task)
        whole = blocks.full[image]
        if kept is not None and whole and kept.age and self._is_checked(image):
            self._check(image, kept, own)
        comparable = (
            kept is not None
            and kept.parts.keys() == fresh.keys()
            and all(kept.parts[name].fits(part) for name, part in fresh.items())
            and (kept.task is None) == (own is None)
            and (own is None or kept.task.fits(own))
        )
        if whole or not comparable or not self._tracks(image):
            wholes = 1 if kept is None else kept.wholes + whole
            age = 0 if whole or kept is None else kept.age + 1
            parts = {name: as_moving(part) for name, part in fresh.items()}
            self._keep(image, Kept(batch, parts, as_moving(own), age, wholes))
            return
        parts = {
            name: self._advance(image, name, kept.parts[name]).merged(part, executed, size)
            for name, part in fresh.items()
        }
        if own is not None:
            own = self._advance(image, None, kept.task).merged(own, executed, size)
        self._keep(image, Kept(batch, parts, own, kept.age + 1, kept.wholes))

    def _policies_task(self, task: Any) -> MapPart | Objects | None:
        if task is None:
            return None
        return part_of(shared_copy(task) if isinstance(task, Tensor) else task, self._size)

    def _check(self, image: int, kept: Kept, fresh: MapPart | Objects | None) -> None:
        """Compare what would have been delivered with the whole frame."""
        if fresh is None or kept.task is None or not kept.task.fits(fresh):
            return
        start = time.thread_time()
        moving = self._advance(image, None, kept.task)
        if not moving.has_moved:
            # From unknown motion, or none, there is nothing to learn.
            return
        if isinstance(moving, MovingMap):
            moving = moving.thinned()
        wanted = thinned(as_task(fresh))
        # A single channel need not be a logit.
        labels = not (isinstance(wanted, Tensor) and wanted.shape[0] == 1)
        moved, copied = (
            float(output_agreement(found, wanted, labels))
            for found in (as_task(moving.delivered(True)), copied_task(moving))
        )
        self._found.append((image, moved, copied))
        self._memory.check_seconds = time.thread_time() - start


def _of_nothing(counts: FrameCounts) -> FrameCounts:
    """MACs of a frame that did not run, with those of the dense frame."""
    return FrameCounts(
        blocks_dense=counts.blocks_dense + counts.densified,
        tiles=counts.tiles,
        modules={path: [0, dense] for path, (_, dense) in counts.by_module().items()},
    )
