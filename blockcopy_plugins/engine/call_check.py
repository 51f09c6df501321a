"""Checks of a call of a converted model, before any part of it runs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import FrameError, StateError
from ..host_transfer import HostReads
from .execution.converted_model import ConvertedModel
from .module_state import any_has


def check_frame(frame: Tensor) -> None:
    """Refuse what is not a frame.

    Raises:
        FrameError: If it is not a dense floating-point ``(N, C, H, W)`` without empty dimensions.
    """
    if frame.layout != torch.strided or frame.is_nested:
        layout = "nested" if frame.is_nested else str(frame.layout).removeprefix("torch.")
        raise FrameError(
            f"the frame is a tensor of the layout {layout}, expected a dense tensor (N, C, H, W). "
            "Call to_dense() on it, or stack the images to a batch."
        )
    if frame.dim() != 4 or not frame.is_floating_point() or 0 in frame.shape:
        raise FrameError(
            f"the frame is {frame.dtype} {tuple(frame.shape)}, expected a floating-point "
            "tensor (N, C, H, W) without empty dimensions."
        )


def any_trains(modules: tuple[nn.Module, ...]) -> bool:
    """Whether one of some modules is in training mode."""
    return any_has(modules, "training")


def check_eval_mode(converted: ConvertedModel) -> None:
    """Refuse a model in training mode.

    Raises:
        FrameError: If a module is in training mode.
    """
    if converted.ask(any_trains):
        modules = nn.Module.named_modules(converted.model)
        name = next(name for name, module in modules if module.training)
        raise FrameError(
            f"module {name or '(root)'!r} is in training mode, in which features depend on "
            "more than the frame. Call model.eval() first, or restore_(model) to train."
        )


def check_finite(frame: Tensor, reads: HostReads, at_once: bool) -> None:
    """Refuse a frame that contains NaN or infinity.

    Args:
        frame: ``(N, C, H, W)``.
        reads: Brings results from the device to the host together with the frame's others.
        at_once: Check now, which on a device means one more wait for it.

    Raises:
        FrameError: If it does; without ``at_once``, when the frame's results are read.
    """
    # A sum that contains NaN or infinity is not finite. The sum of huge values may not be either,
    # which a second look shows; looking at each value right away takes seven times as long. (The
    # sum of a float16 frame would overflow easily.)
    total = frame.sum(dtype=torch.float32 if frame.dtype == torch.float16 else None)
    if at_once:
        _refuse_infinite(frame, total)
    else:
        reads.add(total, partial(_refuse_infinite, frame))


def _refuse_infinite(frame: Tensor, total: Tensor) -> None:
    """Refuse a frame that contains NaN or infinity; only called if its sum is not finite."""
    if math.isfinite(total) or torch.isfinite(frame).all():
        return
    low, high = torch.aminmax(frame)
    raise FrameError(
        f"the frame has values from {low.item()} to {high.item()}, expected finite ones: NaN or "
        "infinity would stay in the state. Repair or skip the frame."
    )


def stream_ids(ids: Iterable[Hashable]) -> tuple[Hashable, ...]:
    """Check the ids of streams as they were given.

    Raises:
        StateError: If they are a string, each letter of which would be taken for an id, not a list
            at all, or contain an id that is not found again: each frame would be a first one.
    """
    if isinstance(ids, (str, bytes)):
        raise StateError(
            f"the streams are the text {ids!r}, expected a list with one id for each image of the "
            f"batch: [{ids!r}]."
        )
    try:
        ids = tuple(ids)
    except TypeError:
        raise StateError(
            f"the streams are {ids!r}, expected a list with one id for each image of the batch: "
            f"[{ids!r}]."
        ) from None
    for one in ids:
        if not _is_found_again(one):
            raise StateError(
                f"the stream {one!r} is a {type(one).__name__}, expected an id that is found again "
                "with the next frame, such as a number or a text."
            )
    return ids


def _is_found_again(one: Hashable) -> bool:
    try:
        hash(one)
    except TypeError:
        return False
    # A tensor is not found by another one of the same value, NaN not even by itself.
    return not isinstance(one, Tensor) and one == one


def streams_of_batch(ids: Sequence[Hashable] | None, images: int) -> tuple[Hashable, ...]:
    """The stream of each image of a batch.

    Args:
        ids: As they were given; ``None``: image i is stream i.
        images: N.

    Raises:
        StateError: If there is not one for each image, or two are the same.
    """
    if ids is None:
        ids = tuple(range(images))
    if len(ids) != images or len(set(ids)) != len(ids):
        raise StateError(
            f"streams {list(ids)!r} were named for a batch of {images} images, expected "
            f"{images} different ids. Each image of a batch belongs to another stream; frames "
            "of one stream go through the model one after the other."
        )
    return tuple(ids)
