"""Preprocessing of pictures in bytes: noted op by op, computed in one pass.

What a preprocessor does to a value of a channel (to float, minus the mean, over the deviation)
depends on its byte alone. So a :class:`NotedPicture` has it done to the 256 bytes instead, by
torch, and :func:`.batch_pictures` then looks each value up: bit for bit what the preprocessor
makes of the picture, without the maps in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.batch_pictures import batch_pictures

_NUMBERS = (bool, int, float)


class NotedPicture(Tensor):
    """A picture on which a preprocessor works; has the shape and dtype of what that would be.

    Ops that are not known compute it first, and get an ordinary tensor.

    Args:
        values: uint8 ``(C, h, w)`` in host memory.
        channels: Which of its channels it has by now, K of them.
        tables: ``(K, 1, 256)``: what the values of each channel have become.
        size: ``(H, W)`` with the padding on the right and below.
        fill: Value of the padding; ``None`` if there is none.
    """

    @staticmethod
    def __new__(
        cls,
        values: Tensor,
        channels: Sequence[int],
        tables: Tensor,
        size: tuple[int, int],
        fill: float | None = None,
    ) -> NotedPicture:
        """See the class."""
        shape = (len(channels), *size)
        made = Tensor._make_wrapper_subclass(cls, shape, dtype=tables.dtype, device=values.device)
        made.values, made.channels, made.tables = values, tuple(channels), tables
        made.fill, made._computed = fill, None
        return made

    @classmethod
    def of(cls, picture: Tensor) -> NotedPicture:
        """A picture to which nothing has been done.

        Args:
            picture: uint8 ``(C, h, w)`` in host memory.
        """
        channels = range(len(picture))
        bytes_ = torch.arange(256, dtype=torch.uint8).expand(len(channels), 1, 256)
        return cls(picture, channels, bytes_, tuple(picture.shape[1:]))

    def computed(self) -> Tensor:
        """An ordinary tensor with its values, the same each time."""
        if self._computed is None:
            if self.tables.dtype == torch.float32:
                self._computed = _batch([self])[0]
            else:
                each = zip(self.tables, self.channels, strict=True)
                self._computed = torch.stack([t[0][self.values[c].long()] for t, c in each])
        return self._computed

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        note = _NOTES.get(func)
        # One that was computed may have been written to since.
        if note is not None and all(x._computed is None for x in _pictures_in(args)):
            found = note(func, *args, **kwargs)
            if found is not None:
                return found
        return func(*plain(args), **plain(kwargs))

    @classmethod
    def __torch_dispatch__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return func(*plain(args), **plain(kwargs or {}))


def plain(value: Any) -> Any:
    """The same with ordinary tensors.

    Args:
        value: Nested lists, tuples and dicts; what is in other objects stays as it is.
    """
    if isinstance(value, NotedPicture):
        return value.computed()
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if type(value) is dict:
        return {name: plain(item) for name, item in value.items()}
    return value


def _pictures_in(args: Sequence[Any]) -> list[NotedPicture]:
    given = [*args, *args[0]] if args and type(args[0]) in (list, tuple) else args
    return [x for x in given if isinstance(x, NotedPicture)]


def _batch(pictures: Sequence[NotedPicture]) -> Tensor:
    first = pictures[0]
    with torch._C.DisableTorchFunctionSubclass():
        size = tuple(first.shape[1:])
    values = [picture.values for picture in pictures]
    return batch_pictures(values, first.tables[:, 0], first.channels, *size, first.fill or 0.0)


# -- what is noted: each returns None where the op is to get an ordinary tensor --------------------


def _read(func: Callable, *args, **kwargs) -> Any:
    """A shape, a dtype."""
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


def _on_each_value(func: Callable, *args, **kwargs) -> NotedPicture | None:
    """An op on each value, whose other operands have one for a channel at most."""
    pictures = [x for x in args if isinstance(x, NotedPicture)]
    if len(pictures) != 1 or pictures[0].fill is not None:
        return None
    picture = pictures[0]
    others = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x is not picture]
    if any(type(x) is not Tensor or x.requires_grad or not _is_of_channels(x) for x in others):
        return None
    given = [picture.tables if x is picture else x for x in args]
    tables = func(*given, **kwargs)
    if tables is picture.tables:
        return picture
    if tables.shape != picture.tables.shape or tables.device != picture.tables.device:
        return None
    return _changed(picture, picture.channels, tables)


def _is_of_channels(x: Tensor) -> bool:
    return x.dim() <= 3 and all(side == 1 for side in x.shape[-2:])


def _select(func: Callable, picture: Any, index: Any) -> NotedPicture | None:
    """Channels in another order: ``picture[[2, 1, 0]]``, ``picture[[2, 1, 0], ...]``."""
    if type(index) is tuple and len(index) == 2 and index[1] is Ellipsis:
        index = index[0]
    if not isinstance(picture, NotedPicture) or picture.fill is not None:
        return None
    if type(index) is not list or not all(type(i) is int for i in index):
        return None
    channels = [picture.channels[i] for i in index]
    return _changed(picture, channels, picture.tables[index])


def _pad(
    func: Callable, picture: Any, pad: Any, mode: str = "constant", value: float | None = None
) -> NotedPicture | None:
    """Padding on the right and below."""
    if not isinstance(picture, NotedPicture) or picture.fill is not None:
        return None
    if mode != "constant" or picture.tables.dtype != torch.float32:
        return None
    if not all(type(n) is int for n in pad) or not isinstance(value, (*_NUMBERS, type(None))):
        return None
    left, right, top, below, *rest = [*pad, 0, 0, 0, 0][: max(len(pad), 4)]
    if left or top or any(rest) or right < 0 or below < 0:
        return None
    height, width = picture.shape[1:]
    size = (height + below, width + right)
    return NotedPicture(picture.values, picture.channels, picture.tables, size, float(value or 0))


def _stack(func: Callable, pictures: Any, dim: int = 0) -> Tensor | None:
    """A batch: here all is computed."""
    if dim != 0 or not all(isinstance(x, NotedPicture) for x in pictures):
        return None
    first = pictures[0]
    if first.tables.dtype != torch.float32:
        return None
    alike = all(
        x.shape == first.shape
        and x.channels == first.channels
        and x.fill == first.fill
        and torch.equal(x.tables, first.tables)
        for x in pictures[1:]
    )
    return _batch(pictures) if alike else None


def _changed(picture: NotedPicture, channels: Sequence[int], tables: Tensor) -> NotedPicture:
    return NotedPicture(picture.values, channels, tables, tuple(picture.shape[1:]))


_NOTES: Mapping[Callable, Callable] = {
    **dict.fromkeys(
        (
            *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device")),
            *(Tensor.size, Tensor.dim, Tensor.__len__, Tensor.numel),
        ),
        _read,
    ),
    **dict.fromkeys(
        (
            *(Tensor.float, Tensor.to, Tensor.add, Tensor.sub, Tensor.mul, Tensor.div),
            *(torch.add, torch.sub, torch.mul, torch.div),
            *(Tensor.__add__, Tensor.__sub__, Tensor.__mul__, Tensor.__truediv__),
        ),
        _on_each_value,
    ),
    Tensor.__getitem__: _select,
    F.pad: _pad,
    torch.stack: _stack,
}
