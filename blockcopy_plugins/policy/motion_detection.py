"""Motion detection on blocks, with confirmation and persistence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blockcopy_plugins.errors import ConfigError

from .base import PolicyContext, check_count, check_frame, check_rate
from .heuristic import block_difference
from .picture import cells_per_block, reduce_picture
from .threshold_policy import Look, ThresholdPolicy, remembered


class MotionDetectionPolicy(ThresholdPolicy):
    """Executes the blocks in which there is motion, defined as in the motion detectors of cameras.

    Each stream keeps a background, the running average of its pictures at the policies' reduced
    resolution (:mod:`.picture`). A block *differs* in a frame if its picture differs from the
    background by more than the threshold, by the measure of
    :func:`~blockcopy_plugins.policy.heuristic.block_difference`. It is in motion if it differs in
    ``confirm`` of the last ``window`` frames, this one included; it then runs, and for ``persist``
    frames more. If more than ``lightning`` of the blocks differ at once, a lamp was switched or the
    scene has changed: the whole frame runs, and is the background from then on. (With a moving
    camera this is every frame; motion detectors are not made for such video.)

    Args:
        threshold: In standard deviations of the frame (of 8-bit video, 0.05 is about 3 grey
            levels). Default, if ``target`` is not given either: 0.1.
        target: Executed rate to hold, above 0 and at most 1; instead of ``threshold``. See
            :class:`~blockcopy_plugins.policy.threshold_policy.ThresholdPolicy`.
        confirm: Frames in which a block must differ, 1 to ``window``. More of them ignore noise,
            and react later by that many frames less one. Default: 2.
        window: Number of last frames that count for ``confirm``, at least 1. Default: 3.
        persist: Frames for which a block goes on running after its motion, at least 0. Default: 5.
        learning_rate: Share of each new picture in the background, 0 to 1: an object that stands
            still becomes background after a few times ``1 / learning_rate`` frames. Default: 0.02.
        lightning: Share of a frame's blocks, 0 to 1; 1 switches this guard off. Default: 0.8.

    Raises:
        ConfigError: If both threshold and target are given, or an argument is out of range.
    """

    def __init__(
        self,
        threshold: float | None = None,
        target: float | None = None,
        confirm: int = 2,
        window: int = 3,
        persist: int = 5,
        learning_rate: float = 0.02,
        lightning: float = 0.8,
    ) -> None:
        super().__init__(threshold, target)
        self.window = check_count("window", window, 1, "frames")
        self.confirm = check_count("confirm", confirm, 1, "frames")
        if confirm > window:
            raise ConfigError(
                f"a block cannot differ in confirm={confirm} of the last window={window} frames; "
                "give confirm up to window"
            )
        self.persist = check_count("persist", persist, 0, "frames")
        self.learning_rate = check_rate("learning_rate", learning_rate)
        self.lightning = check_rate("lightning", lightning)

    def look(self, frame: Tensor, context: PolicyContext) -> Look:
        """Compare the picture with the background."""
        check_frame(frame, context)
        picture = reduce_picture(frame, context.block_size, context.grid_shape)
        kept, known = remembered(
            self.memory, context, lambda motion, _: motion.background.shape == picture.shape[1:]
        )
        nothing = _Motion(
            picture[0],  # not used: the background of a new stream is its own picture
            torch.zeros(
                (self.window - 1, *context.grid_shape[1:]), dtype=torch.bool, device=frame.device
            ),
            torch.zeros(context.grid_shape[1:], dtype=torch.int32, device=frame.device),
        )
        found = [nothing if motion is None else motion for motion in kept]
        seen = _Seen(
            picture=picture,
            background=torch.stack(
                [
                    p if motion is None else motion.background
                    for p, motion in zip(picture, kept, strict=True)
                ]
            ),
            differed=torch.stack([motion.differed for motion in found]),
            left=torch.stack([motion.left for motion in found]),
        )
        scores = block_difference(picture, seen.background, cells_per_block(context.block_size))
        return Look(context, scores, known, seen)

    def choose(self, look: Look, threshold: float | Tensor) -> Tensor:
        """Return the blocks in motion, and those that were until a few frames ago."""
        _, moves, all_differ = self._motion(look, threshold)
        return moves | (look.seen.left > 0) | all_differ

    def commit(self, look: Look, grid: Tensor, threshold: float | Tensor) -> None:
        """Advance the background and the counts of frames by a frame."""
        seen: _Seen = look.seen
        differs, moves, all_differ = self._motion(look, threshold)
        left = torch.where(moves, self.persist, (seen.left - 1).clamp_min(0))
        differed = torch.cat((seen.differed, differs[:, None]), 1)[:, 1:]
        background = torch.lerp(seen.background, seen.picture, self.learning_rate)
        # Nothing differs from a new background, and one that is not finite would never be left.
        renewed = all_differ[..., None] | ~background.isfinite()
        background = torch.where(renewed, seen.picture, background)
        left = torch.where(all_differ, 0, left)
        differed = differed & ~all_differ[..., None]
        for image, stream in enumerate(look.context.streams):
            # Copies, so that no stream keeps the memory of a whole batch.
            self.memory[stream] = _Motion(
                background[image].clone(), differed[image].clone(), left[image].clone()
            )

    def _motion(self, look: Look, threshold: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find the blocks that differ, those in motion, and the images in which nearly all differ.

        Returns:
            bool ``(N, GH, GW)``, the same, and bool ``(N, 1, 1)``.
        """
        differs = look.scores > threshold
        count = look.seen.differed.sum(1) + differs
        all_differ = differs.float().mean((1, 2), keepdim=True) > self.lightning
        return differs, count >= self.confirm, all_differ


@dataclass(frozen=True, eq=False)
class _Motion:
    """The data kept for a stream."""

    background: Tensor  # float32 (3, h, w)
    differed: Tensor  # bool (window - 1, GH, GW), the last frames, the latest last
    left: Tensor  # int32 (GH, GW), frames for which a block goes on running


@dataclass(frozen=True, eq=False)
class _Seen:
    """The picture of a batch, and the data kept for its streams."""

    picture: Tensor  # float32 (N, 3, h, w)
    background: Tensor  # float32 (N, 3, h, w)
    differed: Tensor  # bool (N, window - 1, GH, GW)
    left: Tensor  # int32 (N, GH, GW)
