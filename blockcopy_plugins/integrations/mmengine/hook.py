"""The hook that makes the model of a Runner block-sparse while it is tested or validated."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ...api import blockcopy_
from ...config import BlockCopyConfig, default_policy
from ...engine.convert import Handle, handle, restore_
from ...engine.propagation import Propagation
from ...errors import ConfigError
from ...policy import build_policy
from ...policy.guards import build_guards
from ...policy.policy_file import load_policy
from ...registry import HOOKS
from ..frame_figures import FrameFigures
from ..sample_motion import motion_of
from ..stream_ids import StreamIds
from .backbone import BlockCopyBackbone


@HOOKS.register_module()
class BlockCopyHook(Hook):
    """Converts the model before a test or validation loop and restores it after.

    By then the weights are loaded, so checkpoints need no other keys. Streams are the videos of the
    data samples' ``video_id``; they are reset where a video starts. A model whose backbone is a
    :class:`BlockCopyBackbone` is not converted again: the hook then names the streams for it.

    Args:
        block_size: Side of a block in pixels of the network input, or ``'auto'``.
        policy: What picks the blocks, see :class:`~blockcopy_plugins.BlockCopyConfig`. One policy
            serves all loops of a run, so what it learned while validating is kept.
        policy_checkpoint: File of a trained policy to start from.
        strict: Raise where an op cannot run on blocks, instead of running it on the whole map.
        check_finite: Refuse frames with NaN or infinity.
        interleaved: Frames of several videos take turns in consecutive batches. By default a video
            that is not in a batch is taken to be over and its state is given back.
        one_video: Images whose data samples have no ``video_id`` are the frames of one video, image
            i of each batch of stream i. By default they are taken for pictures that have nothing to
            do with each other: each is executed fully, and a warning says so once.
        guards: What holds whatever the policy picks, see
            :class:`~blockcopy_plugins.BlockCopyConfig`.
        **options: Others of :class:`~blockcopy_plugins.BlockCopyConfig`: ``winograd=False``,
            ``propagate='auto'``, say.

    Raises:
        ConfigError: If an option is out of range or the policy file does not fit.

    Examples:
        >>> custom_hooks = [dict(type='blockcopy_plugins.BlockCopyHook', block_size=128,
        ...                      policy=dict(type='GainPolicy', target=0.3),
        ...                      guards=[dict(type='MaxAge', frames=60)])]
    """

    priority = "NORMAL"

    def __init__(
        self,
        block_size: int | str = 128,
        policy: Any = None,
        policy_checkpoint: str | Path | None = None,
        strict: bool = False,
        check_finite: bool = True,
        interleaved: bool = False,
        one_video: bool = False,
        guards: Sequence[Any] = (),
        **options: Any,
    ) -> None:
        known = {item.name for item in fields(BlockCopyConfig)}
        unknown = sorted(set(options) - known)
        if unknown:
            raise ConfigError(
                f"BlockCopyHook has no option {', '.join(unknown)}; besides its own there are "
                f"those of BlockCopyConfig: {', '.join(sorted(known))}."
            )
        policy = default_policy() if policy is None else policy
        self.policy = build_policy(policy)
        if policy_checkpoint is not None:
            load_policy(self.policy, policy_checkpoint)
        self.config = BlockCopyConfig(
            block_size=block_size,
            policy=self.policy,
            # Copied for each conversion, as memory of streams is of one model.
            guards=build_guards(guards).guards,
            strict=strict,
            check_finite=check_finite,
            **options,
        )
        # A wrong motion is found now, and not once the weights are loaded.
        Propagation.of(self.config)
        self.interleaved = interleaved
        self.one_video = one_video
        self._warned = False
        self._figures = FrameFigures()
        self._handle: Handle | None = None
        self._by_hand = False
        self._names_streams: StreamIds | None = None

    @property
    def handle(self) -> Handle:
        """Handle of the converted model.

        Raises:
            ConfigError: If no loop is at work.
        """
        if self._handle is None:
            raise ConfigError(
                "BlockCopyHook has no converted model: no test or validation is at work."
            )
        return self._handle

    def begin(self, runner: Runner) -> None:
        """Convert the model, for loops that are neither test nor validation.

        Args:
            runner: The runner, its weights loaded.
        """
        self._begin(runner)
        self._by_hand = True

    def end(self, runner: Runner) -> None:
        """Log the report and restore the model after :meth:`begin`.

        Args:
            runner: The runner.
        """
        self._end(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Drop streams of videos that are over; nothing where the model itself is trained."""
        if self._handle is not None:
            self._name_streams(data_batch)

    def before_test(self, runner: Runner) -> None:
        """Convert the model."""
        self._begin(runner)

    def before_val(self, runner: Runner) -> None:
        """Convert the model."""
        self._begin(runner)

    def after_test(self, runner: Runner) -> None:
        """Log the report and restore the model."""
        self._end(runner)

    def after_val(self, runner: Runner) -> None:
        """Log the report and restore the model."""
        self._end(runner)

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Drop streams of videos that are over.

        Raises:
            ConfigError: If the model runs test-time augmentation.
        """
        # MMEngine's PrepareTTAHook may wrap the model before this hook's turn or after it.
        if isinstance(unwrap(runner.model), BaseTTAModel):
            raise ConfigError(
                f"the model is a {type(unwrap(runner.model)).__name__}: test-time augmentation "
                "runs an image several times, flipped and resized, which would be taken for the "
                "frames of a video. Test without it (no --tta, no PrepareTTAHook)."
            )
        self._name_streams(data_batch)

    def before_val_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Drop streams of videos that are over."""
        self._name_streams(data_batch)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Pass the frame's figures on to the log, on a GPU with the next frame."""
        self._log_scalars(runner, "test")

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Pass on to the log what is left."""
        self._log_scalars(runner, "test", last=True)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Pass on to the log what is left."""
        self._log_scalars(runner, "val", last=True)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Pass the frame's figures on to the log, on a GPU with the next frame."""
        self._log_scalars(runner, "val")

    def _begin(self, runner: Runner) -> None:
        if self._handle is not None and not self._by_hand:
            # The last loop failed and never came to its end.
            self._release()
        model = unwrap(runner.model)
        wrapped = [m for m in nn.Module.modules(model) if isinstance(m, BlockCopyBackbone)]
        if wrapped:
            if self.config.propagate != "copy":
                raise ConfigError(
                    f"propagate={self.config.propagate!r} moves what leaves a whole model, but "
                    "only the backbone runs on blocks here (BlockCopyBackbone). Take the config "
                    "without that wrapper, or propagate='copy'."
                )
            # A whole model is looked at where it is converted.
            if "mmseg.models.segmentors.base" in sys.modules:
                from ..mmseg.adapter import refuse_windows

                refuse_windows(model)
            self._handle = handle(wrapped[0].inner)
            self._names_streams = StreamIds()
        else:
            blockcopy_(model, self.config)
            self._handle = handle(model)
            self._names_streams = None

    def _end(self, runner: Runner) -> None:
        MMLogger.get_current_instance().info(str(self.handle.report()))
        self._release()

    def _release(self) -> None:
        self.handle.reset()
        if self._names_streams is None:
            restore_(self.handle.model)
        else:
            self.handle.name_streams(None)
            self.handle.give_motion(None)
        self._handle = None
        self._figures.clear()
        self._by_hand = False

    def _name_streams(self, data_batch) -> None:
        samples = data_batch.get("data_samples") if isinstance(data_batch, dict) else None
        if self._names_streams is not None:
            ids, restarts = self._names_streams.read(samples)
            self.handle.reset(i for i in restarts if i in self.handle.states.ids())
            self.handle.name_streams(ids)
            self.handle.give_motion(motion_of(samples))
        else:
            ids, _ = StreamIds().read(samples)
            # Images without a video are no frames of one, whatever folder they are in.
            self.handle.name_streams(range(len(samples)) if samples and ids is None else None)
        if ids is None:
            if not self.one_video:
                self._take_for_pictures()
        elif not self.interleaved:
            self.handle.reset(i for i in self.handle.states.ids() if i not in ids)

    def _take_for_pictures(self) -> None:
        self.handle.reset()
        if not self._warned:
            self._warned = True
            MMLogger.get_current_instance().warning(
                "the data samples have no video_id, so each image is executed fully, as if it had "
                "nothing to do with the one before. For block-sparse execution load frames of "
                "videos by dataset=dict(type='blockcopy_plugins.VideoFrameDataset', videos=...), "
                "or, if the images of the dataset are the frames of one video, in order, set "
                "one_video=True in the BlockCopyHook."
            )

    def _log_scalars(self, runner: Runner, mode: str, last: bool = False) -> None:
        if not last and self.handle.last is not None:
            self._figures.add(self.handle.last)
        for scalars, _ in self._figures.all() if last else self._figures.known():
            for name, value in scalars.items():
                runner.message_hub.update_scalar(f"{mode}/blockcopy/{name}", value)


def find_hook(runner: Runner) -> BlockCopyHook:
    """The runner's :class:`BlockCopyHook`.

    Args:
        runner: The runner.

    Raises:
        ConfigError: If there is none, or more than one.
    """
    found = [hook for hook in runner.hooks if isinstance(hook, BlockCopyHook)]
    if len(found) != 1:
        raise ConfigError(
            f"the runner has {len(found)} BlockCopyHooks, expected one: set custom_hooks=["
            "dict(type='blockcopy_plugins.BlockCopyHook', block_size=128, "
            "policy=dict(type='GainPolicy', target=0.3))] in the config."
        )
    return found[0]


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a wrapper for distributed execution."""
    return model.module if is_model_wrapper(model) else model
