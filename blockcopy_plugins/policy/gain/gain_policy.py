"""The default policy: predicts each block's information gain, and executes the best ones."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from blockcopy_plugins.errors import FrameError
from blockcopy_plugins.host_transfer import upload
from blockcopy_plugins.ops.merge_picture import merge_picture
from blockcopy_plugins.ops.pick_blocks import pick_blocks
from blockcopy_plugins.policy.agreement_estimate import AgreementEstimate
from blockcopy_plugins.policy.base import Policy, PolicyContext, check_frame
from blockcopy_plugins.policy.budget import Budget, budget_of
from blockcopy_plugins.policy.information_gain import (
    Geometry,
    InformationGain,
    OutputChange,
    build_information_gain,
)
from blockcopy_plugins.policy.picture import cells_per_block
from blockcopy_plugins.policy.task_output import Detections, TaskOutputs

from .allotment import Allotment, next_share
from .features import NAMES, prior
from .look import Look, look_at
from .losses import measure_losses
from .memory import AGE, StreamMemory, waited
from .moved_summary import summary_before
from .ordinary_tensors import ordinary_tensors
from .proof import OutputProof
from .ridge import OnlineRidge
from .saved import VERSION, check_saved
from .seen_outputs import SeenOutputs
from .settlement import agreements_of, settle, spent_blocks

# Share of the executed blocks that are picked for having waited longest rather than for their
# worth. So none is forgotten, and blocks that wrongly look worthless are noticed.
_OLDEST = 0.05
_GOLDEN = 0.618
# Samples that the prior is worth, and after which the weight of one has decayed to 1/e.
_PRIOR_STRENGTH = 20.0
_MEMORY = 32_000.0


class GainPolicy(Policy):
    """Predicts what executing each block would bring, and executes the blocks that bring most.

    Wherever a block is executed, its information gain is *seen*. A ridge regression around a prior
    (:class:`.ridge.OnlineRidge`) predicts ``log(gain)`` of every block from: how much its picture
    differs from the one it was last executed on, the last gain of the block and its neighbours, how
    long ago that was, what the output shows there, and how stale the surroundings were that it read
    (:mod:`.features`). It is solved again after each frame, so it has no learning rate and needs no
    warm-up: before any learning, the prediction is the picture difference.

    A block's score is half its own predicted gain and half that of the blocks around it.
    :mod:`.allotment` decides how many blocks run, and whether they run now or together with others
    later. If gain is spread over the whole picture (a moving camera), whole frames run and nothing
    in between, or the best blocks of each frame, whichever loses less (:mod:`.blocks_or_whole`).
    If it is concentrated, all blocks run that are worth a price (:mod:`.price`). A twentieth of the
    blocks are those that have waited longest.

    The rate is a budget, so it is exact: the mean over any 100 frames is within 2 points of the
    target. All streams share it: the share of each follows how many of the best blocks of all
    streams belong to it. A stream's first frame is executed fully and not counted.

    One regression serves all streams; each has a memory of constant size, which :meth:`reset`
    drops. It needs no labels; if the integration gives no outputs, it uses the picture alone.
    ``select`` only looks: called twice without a feedback in between, it gives the same grid.

    Args:
        target: Executed rate to hold (executed blocks / all blocks), above 0 and at most 1.
            Default, if no other budget is given: 0.3.
        target_ms: Mean milliseconds of a frame to hold, instead; see
            :class:`~blockcopy_plugins.policy.budget.TimeBudget`.
        target_fps: Mean frames per second to hold, instead.
        target_fidelity: Mean agreement with the dense output to hold, instead; see
            :class:`~blockcopy_plugins.policy.budget.FidelityBudget`.
        budget: A :class:`~blockcopy_plugins.policy.budget.Budget`, instead of a target.
        per_frame: Neither save up nor borrow: each frame executes ``target`` of its blocks. The
            latency is even; it costs accuracy, the more so the more the camera moves.
        information_gain: ``'auto'`` (boxes and masks for :class:`Detections`, KL divergence for
            logits), ``'detection'``, ``'semantic'``, ``'features'``, ``dict(type=...)`` or an
            :class:`InformationGain`.
        online: Learn while running. False freezes the regression; may be set at any time.

    Raises:
        ConfigError: If an argument is out of range, or there is more than one target or budget.
    """

    needs_outputs = True
    on_host = True

    def __init__(
        self,
        target: float | None = None,
        target_ms: float | None = None,
        target_fps: float | None = None,
        target_fidelity: float | None = None,
        budget: Budget | None = None,
        per_frame: bool = False,
        information_gain: str | dict[str, Any] | InformationGain = "auto",
        online: bool = True,
    ) -> None:
        self.budget = budget_of(target, target_ms, target_fps, target_fidelity, budget)
        self.per_frame = bool(per_frame)
        self.information_gain = build_information_gain(information_gain)
        self.online = bool(online)
        self.frames = 0
        with ordinary_tensors():
            self._ridge = OnlineRidge(prior(), _PRIOR_STRENGTH, _MEMORY)
        self._memories: dict[Hashable, StreamMemory] = {}
        self._look_made: Look | None = None
        self._started = 0.0

    @property
    def enforces_target(self) -> bool:
        """Whether the executed rate is a promise: guards that need more are refused."""
        return self.budget.enforces_rate

    @property
    def target(self) -> float:
        """The executed rate that the budget aims at now."""
        return self.budget.rate

    @property
    def agreement(self) -> AgreementEstimate | None:
        """See :attr:`Policy.agreement`; available if the budget is one of fidelity."""
        return self.budget.agreement

    def select(self, frame: Tensor, context: PolicyContext) -> Tensor:
        """Pick the best blocks that the budget pays for.

        Raises:
            FrameError: If the frame does not fit the context, or the part of it that is read (for
                blocks of 128 px and more not every row) holds NaN or infinity.
        """
        self._started = time.perf_counter() if context.began is None else context.began
        self._look_made = None
        with ordinary_tensors():
            known = self._known(frame, context)
            allotment = self._allot(context, known)
            if _waits(known, allotment):
                # Frames in which a stream saves up cost next to nothing.
                check_frame(frame, context)
                return _demanded(torch.zeros(context.grid_shape, dtype=torch.bool), context)
            look = self._look(frame, context, known, allotment)
            grid = self._pick(look)
        self._look_made = look
        return grid

    def scores(self, frame: Tensor, context: PolicyContext) -> Tensor | None:
        """Return predicted gains averaged with those around, float32 ``(N, GH, GW)``."""
        look = self._look_made
        return look.found.scores if look is not None and look.context is context else None

    def compares(self, grid: Tensor, context: PolicyContext) -> Sequence[bool] | None:
        """As the budget decides; else, now and then, when blocks are tried against whole frames."""
        wanted = self.budget.compares(grid, context)
        look = self._look_made
        may = wanted is None and self.budget.agreement is None and context.can_compare
        if not may or look is None or look.context is not context:
            return wanted
        return look.allotment.compared([memory and memory.trial for memory in look.known], grid)

    def feedback(
        self, frame: Tensor, grid: Tensor, outputs: TaskOutputs, context: PolicyContext
    ) -> dict[str, float]:
        """See what the executed blocks brought, learn from it, and settle the budget.

        Returns:
            ``executed_rate`` of the batch, the mean ``spread`` of the images (:mod:`.spread`), and
            the budget's own figures (``balance`` in blocks, ``agreement``).

        Raises:
            FrameError: If the outputs do not fit the batch, or are not finite. Nothing is
                committed. (For outputs on a device, the next frame finds this and is refused.)
        """
        if outputs is not None and len(outputs) != frame.shape[0]:
            raise FrameError(
                f"one output for each of the {frame.shape[0]} image(s) is needed, found "
                f"{len(outputs)}"
            )
        with ordinary_tensors():
            host = context.host_grid(grid)
            executed = host.sum((1, 2)).tolist()
            look = self._look_made
            if look is None or look.context is not context:
                known = self._known(frame, context)
                allotment = self._allot(context, known)
                if not any(executed) and _waits(known, allotment):
                    return self._wait(context, known, allotment, host)
                look = self._look(frame, context, known, allotment)
            # Everything that can fail comes first; below it, everything is committed.
            geometry = Geometry(tuple(frame.shape[2:]), context.grid_shape[1:], context.block_size)
            changes = self._changes(look, outputs, geometry, host, executed)
            finite = self.information_gain.are_finite(outputs, frame.device)
            agreements = agreements_of(context, outputs, self.budget, self.information_gain)
            what = self._memories, context.streams, self._ridge
            proof = None if finite is None else OutputProof(*what)
            self._look_made = None
            spent = spent_blocks(context, host, look.allotment.accounts, self.budget)
            here = host if context.device.type == "cpu" else grid.to(context.device)
            committed = self._remember(look, here, changes, outputs is not None, spent)
            if proof is not None:
                proof.committed()
                # Before the learning, which is skipped for a frame that is taken back.
                context.read(finite, proof)
            ridge = self._ridge if self.online else None
            SeenOutputs(look, here, executed, changes, committed, self._memories, ridge).see()
            measure_losses(look, outputs, host, agreements, self.information_gain)
            scalars = self._settle(context, host, agreements, spent)
            gains = [
                (change.gain * upload(its, change.gain.device)).sum()
                for change, its in zip(changes, host, strict=True)
                if change is not None and change.gain is not None
            ]
            if gains and not any(context.host_first):
                gain = torch.stack(gains).sum() / max(sum(executed), 1)
                scalars["information_gain"] = gain.item() if gain.device.type == "cpu" else gain
            return scalars

    def reset(self, streams: Iterable[Hashable] | None = None) -> None:
        """Forget the streams' pictures, outputs and accounts; what was learned is kept."""
        self._look_made = None
        for stream in list(self._memories) if streams is None else streams:
            self._memories.pop(stream, None)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy, on the CPU, of what was learned.

        Returns:
            ``version``, ``features`` (their names), ``products`` and ``targets`` (the regression's
            sums), ``frames`` seen, and ``budget``.
        """
        with ordinary_tensors():
            return {
                "version": VERSION,
                "features": list(NAMES),
                "products": self._ridge.products.to("cpu", copy=True),
                "targets": self._ridge.targets.to("cpu", copy=True),
                "frames": self.frames,
                "budget": self.budget.state_dict(),
            }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what was learned. This policy keeps its own target.

        Raises:
            ConfigError: If ``state`` was not saved by a GainPolicy of this version; the policy is
                then as before.
        """
        check_saved(state)
        self.budget.load_state_dict(state["budget"])
        with ordinary_tensors():
            self._ridge.products = state["products"].to(self._ridge.prior, copy=True)
            self._ridge.targets = state["targets"].to(self._ridge.prior, copy=True)
            self._ridge.solve()
        self.frames = state["frames"]
        self._look_made = None

    def macs(self, frame_shape: Sequence[int], block_size: int) -> dict[str, int]:
        """Count the multiply-accumulates of a call: the regression's; sums and maxima have none.

        The update is that of a fully executed frame, the largest possible.
        """
        images, _, height, width = frame_shape
        blocks = images * -(-height // block_size) * -(-width // block_size)
        count = len(NAMES)
        forward = blocks * count
        update = blocks * count * (count + 2) + count**3 // 3 if self.online else 0
        return {"forward": forward, "update": update, "total": forward + update}

    def _known(self, frame: Tensor, context: PolicyContext) -> list[StreamMemory | None]:
        """Return the memory of each image's stream; None where the image is executed fully."""
        cells = cells_per_block(context.block_size)
        shape = (3, *(side * cells for side in context.grid_shape[1:]))
        known = []
        for stream, first in zip(context.streams, context.host_first, strict=True):
            memory = None if first else self._memories.get(stream)
            fits = memory is not None and memory.fits(shape, context.device)
            known.append(memory if fits else None)
        return known

    def _look(
        self,
        frame: Tensor,
        context: PolicyContext,
        known: list[StreamMemory | None],
        allotment: Allotment,
    ) -> Look:
        self._ridge.to(context.device)
        rate = self.budget.rate
        return look_at(frame, context, known, allotment, self._memories, self._ridge, rate)

    def _allot(self, context: PolicyContext, known: list[StreamMemory | None]) -> Allotment:
        return Allotment(
            known,
            total=len(self._memories),
            saved=sum(memory.account for memory in self._memories.values()),
            blocks=math.prod(context.grid_shape[1:]),
            rate=self.budget.rate,
            allowance=self.budget.allowance(context),
            capacity=self.budget.capacity(context),
            per_frame=self.per_frame,
        )

    def _pick(self, look: Look) -> Tensor:
        context = look.context
        blocks = math.prod(context.grid_shape[1:])
        counts, oldest = [], []
        for memory, count in zip(look.known, look.allotment.counts, strict=True):
            # If that is a fraction of a block, one is taken now and then.
            old = 0 if memory is None else int(_OLDEST * count + memory.frames * _GOLDEN % 1)
            counts.append(blocks if memory is None else count)
            oldest.append(min(old, count))
        grid = pick_blocks(
            look.found.scores,
            look.maps[:, AGE],
            context.forbidden,
            context.required,
            counts,
            oldest,
        )
        return _demanded(grid, context)

    def _changes(
        self,
        look: Look,
        outputs: TaskOutputs,
        geometry: Geometry,
        grid: Tensor,
        executed: list[int],
    ) -> list[OutputChange | None]:
        """Return the change of each image's output; None if nothing ran, or there is no output."""
        if outputs is None:
            return [None] * len(executed)
        changes: list[OutputChange | None] = []
        for image, (memory, output) in enumerate(zip(look.known, outputs, strict=True)):
            before = None if memory is None else memory.summary
            if before is not None and executed[image] and isinstance(output, Detections):
                shown = self.information_gain, look.context.propagated
                before = summary_before(*shown, before, image, grid[image], geometry)
            if not executed[image] and before is not None:
                changes.append(None)
            else:
                change = self.information_gain.change(before, output, grid[image], geometry)
                changes.append(change)
        return changes

    def _remember(
        self,
        look: Look,
        grid: Tensor,
        changes: list[OutputChange | None],
        given: bool,
        spent: list[int],
    ) -> list[StreamMemory]:
        """Commit a frame, except for what its outputs show; return its streams' memories."""
        context = look.context
        cells = cells_per_block(context.block_size)
        accounts = look.allotment.accounts
        alone = len(spent) == 1
        committed = []
        for image, (stream, before) in enumerate(zip(context.streams, look.known, strict=True)):
            change = changes[image]
            summary = before.summary if before is not None and given else None
            memory = StreamMemory(
                look.picture[image],
                look.maps[image],
                summary if change is None else change.keep(),
            )
            if before is not None:
                memory.picture = merge_picture(before.picture, memory.picture, grid[image], cells)
                memory.account = self._left(accounts[image] - spent[image], context)
                memory.share, memory.spread = before.share, before.spread
                memory.price = look.allotment.prices[image]
                memory.skipped, memory.trial = look.allotment.skipped[image], before.trial
                # A device reports too late on a frame that was not looked at before it ran.
                if look.share:
                    memory.share = next_share(before.share, look.share[image])
                    memory.spread = before.spread.after(look.spread[image], look.total[image])
                # A copy of the batch's part: a view would keep the whole batch in memory.
                worth = look.found.worth[image]
                memory.worth = worth if alone else worth.clone()
                memory.frames = before.frames + 1
            elif not alone:
                memory.picture = memory.picture.clone()
            self._memories[stream] = memory
            committed.append(memory)
        return committed

    def _wait(
        self,
        context: PolicyContext,
        known: list[StreamMemory | None],
        allotment: Allotment,
        host: Tensor,
    ) -> dict[str, float]:
        """Commit a frame in which all streams saved up and nothing ran."""
        for stream, memory, account in zip(context.streams, known, allotment.accounts, strict=True):
            maps = waited(memory.maps)
            account = self._left(account, context)
            frames = memory.frames + 1
            memory.trial.passed()
            self._memories[stream] = replace(memory, maps=maps, account=account, frames=frames)
        return self._settle(context, host, {}, [0] * len(known))

    def _settle(
        self,
        context: PolicyContext,
        host: Tensor,
        agreements: dict[int, Tensor],
        spent: list[int],
    ) -> dict[str, float]:
        """Settle the budget, and return the scalars."""
        self.frames += 1
        seconds = time.perf_counter() - self._started
        scalars = settle(self.budget, context, host, agreements, spent, seconds)
        spreads = [self._memories[stream].spread.value for stream in context.streams]
        return scalars | {"spread": sum(spreads) / len(spreads)}

    def _left(self, account: float, context: PolicyContext) -> float:
        """Return what stays in an account: at most the savings or debts of a whole frame."""
        blocks = float(math.prod(context.grid_shape[1:]))
        return min(max(account, -blocks), blocks)


def _waits(known: list[StreamMemory | None], allotment: Allotment) -> bool:
    """Return whether all images' streams save up in this frame; it then need not be looked at."""
    measured = all(memory is not None and memory.spread.measured for memory in known)
    return measured and allotment.waits


def _demanded(grid: Tensor, context: PolicyContext) -> Tensor:
    """Return a grid to which the guards' demands are added."""
    required, forbidden = context.required, context.forbidden
    if required is not None:
        grid = upload(grid, required.device) | required
    return grid if forbidden is None else upload(grid, forbidden.device) & ~forbidden
