"""The public calls on a model, or on an object that runs one: a framework's model, a predictor."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TypeVar

from torch import nn

from .config import BlockCopyConfig
from .engine import convert
from .engine.adapter import ModelAdapter
from .engine.report import Report
from .engine.session import Session
from .integrations.framework import adapter_for, running
from .integrations.mmcv_ops import teach_compiled_ops
from .policy import MotionField

T = TypeVar("T")


def blockcopy_(
    model: T, config: BlockCopyConfig | None = None, adapter: ModelAdapter | None = None
) -> T:
    """Make a model run block-sparsely, in place.

    From then on a call takes the next frame of one or more streams: the policy picks blocks, all
    layers run on those only, and the features of earlier frames are kept elsewhere. The first frame
    of a stream is executed fully. Parameters, buffers and state-dict keys do not change. Calls run
    without gradients.

    A deep copy of a converted model is a separate model with its own streams and policy, which
    continue from where these are. A pickle (``torch.save``, another process) takes the policy and
    what it has learned along, but no streams: there the next frames are executed fully. Data for a
    device, CUDA graphs and weights in the layout of the kernels, are made again in both.

    Args:
        model: A module whose forward takes a ``(N, C, H, W)`` tensor; a whole detector, segmentor
            or tracker of MMDetection, MMSegmentation, Detectron2, torchvision or transformers; or
            an object that runs one: a ``YOLO`` of Ultralytics, a pipeline of transformers. It must
            be in eval mode when it is called.
        config: Block size, policy and the like.
        adapter: How the model is called, if it is none of the above.

    Returns:
        The same model.

    Raises:
        ConfigError: If the model is converted already, an option is out of range, a segmentor runs
            on windows of the image (``test_cfg.mode='slide'``), or any model runs under test-time
            augmentation.

    Examples:
        >>> bc.blockcopy_(model, bc.BlockCopyConfig(policy=dict(type='GainPolicy', target=0.3)))
        >>> outputs = [model(frame) for frame in video]
        >>> bc.reset_(model)      # before the next video
    """
    if "mmcv.ops" in sys.modules:
        teach_compiled_ops()
    framework, modules = running(model)
    done: list[nn.Module] = []
    try:
        for module in modules:
            convert.convert_(module, config, adapter or adapter_for(module))
            done.append(module)
        framework.attach(model, modules)
    except BaseException:
        for module in done:
            convert.restore_(module)
        raise
    return model


def handle(model: object) -> Session:
    """The session of a converted model, or of the module in it that runs.

    Raises:
        ConfigError: If the model is not converted.
    """
    return convert.handle(running(model)[1][0])


def restore_(model: T) -> T:
    """Undo :func:`blockcopy_`; parameters, buffers and outputs are what they were before.

    Args:
        model: A converted model.

    Returns:
        The same model.

    Raises:
        ConfigError: If it is not converted.
    """
    framework, modules = running(model)
    for module in modules:
        convert.restore_(module)
    framework.detach(model)
    return model


def reset_(model: object, streams: Iterable[Hashable] | None = None) -> None:
    """Forget streams: their next frames are executed fully. The policy keeps what it learned.

    Args:
        model: A converted model.
        streams: Ids of live streams, ``None`` for all.

    Raises:
        ConfigError: If the model is not converted.
        StateError: If a named stream is not live.
    """
    first, *others = running(model)[1]
    convert.handle(first).reset(streams)
    for module in others:
        # Copies that no longer run: what they knew belongs to an earlier video.
        convert.handle(module).reset()


def report(model: object) -> Report:
    """Executed rate, MACs, time, state memory and the ops that ran dense, over all calls so far.

    Args:
        model: A converted model.

    Returns:
        The report; ``print`` it, or take its fields.

    Raises:
        ConfigError: If the model is not converted.
    """
    return handle(model).report()


def streams(model: object, ids: Sequence[Hashable]) -> AbstractContextManager[None]:
    """Name the streams of the images of a batch.

    Args:
        model: A converted model.
        ids: One id for each image of the calls inside the context.

    Returns:
        A context manager.

    Raises:
        ConfigError: If the model is not converted.

    Examples:
        >>> with bc.streams(model, ['cam0', 'cam7']):
        ...     out = model(frames)
    """
    return _all(convert.handle(module).named(ids) for module in running(model)[1])


def motion(model: object, fields: Sequence[MotionField | None]) -> AbstractContextManager[None]:
    """Tell the model how far the images of a batch have moved, by their videos' motion vectors.

    :class:`~blockcopy_plugins.policy.MotionVectorPolicy` needs it. Data samples of the package's
    own datasets carry it along.

    Args:
        model: A converted model.
        fields: One for each image of the calls inside the context, as
            :meth:`~blockcopy_plugins.datasets.VideoReader.read_motion` returns it; or None. If the
            frame is not simply the picture resized, give the field with its scale
            (:meth:`~blockcopy_plugins.policy.MotionField.at_scale`).

    Returns:
        A context manager.

    Raises:
        ConfigError: If the model is not converted.

    Examples:
        >>> reader = VideoReader('street.mp4', motion=True)
        >>> for index, picture in enumerate(reader):
        ...     with bc.motion(model, [reader.read_motion(index)]):
        ...         out = model(preprocess(picture))
    """
    return _all(convert.motion(module, fields) for module in running(model)[1])


def dense(model: object) -> AbstractContextManager[None]:
    """Let calls in the context be those of your own model; its state and policy stay as they are.

    None of this package's kernels is at work then, before, in or after the network.

    Args:
        model: A converted model.

    Returns:
        A context manager.

    Raises:
        ConfigError: If the model is not converted.
    """
    return _all(convert.handle(module).paused() for module in running(model)[1])


def _all(contexts: Iterable[AbstractContextManager[None]]) -> AbstractContextManager[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        return stack.pop_all()
