"""The learned policy: a small network trained online by REINFORCE while the video runs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from blockcopy_plugins.errors import ConfigError, FrameError, StateError
from blockcopy_plugins.host_transfer import upload
from blockcopy_plugins.policy.base import Policy, PolicyContext, check_frame, check_rate
from blockcopy_plugins.policy.fixed import make_generator
from blockcopy_plugins.policy.information_gain import (
    Geometry,
    InformationGain,
    build_information_gain,
    outputs_not_finite,
)
from blockcopy_plugins.policy.picture import (
    cells_per_block,
    grid_to_cells,
    picture_statistics,
    reduce_picture,
)
from blockcopy_plugins.policy.task_output import TaskOutputs

from .experience import Experience
from .learner import Learner
from .memory import Look, StreamMemory, Unproven
from .net import PolicyNet, policy_input
from .saved import VERSION, check_saved


class RLPolicy(Policy):
    """Learns online, without labels, which blocks are worth executing.

    A small CNN (:class:`.net.PolicyNet`) sees, on cells, the frame, the picture with which each
    block was last executed, their difference, a map of the last output and the last grid, and gives
    each block a probability; the grid is sampled from it. After the frame has run,

    * an executed block's reward is ``IG + gamma * (target - c) * |target - c|``, with IG its
      information gain and c the running mean of the executed rate;
    * a skipped block's reward is the negative of the same, with an IG of 0: it is not known what
      executing it would have brought;
    * the loss is ``-mean(log pi * reward)`` over the blocks, minimised by RMSprop, one step for
      every ``update_every`` batches, on all of them.

    Images that the engine executes fully whatever the policy says (the first of a stream, or one
    whose stream this policy does not know) are neither credited nor counted in c: the policy did
    not choose them. Blocks that were executed or skipped against the sampled grid are not credited
    either. c begins at the rate of the first frame that the policy chose.

    The cost term rewards the target, but does not enforce it: while skipped blocks would bring
    gain, the rate settles above it, where the two balance (a block of gain g is worth executing up
    to ``c = target + sqrt(g / (2 gamma))``). Where nothing moves, the rate is the target.

    One network serves all streams; each stream has its own memory of constant size, which
    :meth:`reset` drops. ``select`` only looks: called twice without a feedback in between, it gives
    the same grid. It works under ``no_grad``, ``inference_mode`` and autocast, and draws from its
    own generator.

    Args:
        target: Executed rate to hold, above 0 and below 1.
        gamma: Weight of the cost term.
        momentum: Momentum of the running mean c, at least 0 and below 1.
        lr: Learning rate of RMSprop.
        weight_decay: Weight decay of RMSprop.
        update_every: Batches between two updates.
        information_gain: ``'auto'`` (boxes and masks for :class:`Detections`, KL divergence for
            logits), ``'detection'``, ``'semantic'``, ``'features'``, ``dict(type=...)`` or an
            :class:`InformationGain`.
        online: Learn while running. False freezes the network; may be set at any time.
        sampling: ``'bernoulli'``, or ``'threshold'``: execute blocks that are more likely than not.
            The latter explores nothing, so it needs ``online=False``.
        seed: Seed of the weights and the sampling; None takes one from the operating system.
        net: Arguments of :class:`.net.PolicyNet` to change, such as ``dict(gain=8.0)``.

    Raises:
        ConfigError: If an argument is out of range.
    """

    needs_outputs = True

    def __init__(
        self,
        target: float = 0.3,
        gamma: float = 5.0,
        momentum: float = 0.9,
        lr: float = 1e-4,
        weight_decay: float = 1e-3,
        update_every: int = 4,
        information_gain: str | dict[str, Any] | InformationGain = "auto",
        online: bool = True,
        sampling: str = "bernoulli",
        seed: int | None = None,
        net: dict[str, Any] | None = None,
    ) -> None:
        self.target = check_rate("target", target)
        if self.target in (0.0, 1.0):
            raise ConfigError(
                f"target must be above 0 and below 1, found {target!r}; to execute nothing or "
                "everything use NonePolicy or AllPolicy"
            )
        self.momentum = check_rate("momentum", momentum)
        if self.momentum == 1.0:
            raise ConfigError("momentum must be below 1, or the running rate never moves")
        for name, value in (("gamma", gamma), ("lr", lr), ("weight_decay", weight_decay)):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value < math.inf:
                raise ConfigError(f"{name} must be a number of at least 0, found {value!r}")
        if isinstance(update_every, bool) or not isinstance(update_every, int) or update_every < 1:
            raise ConfigError(
                f"update_every must be an integer of at least 1 (batches), found {update_every!r}"
            )
        if sampling not in ("bernoulli", "threshold"):
            raise ConfigError(f"sampling must be 'bernoulli' or 'threshold', found {sampling!r}")
        if sampling == "threshold" and online:
            raise ConfigError(
                "sampling='threshold' explores nothing, so nothing can be learned from it; give "
                "online=False, or sampling='bernoulli'"
            )
        self.gamma, self.lr, self.weight_decay = float(gamma), float(lr), float(weight_decay)
        self.update_every = update_every
        self.information_gain = build_information_gain(information_gain)
        self.online = bool(online)
        self.sampling = sampling
        self.running_rate: float | None = None
        self._generator = make_generator(seed)
        # Parameters that are made under inference mode could never be trained.
        with torch.inference_mode(False):
            try:
                made = PolicyNet(rate=self.target, generator=self._generator, **(net or {}))
            except TypeError as error:
                raise ConfigError(f"net={net!r} does not fit PolicyNet: {error}") from error
            self.learner = Learner(made, self.lr, self.weight_decay)
        self._committed = self._generator.get_state()
        self._memories: dict[Hashable, StreamMemory] = {}
        self._look_made: Look | None = None
        self._unproven: Unproven | None = None

    @property
    def net(self) -> nn.Module:
        """The network that decides."""
        return self.learner.net

    @property
    def updates(self) -> int:
        """How often it has learned."""
        return self.learner.updates

    def select(self, frame: Tensor, context: PolicyContext) -> Tensor:
        """Sample a grid.

        On a GPU, the check that frame and weights are finite comes with the grid.

        Raises:
            FrameError: If the frame does not fit the context, or holds NaN or infinity.
            StateError: If the network's weights are no longer finite.
        """
        check_frame(frame, context)
        with torch.no_grad():
            look = self._look(frame, context)
        self._look_made = look
        if all(look.known):
            # A copy: the receiver may write to it.
            return look.sampled.clone()
        forced = torch.tensor([not known for known in look.known])
        return look.sampled | upload(forced, frame.device)[:, None, None]

    def scores(self, frame: Tensor, context: PolicyContext) -> Tensor | None:
        """Return the logits of the blocks' probabilities, float32 ``(N, GH, GW)``."""
        look = self._look_made
        return look.logits if look is not None and look.context is context else None

    def feedback(
        self, frame: Tensor, grid: Tensor, outputs: TaskOutputs, context: PolicyContext
    ) -> dict[str, float | Tensor]:
        """Compute the reward, keep what the next frame needs, and update when an update is due.

        Returns:
            ``executed_rate`` of the batch and ``running_rate``; once there is a frame that the
            policy chose, ``information_gain`` (mean over executed blocks), ``reward`` (mean over
            blocks) and ``cost`` (the cost term); after an update ``loss``. On a GPU gain, reward
            and loss are left there, 0-dim.

        Raises:
            FrameError: If the outputs are missing, do not fit the batch or are not finite. Nothing
                is committed. On a GPU, outputs that are not finite are found with the next frame:
                it is refused, and what was committed is taken back.
        """
        scalars = super().feedback(frame, grid, outputs, context)
        host, grid = context.host_grid(grid), grid.to(frame.device)
        if outputs is None and self.online:
            raise FrameError(
                "RLPolicy learns from the task's outputs, but got none; return them from the "
                "integration, or freeze the policy with online=False"
            )
        if outputs is not None and len(outputs) != frame.shape[0]:
            raise FrameError(
                f"one output for each of the {frame.shape[0]} image(s) is needed, found "
                f"{len(outputs)}"
            )
        look = self._look_made
        with torch.no_grad():
            if look is None or look.context is not context:
                check_frame(frame, context)
                look = self._look(frame, context)
            # Everything that can fail comes first; below it, everything is committed.
            geometry = Geometry(tuple(frame.shape[2:]), context.grid_shape[1:], context.block_size)
            summaries = [
                None if output is None else self.information_gain.summarise(output, geometry)
                for output in outputs or [None] * frame.shape[0]
            ]
            finite = self.information_gain.are_finite(outputs, frame.device)
            gain = self._gain(summaries, look, grid, geometry)
            if finite is not None:
                gain = torch.where(finite[:, None, None], gain, 0.0)
            maps = [
                None if summary is None else self.information_gain.output_map(summary, geometry)
                for summary in summaries
            ]
            before = {stream: self._memories.get(stream) for stream in context.streams}
            rate, state, learned = self.running_rate, self._committed, None
            self._remember(look, grid, summaries, maps)
            self._look_made = None
            self._committed = self._generator.get_state()
            if any(look.known):
                found, learned = self._learn(look, host, grid, gain, finite)
                scalars.update(found)
            if finite is not None:
                after = {stream: self._memories[stream] for stream in context.streams}
                self._unproven = Unproven(before, after, rate, state, learned)
                context.read(finite, partial(self._prove, self._unproven))
        if self.online and len(self.learner.gathered) >= self.update_every:
            scalars["loss"] = _figure(self.learner.update())
        if self.running_rate is not None:
            scalars["running_rate"] = self.running_rate
        return scalars

    def reset(self, streams: Iterable[Hashable] | None = None) -> None:
        """Forget the streams' last pictures and outputs; what was learned is kept.

        Frames gathered for the next update are kept too: a cut does not make them less useful.
        """
        self._look_made = None
        if streams is None:
            self._memories.clear()
            return
        for stream in streams:
            self._memories.pop(stream, None)

    def macs(self, frame_shape: Sequence[int], block_size: int) -> dict[str, int]:
        """Count the multiply-accumulates of a call, by running the network on zeros.

        Pooling the frame to cells multiplies nothing and is not counted.
        """
        images, _, height, width = frame_shape
        side = cells_per_block(block_size)
        cells = (-(-height // block_size) * side, -(-width // block_size) * side)
        forward, update = self.learner.macs(images, cells, side, self.online)
        return {"forward": forward, "update": update, "total": forward + update}

    def state_dict(self) -> dict[str, Any]:
        """Return a copy, on the CPU, of what was learned.

        Returns:
            ``version``, ``net``, ``optimizer`` (RMSprop's averages), ``running_rate``, ``updates``
            and ``generator``; and ``hyperparameters``, for information only. Frames gathered since
            the last update are not in it.
        """
        return {
            "version": VERSION,
            **self.learner.state_dict(),
            "running_rate": self.running_rate,
            "generator": self._committed.clone(),
            "hyperparameters": {
                "target": self.target,
                "gamma": self.gamma,
                "momentum": self.momentum,
                "lr": self.lr,
                "weight_decay": self.weight_decay,
                "update_every": self.update_every,
                "information_gain": type(self.information_gain).__name__,
                "gain": self.net.gain,
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what was learned. This policy keeps its own hyperparameters.

        Raises:
            ConfigError: If ``state`` was not saved by an RLPolicy with a network of this shape;
                the policy is then as before.
        """
        check_saved(state)
        self.learner.load_state_dict(state)
        self.running_rate = state["running_rate"]
        self._generator.set_state(state["generator"].cpu())
        self._committed = self._generator.get_state()
        self._look_made = self._unproven = None

    def _look(self, frame: Tensor, context: PolicyContext) -> Look:
        if self.learner.move(frame.device):
            self._memories.clear()
        picture = reduce_picture(frame, context.block_size, context.grid_shape)
        known, last_pictures, last_outputs = [], [], []
        for mine, stream, first in zip(picture, context.streams, context.host_first, strict=True):
            memory = self._memories.get(stream)
            known.append(not first and memory is not None and memory.picture.shape == mine.shape)
            last_pictures.append(memory.picture if known[-1] else mine)
            last_outputs.append(memory.output_map if known[-1] else torch.zeros_like(mine[0]))
        per_block = cells_per_block(context.block_size)
        last_grid = grid_to_cells(upload(context.last_grid, frame.device), per_block)
        cells = policy_input(
            picture,
            _stack(last_pictures),
            _stack(last_outputs).unsqueeze(1),
            last_grid,
            picture_statistics(picture),
        )
        logits, recalled = self.learner.decide(cells, per_block)
        self._generator.set_state(self._committed)
        draw = upload(torch.rand(logits.shape, generator=self._generator), frame.device)
        context.read(torch.isfinite(logits).all(), partial(self._check_logits, picture))
        probability = logits.sigmoid()
        limit = 0.5 if self.sampling == "threshold" else draw
        return Look(context, picture, tuple(known), cells, recalled, probability > limit, logits)

    def _check_logits(self, picture: Tensor, finite: Tensor) -> None:
        """Raise the error that says why logits are not finite."""
        if finite:
            return
        if not bool(torch.isfinite(picture).all()):
            raise FrameError("the frame holds NaN or infinity; look at what made it")
        raise StateError(
            "the policy network's weights are not finite any more; load a saved policy, and use a "
            f"lower learning rate than {self.lr}"
        )

    def _prove(self, unproven: Unproven, finite: Tensor) -> None:
        """Take a frame back if its outputs were not finite."""
        newest = unproven is self._unproven
        if newest:
            self._unproven = None
        streams = zip(unproven.before, finite.tolist(), strict=True)
        bad = [stream for stream, good in streams if not good]
        if not bad:
            return
        for stream, memory in unproven.before.items():
            if self._memories.get(stream) is not unproven.after[stream]:
                continue  # It was reset in between.
            if memory is None:
                del self._memories[stream]
            else:
                self._memories[stream] = memory
        gathered = self.learner.gathered
        self.learner.gathered = [item for item in gathered if item is not unproven.learned]
        if newest:
            self.running_rate, self._committed = unproven.running_rate, unproven.generator
        raise outputs_not_finite(bad)

    def _gain(self, summaries: list[Any], look: Look, grid: Tensor, geometry: Geometry) -> Tensor:
        gain = torch.zeros(look.context.grid_shape, device=grid.device)
        for image, stream in enumerate(look.context.streams):
            if look.known[image] and summaries[image] is not None:
                previous = self._memories[stream].summary
                if previous is not None:
                    change = self.information_gain.compare(previous, summaries[image], geometry)
                    gain[image] = upload(change, gain.device)
        # A change where nothing was executed was not caused there.
        return gain * grid

    def _remember(
        self, look: Look, grid: Tensor, summaries: list[Any], maps: list[Tensor | None]
    ) -> None:
        executed = grid_to_cells(grid.float(), cells_per_block(look.context.block_size))
        for image, stream in enumerate(look.context.streams):
            picture = look.picture[image]
            if look.known[image]:
                # Weights of 0 and 1 pick like where(), but several times as fast.
                picture = torch.lerp(self._memories[stream].picture, picture, executed[image])
            elif len(look.known) > 1:
                # A copy: a view would keep the whole batch.
                picture = picture.clone()
            output = maps[image]
            if output is None:
                output = torch.zeros(picture.shape[1:], device=picture.device)
            output = upload(output, picture.device)
            self._memories[stream] = StreamMemory(picture, output, summaries[image])

    def _learn(
        self, look: Look, host: Tensor, grid: Tensor, gain: Tensor, finite: Tensor | None
    ) -> tuple[dict[str, float | Tensor], Experience | None]:
        """Compute the reward of the images that the policy chose, and keep them for the update.

        Args:
            look: The frame's look.
            host: bool ``(N, GH, GW)``, the executed blocks, in host memory.
            grid: The same on the device.
            gain: float32 ``(N, GH, GW)``.
            finite: bool ``(N,)`` on the device: False where the gain is unusable.
        """
        cells, recalled, credited = look.cells, look.recalled, grid == look.sampled
        if finite is not None:
            credited &= finite[:, None, None]
        if not all(look.known):
            images = torch.tensor([image for image, known in enumerate(look.known) if known])
            host, chosen = host[images], upload(images, grid.device)
            grid, gain, credited = grid[chosen], gain[chosen], credited[chosen]
            cells, recalled = cells[chosen], recalled and recalled.chosen(chosen)
        executed = int(host.count_nonzero())
        rate = executed / host.numel()
        if self.running_rate is None:
            self.running_rate = rate
        else:
            self.running_rate = self.momentum * self.running_rate + (1 - self.momentum) * rate
        error = self.target - self.running_rate
        cost = self.gamma * error * abs(error)
        reward = gain + cost
        reward = torch.where(grid, reward, -reward)
        item = None
        if self.online:
            per_block = cells_per_block(look.context.block_size)
            # A copy: the grid belongs to the caller, who may write into it.
            item = Experience(cells, recalled, per_block, grid.clone(), credited, reward)
            self.learner.gathered.append(item)
        scalars = {
            "information_gain": _figure(gain.sum()) / max(executed, 1),
            "reward": _figure(reward.mean()),
            "cost": cost,
        }
        return scalars, item


def _figure(value: Tensor) -> float | Tensor:
    """Return a figure for logs: a number, or the tensor if the host would have to wait for it."""
    return float(value) if value.device.type == "cpu" else value


def _stack(maps: list[Tensor]) -> Tensor:
    """Stack maps; a single map is not copied."""
    return torch.stack(maps) if len(maps) > 1 else maps[0].unsqueeze(0)
