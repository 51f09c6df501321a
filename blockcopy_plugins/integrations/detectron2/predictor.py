"""A predictor for the frames of videos, like Detectron2's ``DefaultPredictor``."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ...api import blockcopy_
from ...config import BlockCopyConfig
from ...engine.convert import handle, restore_
from ...engine.session import Session
from ...errors import ConfigError, FrameError, StateError
from ..common.closing import Closing
from ..common.given_config import conversion_config, refuse_weights_of_built_model
from .backbone import BlockCopyBackbone, refuse_prediction_worker
from .config import OF_THE_INPUTS, blockcopy_config
from .model_config import ModelConfig, prepare_image


class BlockCopyPredictor(Closing):
    """Runs a model block-sparsely on one frame after the other.

    Like ``DefaultPredictor``, it loads the weights, takes BGR images of any size, resizes them by
    the config's rule, and returns the model's output for the one image. Unlike it, it keeps the
    state of each video, so the frames of a stream must come in order.

    Args:
        cfg: A ``CfgNode``, a lazy config, or the path of a config file.
        config: How to run the model; ``None`` takes the config's ``MODEL.BLOCKCOPY``
            (``blockcopy`` in a lazy config), or the defaults. A model whose backbone is a
            :class:`BlockCopyBackbone` keeps that backbone's options.
        weights: Weights that replace the config's.
        model: A built model with its weights, which replaces the config's. :meth:`close` restores
            it.

    Attributes:
        cfg: The config.
        model: The model; converted until :meth:`close`.
        handle: Its :class:`~blockcopy_plugins.engine.session.Session`: policy, state, last frame.
        metadata: ``Metadata`` of the dataset that the config tests on, ``None`` without one.
        input_format: Order of the channels of the model's input.
        input_size: ``(h, w)`` of the last frame in the network's input, px, without padding.

    Raises:
        ConfigError: If a config or option is wrong, or it is made in one of the processes of an
            ``AsyncPredictor``.

    Examples:
        >>> predictor = BlockCopyPredictor(cfg)
        >>> for frame in VideoReader('street.mp4'):
        ...     outputs = predictor(frame)
        >>> predictor.reset()      # before the next video
    """

    def __init__(
        self,
        cfg: Any,
        config: BlockCopyConfig | Mapping[str, Any] | None = None,
        weights: str | os.PathLike[str] | None = None,
        model: nn.Module | None = None,
    ) -> None:
        refuse_prediction_worker()
        if model is not None:
            refuse_weights_of_built_model(weights)
        source = ModelConfig.of(cfg)
        self.cfg = source.cfg
        self.metadata = source.metadata
        self.input_format = source.input_format
        if self.input_format not in ("BGR", "RGB"):
            raise ConfigError(f"the input format is {self.input_format!r}, expected BGR or RGB.")
        self._augmentations = source.augmentations()
        self.model = source.build(weights) if model is None else model.eval()
        options = conversion_config(
            config, lambda: blockcopy_config(source.cfg), "BlockCopyPredictor", OF_THE_INPUTS
        )
        self.handle = convert_model(self.model, options)
        self.input_size: tuple[int, int] | None = None
        self._process = os.getpid()
        self._closed = False

    def __call__(self, original_image: np.ndarray, stream: Hashable = 0) -> dict[str, Any]:
        """Run the next frame of a stream.

        Args:
            original_image: uint8 ``(H, W, 3)``, BGR.
            stream: The video that it belongs to.

        Returns:
            The model's output for it: ``instances``, ``sem_seg`` and the like.

        Raises:
            FrameError: If it is not such an array, or has another size than the stream's frames
                before.
            StateError: If the predictor is closed, or was made in another process.
        """
        self._check()
        inputs = self._prepare(original_image)
        with torch.no_grad(), self.handle.named([stream]):
            return self.model([inputs])[0]

    def run_dense(self, original_image: np.ndarray) -> dict[str, Any]:
        """Run the plain model on a frame, without touching streams and policy.

        Args:
            original_image: uint8 ``(H, W, 3)``, BGR.

        Returns:
            The model's output for it.

        Raises:
            FrameError: If it is not such an array.
            StateError: If the predictor is closed, or was made in another process.
        """
        self._check()
        inputs = self._prepare(original_image)
        with torch.no_grad(), self.handle.paused():
            return self.model([inputs])[0]

    def reset(self, stream: Hashable | None = None) -> None:
        """Start again: the next frame is executed fully. The policy keeps what it has learned.

        Args:
            stream: A stream; ``None`` for all. A stream that is not live needs no reset.
        """
        if stream is None:
            self.handle.reset()
        elif stream in self.handle.states.ids():
            self.handle.reset([stream])

    def close(self) -> None:
        """See :meth:`.closing.Closing.close`."""
        if not self._closed:
            self._closed = True
            restore_model(self.model)

    def __getstate__(self) -> dict[str, Any]:
        raise StateError(
            "a BlockCopyPredictor cannot be sent to another process: the frames of a stream need "
            "the state of the previous frame. Make one predictor in each process, and give "
            "each whole videos."
        )

    def _check(self) -> None:
        if self._closed:
            raise StateError("the BlockCopyPredictor is closed and its model restored.")
        if os.getpid() != self._process:
            raise StateError(
                f"the BlockCopyPredictor was made in process {self._process} and called in "
                f"{os.getpid()}: each process has a copy of the state and would see a part of the "
                "frames. Make one predictor in each process, and give each whole videos."
            )

    def _prepare(self, image: np.ndarray) -> dict[str, Any]:
        if (
            not isinstance(image, np.ndarray)
            or image.dtype != np.uint8
            or image.ndim != 3
            or image.shape[2] != 3
            or 0 in image.shape
        ):
            shape = tuple(getattr(image, "shape", ()))
            raise FrameError(
                f"the frame is a {type(image).__name__} {getattr(image, 'dtype', '')} {shape}, "
                "expected a uint8 array (H, W, 3), BGR."
            )
        prepared = prepare_image(image, self._augmentations, self.input_format)
        self.input_size = (prepared.shape[1], prepared.shape[2])
        return {
            "image": prepared,
            "height": image.shape[0],
            "width": image.shape[1],
        }


def convert_model(model: nn.Module, config: BlockCopyConfig) -> Session:
    """Convert a model, unless its backbone is a :class:`BlockCopyBackbone`.

    Args:
        model: A meta-architecture.
        config: How to run it.

    Returns:
        The session of the model, or of its wrapped backbone, whose streams are all forgotten.
    """
    for module in nn.Module.modules(model):
        if isinstance(module, BlockCopyBackbone):
            found = handle(module.inner)
            found.reset()
            return found
    return handle(blockcopy_(model, config))


def restore_model(model: nn.Module) -> None:
    """Undo :func:`convert_model`; a :class:`BlockCopyBackbone` stays, and forgets its streams.

    Args:
        model: The model that was converted.
    """
    for module in nn.Module.modules(model):
        if isinstance(module, BlockCopyBackbone):
            handle(module.inner).reset()
            return
    handle(model).reset()
    restore_(model)
