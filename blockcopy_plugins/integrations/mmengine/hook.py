"""The hook that makes a Runner's model block-sparse during tests and validation."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ...api import blockcopy_
from ...config import BlockCopyConfig
from ...engine.convert import handle, restore_
from ...engine.session import Session
from ...errors import ConfigError
from ...options import read_options
from ...policy import build_policy
from ...registry import HOOKS
from ..common.frame_figures import FrameFigures
from ..common.sample_motion import motion_of
from ..common.stream_ids import StreamIds
from ..framework import frameworks_of
from .backbone import BlockCopyBackbone


@HOOKS.register_module()
class BlockCopyHook(Hook):
    """Converts the model before a test or validation loop and restores it after.

    By then the weights are loaded, so that checkpoints keep their keys. Streams are the videos of
    the data samples' ``video_id``, and are reset when a video starts. A model whose backbone is a
    :class:`BlockCopyBackbone` is not converted again; the hook then names its streams.

    One policy serves all loops of a run, so what it learned while validating is kept.

    Args:
        **options: Those of :class:`~blockcopy_plugins.BlockCopyConfig` (``block_size``, ``policy``,
            ``guards``, ``propagate``, ...), ``policy_checkpoint``, the file of a trained policy to
            start from, and ``interleaved`` and ``one_video`` of
            :class:`~blockcopy_plugins.options.BlockCopyOptions`.

    Raises:
        ConfigError: If an option is unknown or out of range or the policy file does not fit.

    Examples:
        >>> custom_hooks = [dict(type='blockcopy_plugins.BlockCopyHook', block_size=128,
        ...                      policy=dict(type='GainPolicy', target=0.3),
        ...                      guards=[dict(type='MaxAge', frames=60)])]
    """

    priority = "NORMAL"

    def __init__(self, **options: Any) -> None:
        read = read_options(options, "BlockCopyHook")
        self.config = read.config
        self.policy = read.config.policy
        self.interleaved = read.interleaved
        self.one_video = read.one_video
        self._given = read.given
        self._warned = False
        self._figures = FrameFigures()
        self._handle: Session | None = None
        self._by_hand = False
        self._names_streams: StreamIds | None = None

    @property
    def handle(self) -> Session:
        """Session of the converted model.

        Raises:
            ConfigError: If no loop is running.
        """
        if self._handle is None:
            raise ConfigError(
                "BlockCopyHook has no converted model: no test or validation is running."
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
        """Log the report and restore the model after :meth:`begin`."""
        self._end(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Drop streams of videos that are over, unless the model itself is trained."""
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
        # MMEngine's PrepareTTAHook may wrap the model before or after this hook runs.
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
            # The last loop failed before its end.
            self._release()
        model = unwrap(runner.model)
        wrapped = [m for m in nn.Module.modules(model) if isinstance(m, BlockCopyBackbone)]
        if wrapped:
            if self.config.propagate != "copy":
                raise ConfigError(
                    f"propagate={self.config.propagate!r} moves what leaves a whole model, but "
                    "only the backbone runs on blocks here (BlockCopyBackbone). Take the config "
                    "without that wrapper, or set propagate in the backbone, whose features are "
                    "then moved."
                )
            # A whole model is checked when it is converted.
            for framework in frameworks_of(*nn.Module.modules(model)):
                framework.check_backbone(model)
            self._handle = handle(wrapped[0].inner)
            self._names_streams = StreamIds()
            self._refuse_options_of_backbone()
        else:
            blockcopy_(model, self.config)
            self._handle = handle(model)
            self._names_streams = None

    def _refuse_options_of_backbone(self) -> None:
        """Refuse options that a wrapped backbone, which has its own, would ignore."""

        def shown(config: BlockCopyConfig, name: str) -> Any:
            value = getattr(
                config, name, object()
            )  # the policy's file is not an option of a config
            if name == "policy":
                policy = build_policy(value)
                return type(policy), getattr(policy, "target", None)
            return tuple(value) if name == "guards" else value

        own = self.handle.config
        given = sorted(self._given - {"interleaved", "one_video"})
        differ = [name for name in given if shown(self.config, name) != shown(own, name)]
        if differ:
            MMLogger.get_current_instance().warning(
                f"{', '.join(differ)} of the BlockCopyHook have no effect: the model's backbone is "
                "a BlockCopyBackbone, which has options of its own. Set them there, or take the "
                "config without that wrapper."
            )

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
            # Images without a video are not frames of one, whatever folder they are in.
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
                "the data samples have no video_id, so each image is executed fully, as if it were "
                "unrelated to the previous one. For block-sparse execution, load frames of videos "
                "by dataset=dict(type='blockcopy_plugins.VideoFrameDataset', videos=...), or, if "
                "the images of the dataset are the frames of one video, in order, set "
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
