"""The laws as a check of any model, with an oracle that knows nothing of how the engine works.

A model under test runs its ops through a tape: ``run(f, x, y)`` instead of ``f(x, y)``. A step is
at most one spatial op, with pointwise ones around it. So the same forward can be run

* plainly: the dense model;
* on the converted model, noting which results the engine keeps on blocks, and on which blocks;
* as the oracle: before each step ``s <- where(M, x, s)``, and the step runs on ``s``. Of a result
  that is on blocks only the executed ones count; all else is NaN, so that a use of it shows.

That is law 3 word for word. The one thing taken from the engine is where the blocks end, which it
is free to choose: an op that it runs dense is fresh everywhere.
"""

from __future__ import annotations

import contextlib
import copy

import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.errors import StateError

# What a dimension of several is made of.
PARTS = {
    "L": "HW",
    "R": "NHW",
    "G": "NH",
    "Q": "HWN",
    "B": "NC",
    "P": "NHWC",
    "M": "NCH",
    "S": "NCHW",
}

MODES = {
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "grad": torch.enable_grad,
}


class Plain:
    """The dense model: a step is the op itself."""

    def __call__(self, function, *maps):
        return function(*maps)

    def write(self, function, x):
        """A step that writes into ``x``."""
        function(x)
        return x


class Recorder(Plain):
    """The converted model: notes block and axes of each result, ``None`` where it is dense.

    Also notes size and block of a dense map that was cut into blocks again on the way.
    """

    def __init__(self, handle) -> None:
        self.handle = handle
        self.seen: list[tuple] = []

    def __call__(self, function, *maps):
        read = self.handle.converted.active.frame.maps.read
        before = len(read)
        out = function(*maps)
        self.note(read[before:], out)
        return out

    def write(self, function, x):
        self(lambda x: (function(x), x)[1], x)
        return x

    def note(self, read, out):
        self.seen.append((read, [_layout(x) for x in _several(out)]))


class Map:
    """A tensor of the oracle.

    Attributes:
        value: Its contents.
        block: ``None`` where all of it counts; else the executed blocks of so many pixels, and
        axes: What the dimensions mean: N images, C channels, H rows, W columns, L rows and columns,
            R and Q pixels of all images, image by image and pixel by pixel, G rows of all images,
            B images and channels, M with rows and S with pixels behind, P pixels
            of all images and channels.
        size: ``(H, W)``.
    """

    def __init__(self, value: torch.Tensor, block=None, axes="NCHW", size=None) -> None:
        self.value, self.block, self.axes, self.size = value, block, axes, size

    @property
    def shape(self) -> torch.Size:
        return self.value.shape

    def factors(self, images: int) -> tuple[str, list[int]]:
        """What the dimensions are made of: a letter and a size for each factor."""
        letters, lengths = "", []
        pixels = {"N": images, "H": self.size[0], "W": self.size[1]}
        for letter, length in zip(self.axes, self.shape, strict=True):
            parts = {
                "L": "HW",
                "R": "NHW",
                "G": "NH",
                "Q": "HWN",
                "B": "NC",
                "P": "NHWC",
                "M": "NCH",
                "S": "NCHW",
            }.get(letter, letter)
            channels = length
            for part in parts:
                channels //= pixels.get(part, 1)
            for part in parts:
                letters += part
                lengths.append(pixels.get(part, channels))
        return letters, lengths


class Oracle:
    """Runs a model by the masked sentence, frame after frame.

    Args:
        model: Takes its maps from ``model.run``.
        block: Side of a block of the frame in pixels.
    """

    def __init__(self, model: nn.Module, block: int) -> None:
        self.model, self.block = model, block
        self.kept: dict[tuple, torch.Tensor] = {}

    def frame(self, x: torch.Tensor, grid: torch.Tensor, streams, seen: list) -> list:
        """Outputs of one frame.

        Args:
            x: ``(N, C, H, W)``.
            grid: bool ``(N, GH, GW)``.
            streams: Stream of each image.
            seen: What a :class:`Recorder` saw in this frame.
        """
        self.grid, self.streams, self.seen, self.steps = grid, streams, iter(seen), 0
        self.model.run = self
        with torch.no_grad():
            outputs = self.model(Map(x, (self.block, self.block), size=x.shape[2:]))
            self.steps += 1
            return [self.merge(out, i) for i, out in enumerate(outputs)]

    def mask(self, x: Map) -> torch.Tensor:
        """Which values count, in a shape that broadcasts with ``x``."""
        # Pixels beyond the last block belong to it.
        rows, cols = (
            (torch.arange(x.size[i]) // x.block[i]).clamp(max=self.grid.shape[1 + i] - 1)
            for i in (0, 1)
        )
        pixels = self.grid[:, rows][:, :, cols]
        letters, lengths = x.factors(len(self.grid))
        pixels = pixels.permute(
            [("N", "H", "W").index(letter) for letter in letters.replace("C", "")]
        )
        pixels = pixels.reshape(
            [1 if a == "C" else n for a, n in zip(letters, lengths, strict=True)]
        )
        return pixels.expand(lengths).reshape(x.shape)

    def merge(self, x: Map, argument: int) -> torch.Tensor:
        if x.block is None:
            return x.value
        letters, lengths = x.factors(len(self.grid))
        images = letters.index("N")
        mask, value = (v.reshape(lengths).movedim(images, 0) for v in (self.mask(x), x.value))
        merged = []
        for image, stream in enumerate(self.streams):
            key = (stream, self.steps, argument)
            kept = self.kept.get(key)
            if kept is None:
                kept = torch.full_like(value[image], float("nan"))
            self.kept[key] = torch.where(mask[image], value[image], kept)
            merged.append(self.kept[key])
        return torch.stack(merged, images).reshape(x.shape)

    def __call__(self, function, *maps: Map):
        self.steps += 1
        read, layouts = next(self.seen)
        maps = [self.cut(x, read) for x in maps]
        out = function(*[self.merge(x, i) for i, x in enumerate(maps)])
        parts = [self.only(v, b) for v, b in zip(_several(out), layouts, strict=True)]
        return type(out)(parts) if isinstance(out, (tuple, list)) else parts[0]

    def write(self, function, x: Map) -> Map:
        self.steps += 1
        read, (seen,) = next(self.seen)
        value = self.merge(self.cut(x, read), 0).clone()
        function(value)
        x.value = self.only(value, seen).value
        return x

    @staticmethod
    def cut(x: Map, read) -> Map:
        """A dense map by its blocks, if an op of the step has read one of its size by them."""
        for size, block in read:
            if x.block is None and x.value.dim() == 4 and tuple(x.shape[2:]) == size:
                return Map(x.value, block, size=size)
        return x

    def only(self, value: torch.Tensor, seen) -> Map:
        """A result, of which only the executed blocks count if it is on blocks."""
        if seen is None:
            return Map(value)
        out = Map(value, *seen)
        out.value = torch.where(self.mask(out), value, float("nan"))
        return out


def _layout(x) -> tuple | None:
    # A subclass is no map of blocks but a note of what is to be done with one that was kept: all of
    # it counts, as of a dense map.
    if type(x) is not bc.BlockTensor:
        return None
    axes = getattr(x, "axes", "NCHW")
    size = x.shape[2:] if axes == "NCHW" else x.size_of_map
    return tuple(x.block), axes, tuple(size)


def _several(out) -> list:
    return list(out) if isinstance(out, (tuple, list)) else [out]


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float, law: str) -> None:
    """Equal up to ``tolerance`` times the largest finite magnitude; NaN and infinities equal."""
    assert type(found) is torch.Tensor, f"{law}: {type(found)} left the model"
    assert found.shape == wanted.shape, f"{law}: {tuple(found.shape)}, not {tuple(wanted.shape)}"
    found, wanted = found.double(), wanted.double()
    finite = wanted.isfinite()
    special = torch.equal(found[~finite].nan_to_num(7.0), wanted[~finite].nan_to_num(7.0))
    assert special, f"{law}: other NaN or infinities"
    if not finite.any():
        return
    scale = wanted[finite].abs().max().clamp(min=1e-3)
    error = (found[finite] - wanted[finite]).abs()
    assert error.isfinite().all(), f"{law}: NaN or infinity where there should be none"
    wrong = error > tolerance * scale
    assert not wrong.any(), (
        f"{law}: {int(wrong.sum())} of {wrong.numel()} values are off, by {error.max():.3g} "
        f"of {scale:.3g}"
    )


def grid_shape(images: int, size: tuple[int, int], block: int) -> tuple[int, int, int]:
    return images, -(-size[0] // block), -(-size[1] // block)


def rounding(net: nn.Module, exact: nn.Module, frame: torch.Tensor, around) -> float | None:
    """What is allowed between two ways of computing the same, relative to the largest magnitude.

    Every op rounds its result once, by half an epsilon of its dtype; what the layers after it make
    of that, nobody can tell for a random net, but the dense model shows it: it is as far from the
    exact result as all its roundings took it. Packed execution rounds as often and as much, in
    another order of summation, so it may lie as far off on another side: twice that. The factors
    below are larger because one draw has its luck, and the epsilons because a net that happens to
    round well on one frame need not on the next.

    Returns:
        The bound, or ``None`` if the net is so ill-conditioned that a wrong block could hide, or
        torch has an op of it in another dtype only.
    """
    net.run = exact.run = Plain()
    with torch.no_grad(), around():
        try:
            outputs = net(frame)
        except NotImplementedError:
            return None
        pairs = list(zip(outputs, exact(frame.double()), strict=True))
    worst, eps = 0.0, torch.finfo(frame.dtype).eps
    for found, wanted in pairs:
        eps = max(eps, torch.finfo(found.dtype).eps)
        finite = wanted.isfinite()
        if finite.any():
            wanted, found = wanted[finite], found[finite].double()
            scale = wanted.abs().max().clamp(min=1e-3)
            worst = max(worst, ((found - wanted).abs().max() / scale).item())
    if eps < 1e-5:
        allowed, most = max(32 * worst, 128 * eps), 2e-3
    else:  # Eight or eleven bits: a bound of more than a dozen epsilons would prove nothing.
        allowed, most = max(3 * worst, 4 * eps), 16 * eps
    return allowed if allowed < most else None


def check_laws(
    net: nn.Module,
    size: tuple[int, int],
    block: int,
    rates: list[float],
    *,
    images: int = 2,
    pack: bool = False,
    mode: str = "no_grad",
    channels_last: bool = False,
    shuffle: bool = False,
    seed: int = 0,
    channels: int = 3,
    dtype: torch.dtype = torch.float32,
    around=contextlib.nullcontext,
    by_images: bool = False,
) -> bool:
    """Laws 1 to 3 of a model that takes its ops from ``net.run``.

    Args:
        net: Returns a tuple of ``(N, C, h, w)`` maps; not converted.
        size: ``(H, W)`` of the frames.
        block: Side of a block in pixels.
        rates: Share of executed blocks on each frame after the first, which is executed fully.
        images: Batch size; the first frame has all, later ones some, in any order, if ``shuffle``.
        pack: ``pack_whole_frames``.
        mode: Name of the caller's grad mode, see ``MODES``.
        channels_last: Layout of the frames.
        shuffle: The streams of a batch change places, come and go.
        seed: Of frames and grids.
        channels: Of the frames.
        dtype: Of frames and model.
        around: A context in which the model is called, such as autocast.
        by_images: The model goes another way through its ops, or torch does, when the number of
            images changes. Such a batch may be refused, with an error that says so.

    Returns:
        Whether the model was well-conditioned enough to be checked.
    """
    net = net.to(dtype).eval()
    exact = copy.deepcopy(net).double()
    random = torch.Generator().manual_seed(seed)

    def picture(count: int) -> torch.Tensor:
        x = torch.randn(count, channels, *size, generator=random).to(dtype)
        return x.contiguous(memory_format=torch.channels_last) if channels_last else x

    def some(rate: float, count: int) -> torch.Tensor:
        return torch.rand(grid_shape(count, size, block), generator=random) < rate

    still = picture(images)
    tolerance = rounding(net, exact, still, around)
    if tolerance is None:
        return False
    oracle = Oracle(exact, block)
    answers: list[torch.Tensor] = []
    config = bc.BlockCopyConfig(
        block_size=block, policy=lambda f, c: answers.pop(), pack_whole_frames=pack
    )
    plain = copy.deepcopy(net)
    plain.run = Plain()
    bc.blockcopy_(net, config)

    def execute(frame, grid, streams):
        answers.append(grid)
        net.run = recorder = Recorder(bc.handle(net))
        before = frame.clone()
        named = bc.streams(net, streams) if shuffle else contextlib.nullcontext()
        with MODES[mode](), named, around():
            outputs = net(frame)
        assert torch.equal(frame, before), "the caller's frame was changed"
        return list(outputs), recorder.seen

    everyone = tuple(range(images))
    # The last outputs of batches of which no stream has run since in another.
    last: dict[tuple, list[torch.Tensor]] = {}
    for rate in (2.0, *rates):
        streams = everyone
        if shuffle and rate <= 1 and len(oracle.kept):
            streams = torch.randperm(images, generator=random).tolist()
            streams = tuple(streams[: 1 + int(torch.randint(images, (1,), generator=random))])
        frame, grid = picture(len(streams)), some(rate, len(streams))
        try:
            outputs, seen = execute(frame, grid, streams)
        except StateError as error:
            if by_images and "reset_(model)" in str(error):
                return True
            raise
        held = [x.clone() for x in outputs]
        if not seen and not grid.any():
            # The model was not called: what it gave last stands, by the oracle's sentence too.
            assert streams in last, "others than the streams of an earlier call"
            _same_bits(outputs, last[streams], "law 2, a frame of nothing")
            continue
        last = {ids: kept for ids, kept in last.items() if not set(ids) & set(streams)}
        last[streams] = held
        for found, wanted in zip(
            outputs, oracle.frame(frame.double(), grid, streams, seen), strict=True
        ):
            close(found, wanted, tolerance, "law 3")
        if grid.all():
            with torch.no_grad(), around():
                wanted = plain(frame)
            for found, want in zip(outputs, wanted, strict=True):
                assert found.dtype == want.dtype
                close(found, want, tolerance, "law 1")

    first, _ = execute(still, some(2.0, images), everyone)
    for x, copied in zip(outputs, held, strict=True):
        assert torch.equal(x.nan_to_num(7.0), copied.nan_to_num(7.0)), "an earlier result changed"
    nothing, _ = execute(picture(images), some(-1.0, images), everyone)
    _same_bits(nothing, first, "law 2 after a full frame")
    again, _ = execute(still, some(0.5, images), everyone)
    for found, wanted in zip(again, first, strict=True):
        close(found, wanted, tolerance, "law 2, the same frame")
    nothing, _ = execute(picture(images), some(-1.0, images), everyone)
    _same_bits(nothing, again, "law 2 after some blocks")
    return True


def _same_bits(found: list, wanted: list, law: str) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a.isnan(), b.isnan()), f"{law}: other NaN"
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)), (
            f"{law}: {int((a != b).sum())} of {a.numel()} values changed, "
            f"by {(a - b).abs().max():.3g}"
        )
