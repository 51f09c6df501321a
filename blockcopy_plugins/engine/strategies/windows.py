"""Windows that blocks do not hold: maps rolled, padded, cut into windows, and put together again.

Window attention pads a map to whole windows, rolls it by half a window, and splits its rows and
columns in a view. Each of these runs on blocks where blocks hold whole windows. Elsewhere
``F.pad`` and ``torch.roll`` only note where pixels are (:class:`~..tensor.moved_map.MovedMap`),
and the view reads the windows that overlap executed blocks from the kept map. They are the blocks
of a separate frame (:class:`~..frame.window_frame.WindowFrame`) until a view, roll or crop has
put every pixel back.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..decline import Decline
from ..frame.frame import Frame
from ..frame.window_frame import Places, WindowFrame
from ..tensor.axes_rules import View, axes_after
from ..tensor.block_tensor import BlockTensor
from ..tensor.moved_map import MovedMap
from ..tensor.view_axes import Reading
from ..torch_internals import named_arguments
from . import padding, pixels
from .channels import VIEWS, over_channels, run_view
from .op_table import on_blocks

aten = torch.ops.aten


@on_blocks(*VIEWS, takes_moved=True)
def view(frame: Frame, func, args, kwargs):
    """A view; one that splits rows and columns across blocks becomes windows."""
    x = args[0]
    if type(x) is BlockTensor and x.axes.find("N") > 0 and frame.images == 1:
        args = (_image_first(x, func, args, kwargs), *args[1:])
        x = args[0]
    if type(x) is not MovedMap:
        out = over_channels(frame, func, args, kwargs)
        if isinstance(frame, WindowFrame) and isinstance(out, BlockTensor):
            found = _at_home(frame, out)
            return out if found is None else stands_for_view(found, x)
        if not isinstance(out, Decline) or not isinstance(x, BlockTensor):
            return out
    reading = _reading_of_windows(frame, func, x, args, kwargs)
    if isinstance(reading, Decline):
        return reading
    of, places, fill = _parts(x)
    height, width = (size // count for size, count in zip(x.size_of_map, reading.size, strict=True))
    windows = WindowFrame.of(frame, of, places, (height, width))
    cut = stands_for_view(windows.cut(of, fill), x)
    return run_view(windows, cut, func, reading, args)


def _image_first(x: BlockTensor, func, args, kwargs) -> BlockTensor:
    """The same with the one image as the first dimension, if the view is then better understood.

    A dimension of size 1 may stand anywhere, and ``torch.einsum`` puts it behind the others.
    """
    view = View(x.axes, tuple(x.shape), 1, x.size_of_map, x.joined)
    found = axes_after(func, view, args, kwargs)
    # Channels and then pixels are images and channels, as the heads of an attention are.
    if found is not None and not (found.axes[0] == "C" and set(found.axes) & {"R", "Q"}):
        return x
    image = x.axes.index("N")
    return aten.permute.default(x, [image, *(i for i in range(x.dim()) if i != image)])


def _reading_of_windows(frame: Frame, func, x: BlockTensor, args, kwargs) -> Reading | Decline:
    """The meaning of the dimensions of a view that cuts a map into windows."""
    moved = type(x) is MovedMap
    if isinstance(frame, WindowFrame):
        return Decline("it cuts windows into windows")
    if frame.of_tokens:
        return Decline("it parts tokens or images")
    if moved and x.written is not None:
        return Decline("the moved map was densified before")
    seen = View(x.axes, tuple(x.shape), frame.images, x.size_of_map, x.joined, moved)
    reading = axes_after(func, seen, args, kwargs)
    if reading is None:
        return Decline("it mixes pixels or images")
    parts = all(
        count and size % count == 0 for size, count in zip(x.size_of_map, reading.size, strict=True)
    )
    if not parts or reading.size == x.size_of_map:
        return Decline("it splits or joins rows or columns across blocks")
    return reading


@on_blocks(aten.roll.default, takes_moved=True)
def roll(frame: Frame, func, args, kwargs):
    """``torch.roll`` of rows and columns by any number of pixels."""
    x, shifts, dims = (*args, ())[:3]
    out = None
    if type(x) is not MovedMap:
        letters = {x.axes[d] for d in dims}
        if not isinstance(frame, WindowFrame) or letters == {"C"}:
            out = pixels.roll(frame, func, args, kwargs)
            if not isinstance(out, Decline):
                return out
    places = _places_of(x)
    if places is None or not dims:
        return out or Decline("it moves pixels from row to row")
    for shift, dim in zip(shifts, dims, strict=True):
        letter = x.axes[dim]
        if letter not in "HW":
            return out or Decline("it moves channels or images")
        axis = "HW".index(letter)
        length = len(places[axis])
        places[axis] = tuple(places[axis][(i - shift) % length] for i in range(length))
    return _moved(frame, func, x, places)


@on_blocks(aten.constant_pad_nd.default, cuts=padding.pads_pixels, takes_moved=True)
def pad(frame: Frame, func, args, kwargs):
    """Constant padding of a view by more than the last blocks can hold."""
    x, amounts, value = (*args, 0)[:3]
    value = kwargs.get("value", value)
    out = None
    if type(x) is not MovedMap:
        out = padding.constant(frame, func, args, kwargs)
        if not isinstance(out, Decline):
            return out
    places = _places_of(x)
    if places is None:
        return out or Decline("its map has no rows and columns")
    for i in range(len(amounts) // 2):
        before, after = amounts[2 * i : 2 * i + 2]
        letter = x.axes[-1 - i]
        if before == after == 0:
            continue
        if letter not in "HW" or min(before, after) < 0:
            return out or Decline("it pads channels or images, or crops")
        axis = "HW".index(letter)
        places[axis] = (*(-1,) * before, *places[axis], *(-1,) * after)
    return _moved(frame, func, x, places, float(value))


@on_blocks(aten.slice.Tensor, takes_moved=True)
def crop(frame: Frame, func, args, kwargs):
    """Slices; of moved rows and columns or of windows, a crop of the map that they show."""
    x = args[0]
    _, dim, *shown = named_arguments(func, args, kwargs).values()
    dim = dim % x.dim()
    if type(x) is not MovedMap and not (isinstance(frame, WindowFrame) and x.axes[dim] in "HW"):
        return pixels.pixel_slice(frame, func, args, kwargs)
    places, letter = _places_of(x), x.axes[dim]
    shown = slice(*shown)
    if places is None or letter not in "HW":
        whole = len(range(x.shape[dim])[shown]) == x.shape[dim]
        return _again(x) if whole else Decline("it takes some of the channels or images")
    axis = "HW".index(letter)
    places[axis] = places[axis][shown]
    if not places[axis]:
        return Decline("it leaves nothing of the map")
    out = _moved(frame, func, x, places)
    return out if isinstance(out, Decline) else stands_for_view(out, x)


def stands_for_view(copy: BlockTensor, of: BlockTensor) -> BlockTensor:
    """Note that a copy replaces a view: writes to one do not show in the other."""
    copy.version.replace_view(of.version)
    return copy


def _again(x: BlockTensor) -> BlockTensor:
    """Another tensor of the same values, as a slice of everything is."""
    if type(x) is MovedMap and x.written is None:
        return stands_for_view(MovedMap.make(x.of, x.places, x.fill, x.op), x)
    return Decline("the moved map was densified before")


def _places_of(x: BlockTensor) -> list[Places] | None:
    """Which rows and columns a map shows; ``None`` if it has none, or they are not known."""
    if type(x) is MovedMap:
        return None if x.written is not None else list(x.places)
    if type(x) is not BlockTensor or not {"H", "W"} <= set(x.axes):
        return None
    return [tuple(range(length)) for length in x.size_of_map]


def _parts(x: BlockTensor) -> tuple[BlockTensor, tuple[Places, Places], float]:
    if type(x) is MovedMap:
        return x.of, x.places, x.fill
    return x, tuple(tuple(range(length)) for length in x.size_of_map), 0.0


def _moved(frame: Frame, func, x: BlockTensor, places: Sequence[Places], fill: float | None = None):
    """A map of other rows and columns; the home map where windows then show exactly that."""
    places = (places[0], places[1])
    if type(x) is MovedMap:
        of = x.of
        if fill is not None and min(map(min, x.places)) < 0 and fill != x.fill:
            return Decline("two paddings of different values, one around the other")
        fill = x.fill if fill is None else fill
    else:
        of, fill = _as_it_is(frame, x), fill or 0.0
    if isinstance(frame, WindowFrame):
        found = _at_home(frame, of, places)
        if found is not None:
            return found
    return MovedMap.make(of, places, fill, str(func))


def _as_it_is(frame: Frame, x: BlockTensor) -> BlockTensor:
    """The map, unaffected by later writes to ``x``."""
    if isinstance(frame, WindowFrame):
        return x.like(x.packed.clone())
    of = x.like(x.packed)
    of.full = frame.keep(x, "moved")
    return of


def _at_home(frame: WindowFrame, x: BlockTensor, places=None) -> BlockTensor | None:
    """The map that was cut into windows, if they show all of it in its place."""
    if x.size_of_map != frame.size or not {"H", "W"} <= set(x.axes):
        return None
    places = places or tuple(tuple(range(length)) for length in frame.size)
    return frame.at_home(x, places) if frame.shows_the_map(places) else None
