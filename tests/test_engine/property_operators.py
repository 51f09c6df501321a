"""Ops of convolutional detectors and segmentors, with any parameters, for property tests.

Each takes a map of ``CHANNELS`` channels and gives one, so that any of them can follow any other.
``forward(run, x)`` takes its steps through ``run``, see ``property_helpers``. ``fits(size)`` tells
whether the op can run on a map of this size; who builds the graph leaves it out where not.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

CHANNELS = 8
LARGEST = 90  # Ops that enlarge are left out beyond this many pixels.

# Epsilon of norms over the map. With the usual one a channel that an activation has all but
# silenced comes out as its own rounding errors, many times enlarged.
STEADY = 1e-2

OPERATORS: dict[str, type[Operator]] = {}


class Operator(nn.Module):
    """One op.

    Attributes:
        draws: Name of each parameter and what it is drawn from.
        p: The parameters drawn.
        counts_images: One image goes another way through the op than several, so that a batch
            of another size than the last may be refused.
    """

    draws: dict = {}
    counts_images = False

    def __init_subclass__(cls) -> None:
        OPERATORS[cls.__name__] = cls

    def __init__(self, **parameters) -> None:
        super().__init__()
        self.p = parameters
        self.build(**parameters)

    def build(self, **parameters) -> None:
        pass

    def fits(self, size) -> bool:
        return True


def several(values, equal=3):
    """Pairs (rows, columns), mostly of the same value twice."""
    one = st.sampled_from(values)
    same = one.map(lambda v: (v, v))
    return st.one_of(*[same] * equal, st.tuples(one, one))


def span(kernel, dilation=(1, 1)):
    return [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]


booleans = st.booleans()
groups = st.sampled_from((1, 1, 2, 4, 8))
KERNELS = several((1, 2, 3, 3, 3, 4, 5, 7))
STRIDES = several((1, 1, 1, 2, 2, 3, 4))
DILATIONS = several((1, 1, 1, 2, 3, 7, 13))


class Conv(Operator):
    draws = dict(
        kernel=KERNELS,
        stride=STRIDES,
        padding=several((0, 1, 1, 2, 3, 6, 13)),
        dilation=DILATIONS,
        groups=groups,
        bias=booleans,
    )

    def build(self, kernel, stride, padding, dilation, groups, bias):
        self.conv = nn.Conv2d(
            CHANNELS, CHANNELS, kernel, stride, padding, dilation, groups, bias=bias
        )

    def fits(self, size):
        reach = span(self.p["kernel"], self.p["dilation"])
        return all(s + 2 * p >= r for s, p, r in zip(size, self.p["padding"], reach, strict=True))

    def forward(self, run, x):
        return run(self.conv, x)


class ConvSame(Operator):
    """``padding='same'``; with an even span torch pads one side first, which is a step."""

    draws = dict(kernel=KERNELS, dilation=several((1, 1, 2, 3)), groups=groups)

    def build(self, kernel, dilation, groups):
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, kernel, 1, "same", dilation, groups)
        total = [s - 1 for s in span(kernel, dilation)]
        self.extra = (0, total[1] % 2, 0, total[0] % 2)
        self.rest = (total[0] // 2, total[1] // 2)

    def forward(self, run, x):
        if not any(self.extra):
            return run(self.conv, x)
        x = run(lambda x: F.pad(x, self.extra), x)
        conv, p = self.conv, self.p
        return run(
            lambda x: F.conv2d(x, conv.weight, conv.bias, 1, self.rest, p["dilation"], p["groups"]),
            x,
        )


class PaddedConv(Operator):
    """A convolution after ``F.pad`` in any mode; ``nn.Conv2d(padding_mode=...)`` is made so."""

    draws = dict(
        mode=st.sampled_from(("constant", "reflect", "replicate", "circular")),
        pad=st.tuples(*[st.integers(0, 5)] * 4),
        value=st.sampled_from((0.0, 0.0, 1.5)),
        kernel=KERNELS,
        stride=STRIDES,
        groups=groups,
    )

    def build(self, mode, pad, value, kernel, stride, groups):
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, kernel, stride, groups=groups)

    def fits(self, size):
        pad = self.p["pad"]
        grown = size[0] + pad[2] + pad[3], size[1] + pad[0] + pad[1]
        enough = all(g >= k for g, k in zip(grown, self.p["kernel"], strict=True))
        return min(size) > max(pad) and enough

    def forward(self, run, x):
        p = self.p
        value = dict(value=p["value"]) if p["mode"] == "constant" else {}
        x = run(lambda x: F.pad(x, p["pad"], mode=p["mode"], **value), x)
        return run(self.conv, x)


class Pad(Operator):
    """Padding or, with negative values, a crop, without a convolution that could swallow it."""

    draws = dict(pad=st.tuples(*[st.integers(-3, 5)] * 4), value=st.sampled_from((0.0, -2.0)))

    def fits(self, size):
        return min(size) > 8 and max(size) < LARGEST

    def forward(self, run, x):
        return run(lambda x: F.pad(x, self.p["pad"], value=self.p["value"]), x)


class Transposed(Operator):
    draws = dict(
        kernel=several((1, 2, 3, 4, 5)),
        stride=several((1, 2, 2, 2, 3, 4)),
        padding=several((0, 0, 1, 2)),
        output_padding=several((0, 0, 1)),
        dilation=several((1, 1, 1, 2)),
        groups=groups,
        bias=booleans,
    )

    def build(self, kernel, stride, padding, output_padding, dilation, groups, bias):
        extra = [
            min(o, max(s, d) - 1) for o, s, d in zip(output_padding, stride, dilation, strict=True)
        ]
        self.conv = nn.ConvTranspose2d(
            CHANNELS, CHANNELS, kernel, stride, padding, extra, groups, bias, dilation
        )

    def fits(self, size):
        p = self.p
        reach = span(p["kernel"], p["dilation"])
        out = [
            (n - 1) * s - 2 * q + r
            for n, s, q, r in zip(size, p["stride"], p["padding"], reach, strict=True)
        ]
        return min(out) >= 1 and max(out) < LARGEST

    def forward(self, run, x):
        return run(self.conv, x)


class MaxPool(Operator):
    draws = dict(
        kernel=several((1, 2, 3, 3, 5)),
        stride=st.one_of(st.none(), STRIDES),
        padding=several((0, 1, 2)),
        dilation=several((1, 1, 2, 7)),
        ceil_mode=booleans,
    )

    def fits(self, size):
        reach = span(self.p["kernel"], self.p["dilation"])
        return all(s >= r for s, r in zip(size, reach, strict=True))

    def forward(self, run, x):
        p = self.p
        padding = [min(q, k // 2) for q, k in zip(p["padding"], p["kernel"], strict=True)]
        stride = {} if p["stride"] is None else dict(stride=p["stride"])
        return run(
            lambda x: F.max_pool2d(
                x,
                p["kernel"],
                padding=padding,
                dilation=p["dilation"],
                ceil_mode=p["ceil_mode"],
                **stride,
            ),
            x,
        )


class AvgPool(Operator):
    draws = dict(
        kernel=several((1, 2, 3, 3, 5)),
        stride=st.one_of(st.none(), STRIDES),
        padding=several((0, 1, 2)),
        ceil_mode=booleans,
        include_pad=booleans,
        divisor=st.sampled_from((None, None, 3)),
    )

    def fits(self, size):
        return all(s >= k for s, k in zip(size, self.p["kernel"], strict=True))

    def forward(self, run, x):
        p = self.p
        padding = [min(q, k // 2) for q, k in zip(p["padding"], p["kernel"], strict=True)]
        return run(
            lambda x: F.avg_pool2d(
                x,
                p["kernel"],
                p["stride"],
                padding,
                p["ceil_mode"],
                p["include_pad"],
                p["divisor"],
            ),
            x,
        )


SCALES = several((0.37, 0.5, 0.5, 1.0, 1.3, 1.5, 2.0, 2.0, 2.0, 3.0, 4.0))


class Resize(Operator):
    draws = dict(
        mode=st.sampled_from(
            ("nearest", "nearest", "nearest-exact", "bilinear", "bilinear", "bicubic", "area")
        ),
        corners=booleans,
        antialias=st.sampled_from((False, False, False, True)),
        size=st.one_of(st.none(), st.tuples(st.integers(1, 40), st.integers(1, 40))),
        scale=SCALES,
        recompute=st.sampled_from((None, True)),
    )

    def fits(self, size):
        out = self.p["size"] or [int(n * s) for n, s in zip(size, self.p["scale"], strict=True)]
        if self.p["antialias"] and out[1] == 1:
            return False  # torch 2.13 itself is wrong there if the map lies channels last
        return min(out) >= 1 and max(out) < LARGEST

    def forward(self, run, x):
        p = self.p
        options = dict(mode=p["mode"])
        if p["mode"] in ("bilinear", "bicubic"):
            options.update(align_corners=p["corners"], antialias=p["antialias"])
        if p["size"] is None:
            options.update(scale_factor=p["scale"], recompute_scale_factor=p["recompute"])
        else:
            options.update(size=p["size"])
        return run(lambda x: F.interpolate(x, **options), x)


class PixelShuffle(Operator):
    draws = dict(again=booleans)

    def build(self, again):
        self.mix = nn.Conv2d(CHANNELS // 4, CHANNELS, 1)

    def fits(self, size):
        return max(size) < LARGEST // 2

    def forward(self, run, x):
        x = run(lambda x: F.pixel_shuffle(x, 2), x)
        if self.p["again"]:
            return run(lambda x: F.pixel_unshuffle(x, 2), x)
        return run(self.mix, x)


class PixelUnshuffle(Operator):
    def build(self):
        self.mix = nn.Conv2d(4 * CHANNELS, CHANNELS, 1)

    def fits(self, size):
        return min(size) >= 2

    def forward(self, run, x):
        height, width = (n // 2 * 2 for n in x.shape[2:])
        if (height, width) != tuple(x.shape[2:]):
            x = run(lambda x: x[:, :, :height, :width], x)
        return run(lambda x: self.mix(F.pixel_unshuffle(x, 2)), x)


class StridedSlice(Operator):
    draws = dict(start=several((0, 1, 2)), step=several((1, 2, 2, 3, 4)), ellipsis=booleans)

    def fits(self, size):
        return min(size) > 3

    def forward(self, run, x):
        (a, b), (s, t) = self.p["start"], self.p["step"]
        if self.p["ellipsis"]:
            return run(lambda x: x[..., a::s, b::t], x)
        return run(lambda x: x[:, :, a::s, b::t], x)


class Focus(Operator):
    """YOLOX's stem."""

    def build(self):
        self.mix = nn.Conv2d(4 * CHANNELS, CHANNELS, 3, padding=1)

    def fits(self, size):
        return min(size) >= 4

    def forward(self, run, x):
        height, width = (n // 2 * 2 for n in x.shape[2:])
        if (height, width) != tuple(x.shape[2:]):
            x = run(lambda x: x[..., :height, :width], x)
        parts = [
            run(lambda x, a=a, b=b: x[..., a::2, b::2], x)
            for a, b in ((0, 0), (1, 0), (0, 1), (1, 1))
        ]
        return run(self.mix, run(lambda *parts: torch.cat(parts, 1), *parts))


class Crop(Operator):
    draws = dict(cut=st.tuples(*[st.integers(0, 4)] * 4), narrow=booleans)

    def fits(self, size):
        return min(size) > 9

    def forward(self, run, x):
        top, bottom, left, right = self.p["cut"]
        height, width = x.shape[2] - top - bottom, x.shape[3] - left - right
        if self.p["narrow"]:
            x = run(lambda x: x.narrow(2, top, height), x)
            return run(lambda x: x.narrow(3, left, width), x)
        x = run(lambda x: x[:, :, top : top + height], x)
        return run(lambda x: x[..., left : left + width], x)


class BatchNorm(Operator):
    draws = dict(affine=booleans, inplace=booleans)

    def build(self, affine, inplace):
        self.norm = nn.BatchNorm2d(CHANNELS, affine=affine)
        nn.init.uniform_(self.norm.running_mean, -1, 1)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        self.relu = nn.ReLU(inplace)

    def forward(self, run, x):
        return run(lambda x: self.relu(self.norm(x)), x)


class ChannelLayerNorm(Operator):
    """ConvNeXt's, both ways, and as a mean and a variance over the channels."""

    draws = dict(kind=st.sampled_from(("permute", "by hand", "mmcv", "moveaxis", "var")))

    def build(self, kind):
        self.norm = nn.LayerNorm(CHANNELS)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.uniform_(self.norm.bias, -1, 1)

    def forward(self, run, x):
        return run(getattr(self, self.p["kind"].replace(" ", "_")), x)

    def permute(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def moveaxis(self, x):
        return self.norm(x.movedim(1, -1)).movedim(-1, 1).contiguous()

    def mmcv(self, x):
        shape, weight, bias = self.norm.normalized_shape, self.norm.weight, self.norm.bias
        y = F.layer_norm(x.permute(0, 2, 3, 1).contiguous(), shape, weight, bias, 1e-6)
        return y.permute(0, 3, 1, 2).contiguous()

    def by_hand(self, x):
        mean = x.mean(1, keepdim=True)
        square = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(square + 1e-6)
        return self.norm.weight[:, None, None] * x + self.norm.bias[:, None, None]

    def var(self, x):
        variance, mean = torch.var_mean(x, 1, unbiased=False, keepdim=True)
        return (x - mean) * (variance + 1e-5).rsqrt() * self.norm.weight.view(1, -1, 1, 1)


class GroupNorm(Operator):
    draws = dict(groups=st.sampled_from((1, 2, 8)))

    def build(self, groups):
        self.norm = nn.GroupNorm(groups, CHANNELS, STEADY)
        nn.init.uniform_(self.norm.bias, -1, 1)

    def fits(self, size):
        return size[0] * size[1] > 8  # Few pixels have no statistics worth dividing by.

    def forward(self, run, x):
        return run(self.norm, x)


class InstanceNorm(Operator):
    draws = dict(affine=booleans)

    def build(self, affine):
        self.norm = nn.InstanceNorm2d(CHANNELS, STEADY, affine=affine)

    def fits(self, size):
        return size[0] * size[1] > 8

    def forward(self, run, x):
        return run(self.norm, x)


class AdaptivePool(Operator):
    """Pyramid pooling: to a few bins, a convolution, back to the map's size, beside the map."""

    draws = dict(bins=several((1, 2, 3, 6)), kind=st.sampled_from(("avg", "max")), corners=booleans)

    def build(self, bins, kind, corners):
        self.mix, self.join = nn.Conv2d(CHANNELS, 4, 1), nn.Conv2d(CHANNELS + 4, CHANNELS, 1)

    def forward(self, run, x):
        pool = F.adaptive_avg_pool2d if self.p["kind"] == "avg" else F.adaptive_max_pool2d
        y = run(lambda x: self.mix(pool(x, self.p["bins"])), x)
        size, corners = tuple(x.shape[2:]), self.p["corners"]
        y = run(lambda y: F.interpolate(y, size=size, mode="bilinear", align_corners=corners), y)
        return run(lambda x, y: self.join(torch.cat([x, y], 1)), x, y)


class SqueezeExcite(Operator):
    draws = dict(kind=st.sampled_from(("mean", "adaptive", "linear", "grn", "sum")))

    def build(self, kind):
        self.mix, self.linear = nn.Conv2d(CHANNELS, CHANNELS, 1), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, run, x):
        return run(getattr(self, "by_" + self.p["kind"]), x)

    def by_mean(self, x):
        return x * self.mix(x.mean((2, 3), keepdim=True)).sigmoid()

    def by_adaptive(self, x):
        return x * F.hardsigmoid(self.mix(F.adaptive_avg_pool2d(x, 1)))

    def by_sum(self, x):
        return x + torch.tanh(self.mix(x.sum(dim=[2, 3], keepdim=True) / x[0, 0].numel()))

    def by_linear(self, x):
        gate = self.linear(F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1)).sigmoid()
        return x * gate.view(x.size(0), x.size(1), 1, 1).expand_as(x)

    def by_grn(self, x):
        norm = torch.norm(x, p=2, dim=(2, 3), keepdim=True)
        return x * (norm / (norm.mean(1, keepdim=True) + 1e-6)) + x


class ChannelShuffle(Operator):
    draws = dict(
        groups=st.sampled_from((2, 4)),
        kind=st.sampled_from(("view", "reshape", "torch", "published", "images")),
    )

    def forward(self, run, x):
        return run(self.shuffle, x)

    def shuffle(self, x):
        groups = self.p["groups"]
        if self.p["kind"] == "torch":
            return F.channel_shuffle(x, groups)
        if self.p["kind"] in ("published", "images"):
            return self.of_images_and_channels(x)
        batch, channels, height, width = x.size()
        x = x.view(batch, groups, channels // groups, height, width)
        x = torch.transpose(x, 1, 2).contiguous()
        if self.p["kind"] == "reshape":
            return x.reshape(batch, -1, height, width)
        return x.view(batch, -1, height, width)

    def of_images_and_channels(self, x):
        """As ShuffleNetV2 has it published: images and channels are one dimension on the way."""
        batch, channels, height, width = x.shape
        if self.p["kind"] == "images":
            groups = x.reshape(batch * self.p["groups"], -1, height, width)
            return (groups * groups.mean(1, keepdim=True)).view(x.shape)
        x = x.reshape(batch * channels // 2, 2, height * width).permute(1, 0, 2)
        x = x.reshape(2, -1, channels // 2, height, width)
        return torch.cat([x[0], x[1].relu()], 1)


class GroupsAsImages(Operator):
    """Groups of channels as images: a gate of each group, a blur of each channel, linear attention.

    As in shuffle attention, anti-aliased pooling, and attention over channels with heads.
    """

    draws = dict(kind=st.sampled_from(("gate", "blur", "pool", "resize", "norm", "attend")))

    def build(self, kind):
        self.group_norm = nn.GroupNorm(2, CHANNELS // 2, eps=STEADY)
        self.mix = nn.Conv2d(CHANNELS, 3 * CHANNELS, 1)

    def fits(self, size):
        return min(size) >= 3

    def forward(self, run, x):
        if self.p["kind"] == "attend":
            qkv = run(self.mix, x)
            return run(self.attend, qkv)
        return run(getattr(self, self.p["kind"]), x)

    def gate(self, x):
        y = x.reshape(len(x) * 4, -1, *x.shape[2:])
        gate = y.mean((2, 3), keepdim=True)
        return (y * gate.sigmoid() + gate[:, :1]).reshape(x.shape)

    def blur(self, x):
        weight = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype)
        weight = (weight[:, None] * weight / 16)[None, None]
        return F.conv2d(x.reshape(-1, 1, *x.shape[2:]), weight, padding=1).reshape(x.shape)

    def pool(self, x):
        return F.avg_pool2d(x.reshape(len(x) * 2, -1, *x.shape[2:]), 3, 1, 1).reshape(x.shape)

    def resize(self, x):
        size = [n + 3 for n in x.shape[2:]]
        y = x.reshape(len(x) * 2, -1, *x.shape[2:])
        y = F.interpolate(y, size=size, mode="bilinear")
        return y.reshape(len(x), CHANNELS, *size)

    def norm(self, x):
        y = self.group_norm(x.reshape(len(x) * 2, -1, *x.shape[2:]))
        return y.reshape(x.shape)

    def attend(self, qkv):
        """The product of keys and values is a matrix for each image and head."""
        images, _, height, width = qkv.shape
        q, k, v = qkv.reshape(images * 2, 3, 4, height * width).unbind(1)
        out = (q.transpose(1, 2) @ (k.softmax(-1) @ v.transpose(1, 2))).transpose(1, 2)
        return out.reshape(images, CHANNELS, height, width)


class Windows(Operator):
    """Attention inside windows, and rows and columns that part and join again."""

    draws = dict(
        kind=st.sampled_from(
            (
                "attention",
                "fused",
                "merge",
                "enlarge",
                "slices",
                "pool",
                "channels_first",
                "padded",
                "unfolded",
            )
        ),
        side=st.sampled_from((2, 2, 4, (2, 1))),
    )

    def build(self, kind, side):
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS)
        self.mix = nn.Linear(4 * CHANNELS, CHANNELS)
        self.sides = side if isinstance(side, tuple) else (side, side)

    def fits(self, size):
        sides = self.sides if self.p["kind"] not in ("merge", "slices") else (2, 2)
        if self.p["kind"] == "padded":
            return min(size) >= max(sides)
        enlarges = self.p["kind"] == "enlarge"
        return all(n % side == 0 for n, side in zip(size, sides, strict=True)) and (
            not enlarges or max(size) < LARGEST
        )

    def forward(self, run, x):
        return run(getattr(self, "by_" + self.p["kind"]), x)

    def by_attention(self, x):
        (a, b), (images, _, height, width) = self.sides, x.shape
        y = x.permute(0, 2, 3, 1).view(images, height // a, a, width // b, b, CHANNELS)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(-1, a * b, CHANNELS)
        q, k, v = self.qkv(y).view(-1, a * b, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        if self.p["kind"] == "fused":
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = ((q * 0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        y = y + out.transpose(1, 2).reshape(y.shape)
        y = y.view(images, height // a, width // b, a, b, CHANNELS).permute(0, 1, 3, 2, 4, 5)
        return y.reshape(images, height, width, CHANNELS).permute(0, 3, 1, 2)

    by_fused = by_attention

    def by_merge(self, x):
        """Patch merging, as pixel unshuffle by hand."""
        images, _, height, width = x.shape
        y = x.permute(0, 2, 3, 1).reshape(images, height // 2, 2, width // 2, 2, CHANNELS)
        return self.mix(y.permute(0, 1, 3, 4, 2, 5).flatten(3)).permute(0, 3, 1, 2)

    def by_slices(self, x):
        y = x.permute(0, 2, 3, 1)
        y = [y[:, i::2, j::2, :] for j in (0, 1) for i in (0, 1)]
        return self.mix(torch.cat(y, -1)).permute(0, 3, 1, 2).contiguous()

    def by_enlarge(self, x):
        (a, b), (images, _, height, width) = self.sides, x.shape
        y = x.repeat(1, a * b, 1, 1).view(images, a, b, CHANNELS, height, width)
        y = y.permute(0, 3, 4, 1, 5, 2)
        return y.reshape(images, CHANNELS, height * a, width * b)

    def by_pool(self, x):
        (a, b), (images, _, height, width) = self.sides, x.shape
        return x.view(images, CHANNELS, height // a, a, width // b, b).amax((3, 5))

    def by_unfolded(self, x):
        """As MobileViT has it: what stands at one place of all windows looks at each other."""
        (a, b), (images, _, height, width) = self.sides, x.shape
        rows, columns = height // a, width // b
        y = x.reshape(images * CHANNELS * rows, a, columns, b).transpose(1, 2)
        y = y.reshape(images, CHANNELS, rows * columns, a * b).transpose(1, 3)
        y = y.reshape(images * a * b, rows * columns, CHANNELS)
        q, k, v = self.qkv(y).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(y.shape)
        y = (y + out).contiguous().view(images, a * b, rows * columns, CHANNELS).transpose(1, 3)
        y = y.reshape(images * CHANNELS * rows, columns, a, b).transpose(1, 2)
        return y.reshape(images, CHANNELS, height, width)

    def by_padded(self, x):
        """As in most of them: what lacks for whole windows is zeros, to the right and below."""
        (a, b), (height, width) = self.sides, x.shape[2:]
        y = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, -width % b, 0, -height % a))
        y = y.permute(0, 3, 1, 2) + 0.5
        return self.by_attention(y)[:, :, :height, :width]

    def by_channels_first(self, x):
        (a, b), (images, _, height, width) = self.sides, x.shape
        y = x.reshape(images, CHANNELS, height // a, a, width // b, b)
        y = y - y.mean((3, 5), keepdim=True)
        return y.reshape(x.shape)


class ViewNorm(Operator):
    """Norms and convolutions of a view: of patches, as MobileViTv2 has them, and of tokens."""

    draws = dict(groups=st.sampled_from((1, 2, 4)))

    def build(self, groups):
        self.group_norm = nn.GroupNorm(groups, CHANNELS, STEADY)
        self.batch_norm = nn.BatchNorm1d(CHANNELS)
        self.mix = nn.Conv1d(CHANNELS, CHANNELS, 1)
        for norm in (self.group_norm, self.batch_norm):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.uniform_(norm.bias, -1, 1)

    def fits(self, size):
        return all(n % 2 == 0 for n in size)

    def forward(self, run, x):
        return run(self.norm, x)

    def norm(self, x):
        images, _, height, width = x.shape
        y = x.reshape(images, CHANNELS, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
        y = self.group_norm(y.reshape(images, CHANNELS, 4, -1))
        y = F.conv2d(y, self.mix.weight[..., None])
        y = y.reshape(images, CHANNELS, 2, 2, height // 2, width // 2).permute(0, 1, 4, 2, 5, 3)
        y = self.batch_norm(y.reshape(x.shape).flatten(2))
        return self.mix(y).view(x.shape)


class ShiftedWindows(Operator):
    """Attention inside windows that a map rolled by half of one is cut into, with Swin's mask."""

    draws = dict(side=st.sampled_from((2, 4, 8)), channels_last=booleans)

    def build(self, side, channels_last):
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS)

    def fits(self, size):
        return all(n % self.p["side"] == 0 for n in size)

    def forward(self, run, x):
        half = self.p["side"] // 2
        dims = (1, 2) if self.p["channels_last"] else (2, 3)

        def moved(x, by):
            x = x.permute(0, 2, 3, 1) if self.p["channels_last"] else x
            x = torch.roll(x, (by, by), dims)
            return x.permute(0, 3, 1, 2) if self.p["channels_last"] else x

        y = run(lambda x: moved(x, -half), x)
        y = run(self.attend, y)
        return run(lambda y: moved(y, half), y)

    def attend(self, x):
        side, (images, _, height, width) = self.p["side"], x.shape
        rows, cols = height // side, width // side
        y = x.permute(0, 2, 3, 1).view(images, rows, side, cols, side, CHANNELS)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * side, CHANNELS)
        q, k, v = self.qkv(y).view(-1, side * side, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        # Of the last windows the halves come from opposite edges of the picture.
        part = torch.zeros(height, width, dtype=torch.int64)
        part[height - side // 2 :] += 1
        part[:, width - side // 2 :] += 2
        part = part.view(rows, side, cols, side).transpose(1, 2).reshape(rows * cols, -1)
        mask = (part[:, None] != part[:, :, None]).to(x.dtype) * -100
        scores = (q * 0.5) @ k.transpose(-2, -1)
        scores = scores.view(images, -1, 2, side * side, side * side) + mask[None, :, None]
        out = scores.view(-1, 2, side * side, side * side).softmax(-1) @ v
        y = y + out.transpose(1, 2).reshape(y.shape)
        y = y.view(images, rows, cols, side, side, CHANNELS).permute(0, 1, 3, 2, 4, 5)
        return y.reshape(images, height, width, CHANNELS).permute(0, 3, 1, 2)


class SplitAttention(Operator):
    """ResNeSt's: radix groups of channels, weighed against each other."""

    def build(self):
        self.conv = nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, padding=1, groups=2)
        self.mix = nn.Conv2d(CHANNELS, 2 * CHANNELS, 1)

    def forward(self, run, x):
        return run(self.attend, run(self.conv, x))

    def attend(self, x):
        splits = x.view(x.size(0), 2, CHANNELS, *x.shape[2:])
        gap = splits.sum(dim=1).mean((2, 3), keepdim=True)
        gate = self.mix(gap).view(x.size(0), 1, 2, -1).transpose(1, 2).softmax(1)
        return (splits * gate.reshape(x.size(0), 2, CHANNELS, 1, 1)).sum(1)


class Parts(Operator):
    """Splits of the channels, joined again in another way."""

    draws = dict(
        kind=st.sampled_from(
            "chunk split sizes stack unbind index slice step reverse swap tensor_split "
            "repeat".split()
        )
    )

    def forward(self, run, x):
        return run(getattr(self, "by_" + self.p["kind"]), x)

    def by_chunk(self, x):
        a, b = x.chunk(2, dim=1)
        return torch.cat((b, a.tanh()), dim=1)

    def by_split(self, x):
        return torch.cat(x.split(3, 1)[::-1], -3)

    def by_sizes(self, x):
        a, b, c = torch.split(x, [1, 5, 2], dim=1)
        return torch.cat([c, b * 2, a], 1)

    def by_stack(self, x):
        return torch.stack([x[:, :4], x[:, 4:]], dim=2).flatten(1, 2)

    def by_unbind(self, x):
        return torch.stack(x.unbind(1)[::-1], 1)

    def by_index(self, x):
        return x[:, [7, 0, 1, 2, 3, 4, 5, 6]]

    def by_slice(self, x):
        return torch.cat([x[:, 5:], x[:, :2], x[:, 2:5]], 1)

    def by_step(self, x):
        return torch.cat([x[:, ::2], x[:, 1::2]], 1)

    def by_reverse(self, x):
        return x.flip(1)

    def by_swap(self, x):
        return x.view(x.size(0), 2, 4, *x.shape[2:]).flip(1).flatten(1, 2)

    def by_tensor_split(self, x):
        a, b, c = x.tensor_split((2, 3), dim=1)
        return torch.cat([b, c, a], 1)

    def by_repeat(self, x):
        return x[:, :2].repeat(1, 4, 1, 1) + x[:, 6:7].expand(-1, 8, -1, -1)


class Tokens(Operator):
    """Maps as rows of tokens and back, as SegFormer and PVT have them."""

    draws = dict(kind=st.sampled_from("norm mlp attention torch reshape rows".split()))

    def build(self, kind):
        self.norm = nn.LayerNorm(CHANNELS)
        self.mlp = nn.Sequential(
            nn.Linear(CHANNELS, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, CHANNELS)
        )
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS)
        self.attention = nn.MultiheadAttention(CHANNELS, 2, batch_first=True)

    def fits(self, size):
        return size[0] * size[1] < 1000

    def forward(self, run, x):
        return run(lambda x: getattr(self, "by_" + self.p["kind"])(x, *x.shape[2:]), x)

    def by_norm(self, x, height, width):
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).view(x.size(0), -1, height, width)

    def by_mlp(self, x, height, width):
        tokens = x.flatten(2).transpose(1, 2).contiguous()
        tokens = tokens + self.mlp(self.norm(tokens))
        return tokens.transpose(1, 2).reshape(-1, CHANNELS, height, width)

    def by_reshape(self, x, height, width):
        tokens = x.reshape(x.shape[0], CHANNELS, height * width).permute(0, 2, 1)
        return self.mlp(tokens).permute(0, 2, 1).reshape(x.shape).contiguous()

    def by_rows(self, x, height, width):
        return self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) + x

    def by_attention(self, x, height, width):
        images, length = x.shape[0], height * width
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        qkv = self.qkv(tokens).reshape(images, length, 3, 2, CHANNELS // 2)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        out = ((q @ k.transpose(-2, -1)) * 0.5).softmax(-1) @ v
        tokens = tokens + out.transpose(1, 2).reshape(images, length, CHANNELS)
        return tokens.transpose(1, 2).view(images, CHANNELS, height, width)

    def by_torch(self, x, height, width):
        tokens = x.flatten(2).permute(0, 2, 1)
        out = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return (tokens + out).permute(0, 2, 1).view_as(x)


class MixFeedForward(Operator):
    """SegFormer's: tokens, a depthwise convolution on the map, tokens."""

    def build(self):
        self.up, self.down = nn.Linear(CHANNELS, 16), nn.Linear(16, CHANNELS)
        self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16)

    def forward(self, run, x):
        height, width = x.shape[2:]

        def grow(x):
            tokens = self.up(x.flatten(2).transpose(1, 2))
            return tokens.transpose(1, 2).view(x.shape[0], 16, height, width)

        def shrink(x, y):
            tokens = self.down(F.gelu(y.flatten(2).transpose(1, 2)))
            tokens = x.flatten(2).transpose(1, 2) + tokens
            return tokens.transpose(1, 2).reshape(x.shape)

        return run(shrink, x, run(self.depthwise, run(grow, x)))


class ReducedAttention(Operator):
    """Attention whose keys come from a strided convolution, as in PVT and SegFormer."""

    draws = dict(ratio=st.sampled_from((2, 4)))

    def build(self, ratio):
        self.reduce = nn.Conv2d(CHANNELS, CHANNELS, ratio, ratio)
        self.norm = nn.LayerNorm(CHANNELS)
        self.q, self.kv = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, 2 * CHANNELS)

    def fits(self, size):
        return min(size) >= 4 and size[0] * size[1] < 1000

    def forward(self, run, x):
        return run(self.attend, x, run(self.reduce, x))

    def attend(self, x, y):
        q = self.q(x.flatten(2).transpose(1, 2))
        k, v = self.kv(self.norm(y.flatten(2).transpose(1, 2))).chunk(2, -1)
        tokens = q + F.scaled_dot_product_attention(q, k, v)
        return tokens.transpose(1, 2).reshape(x.shape)


class Einsum(Operator):
    counts_images = True
    draws = dict(kind=st.sampled_from(("mix", "classes", "gate")))

    def build(self, kind):
        self.weight = nn.Parameter(torch.randn(CHANNELS, CHANNELS) / 3)

    def forward(self, run, x):
        if self.p["kind"] == "mix":
            return run(lambda x: torch.einsum("nchw,dc->ndhw", x, self.weight), x)
        if self.p["kind"] == "classes":
            queries = self.weight.expand(x.shape[0], -1, -1)
            return run(lambda x: torch.einsum("bqc,bchw->bqhw", queries, x), x)
        return run(lambda x: x + torch.einsum("nchw,nc->nhw", x, x.mean((2, 3)))[:, None], x)


class OverChannels(Operator):
    """Reductions and softmax over the channels alone."""

    draws = dict(
        kind=st.sampled_from(
            "softmax log_softmax normalize mean max amax sum norm argmax sort cumsum std".split()
        )
    )

    def forward(self, run, x):
        return run(getattr(self, "by_" + self.p["kind"]), x)

    def by_softmax(self, x):
        return x.softmax(dim=1)

    def by_log_softmax(self, x):
        return F.log_softmax(x, 1)

    def by_normalize(self, x):
        return F.normalize(x, dim=1, eps=1e-3)

    def by_mean(self, x):
        return x - x.mean(1, True)

    def by_max(self, x):
        return x - x.max(dim=1, keepdim=True)[0]

    def by_amax(self, x):
        return x + x.amax(1, keepdim=True) - x.amin(dim=-3, keepdim=True)

    def by_sum(self, x):
        return x * x.sum(1).unsqueeze(1).sigmoid()

    def by_norm(self, x):
        return x / (x.norm(2, dim=1, keepdim=True) + 0.1)

    def by_argmax(self, x):
        return x + F.one_hot((x + x).argmax(1), CHANNELS).permute(0, 3, 1, 2).to(x.dtype)

    def by_sort(self, x):
        return x.sort(1)[0]

    def by_cumsum(self, x):
        return x.cumsum(1)

    def by_std(self, x):
        return x / (x.std(1, keepdim=True) + 0.5)


class SpatialAttention(Operator):
    """CBAM's: mean and maximum over the channels, a wide convolution, a gate."""

    def build(self):
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, run, x):
        y = run(lambda x: torch.cat([x.mean(1, True), x.max(1, True)[0]], 1), x)
        y = run(self.conv, y)
        return run(lambda x, y: x * y.sigmoid(), x, y)


class Unfold(Operator):
    draws = dict(kind=st.sampled_from(("unfold", "fold", "windows")))

    def build(self, kind):
        self.mix = nn.Conv2d(9 * CHANNELS, CHANNELS, 1)

    def fits(self, size):
        return min(size) >= 8

    def forward(self, run, x):
        return run(getattr(self, self.p["kind"]), x)

    def unfold(self, x):
        return self.mix(F.unfold(x, 3, padding=1).view(x.size(0), -1, *x.shape[2:]))

    def fold(self, x):
        return F.fold(F.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1)

    def windows(self, x):
        """Windows as Swin cuts them, of a map padded to whole ones."""
        images, channels, height, width = x.shape
        below, right = -height % 4, -width % 4
        y = F.pad(x, (0, right, 0, below))
        y = y.view(images, channels, (height + below) // 4, 4, (width + right) // 4, 4)
        y = y - y.mean((3, 5), keepdim=True)
        return y.reshape(images, channels, height + below, width + right)[:, :, :height, :width]


class GridSample(Operator):
    draws = dict(corners=booleans, mode=st.sampled_from(("bilinear", "nearest")), zoom=booleans)

    def fits(self, size):
        return max(size) < LARGEST

    def forward(self, run, x):
        zoom = 1.7 if self.p["zoom"] else 0.4
        theta = torch.tensor([[zoom, 0.1, 0.2], [-0.1, zoom, 0.05]])

        def sample(x):
            points = theta.to(x.dtype).expand(x.size(0), -1, -1)
            points = F.affine_grid(points, [x.size(0), 1, *x.shape[2:]], align_corners=False)
            return F.grid_sample(x, points, mode=self.p["mode"], align_corners=self.p["corners"])

        return run(sample, x)


class Activation(Operator):
    draws = dict(
        kind=st.sampled_from(
            "relu relu6 leaky_relu elu gelu silu mish sigmoid tanh hardswish hardsigmoid softplus "
            "selu celu logsigmoid hardtanh softsign prelu abs sqrt exp square".split()
        )
    )

    def build(self, kind):
        self.slopes = nn.Parameter(torch.linspace(-0.5, 0.5, CHANNELS))

    def forward(self, run, x):
        kind = self.p["kind"]
        if kind == "prelu":
            return run(lambda x: F.prelu(x, self.slopes), x)
        if kind == "abs":
            return run(torch.abs, x)
        if kind == "sqrt":  # NaN where it is negative: they too must be where they belong.
            return run(lambda x: torch.sqrt(x + 2.5), x)
        if kind == "exp":
            return run(lambda x: (x * 0.3).exp(), x)
        if kind == "square":
            return run(lambda x: x**2 * 0.2 + 1 - x, x)
        return run(getattr(F, kind), x)


class InPlace(Operator):
    """Writes to the map itself: whoever reads it afterwards sees it."""

    draws = dict(
        kind=st.sampled_from(
            "relu add mul clamp rows channel column region flat setitem mask fill copy chunk "
            "view_later slice_add sub_ lerp data near_crop far_crop strided joined beside".split()
        ),
        before=booleans,
    )

    def build(self, kind, before):
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)

    def fits(self, size):
        return min(size) > 6

    def forward(self, run, x):
        if not self.p["before"]:
            return run.write(getattr(self, "do_" + self.p["kind"]), x)
        # A layer has read the map and keeps it for its halo: the write must not get there, and the
        # next layer must see it.
        y = run(self.conv, x)
        x = run.write(getattr(self, "do_" + self.p["kind"]), x)
        return run(lambda y, z: y - z, y, run(self.conv, x))

    def do_relu(self, x):
        F.relu(x, inplace=True)

    def do_add(self, x):
        x += x.sigmoid()

    def do_mul(self, x):
        x.mul_(torch.linspace(0.5, 1.5, CHANNELS, dtype=x.dtype).view(-1, 1, 1)).add_(0.25)

    def do_clamp(self, x):
        x.clamp_(min=-0.5, max=1.0)

    def do_rows(self, x):
        x[:, :, 0] = 5
        x[:, :, -2:] *= 0.5

    def do_column(self, x):
        x[..., 3] = x[..., 2]

    def do_channel(self, x):
        x[:, 0].add_(1)
        x[:, 1] = 0.5

    def do_region(self, x):
        x[:, 2:5, 1:6, ::2].zero_()

    def do_flat(self, x):
        x.view(x.size(0), -1)[:, 5:60] = 2.0

    def do_setitem(self, x):
        x[:, :2] = x[:, 2:4]

    def do_mask(self, x):
        x.masked_fill_(x > 1, 0.75)

    def do_fill(self, x):
        x[:, 3].fill_(0.5)

    def do_copy(self, x):
        x.copy_(x.flip(1))

    def do_chunk(self, x):
        first, second = x.chunk(2, 1)
        first.sigmoid_()
        second.add_(first)

    def do_view_later(self, x):
        """A view made before a write sees it, and writes through it later."""
        view = x[:, :, 2:5]
        x.add_(1)
        view.mul_(2)

    def do_near_crop(self, x):
        """What is cut off shares blocks with what is written."""
        x[:, :, :-1].mul_(2)
        x[..., :-3][:, 2:].add_(1)

    def do_far_crop(self, x):
        x[:, :, 2:, 1:].sub_(0.5)

    def do_strided(self, x):
        x[:, :, ::2, 1::2].mul_(0.25)
        x[..., 1::2, :-2].clamp_(max=0.5)

    def do_joined(self, x):
        """Rows of a view that a packed map in this layout may have to copy."""
        half, row = x[:, :2], x.flatten(0, 1)[:, 3]
        half.mul_(2)
        row.add_(1)
        half.sub_(0.5)

    def do_beside(self, x):
        """Two views, made in different ways, that do not overlap."""
        one, other = x.permute(0, 2, 3, 1)[:, 1:3], x[:, :, 3:5]
        one.add_(1)
        other.mul_(2)
        one.mul_(0.5)

    def do_slice_add(self, x):
        x[:, 1:4] += x[:, 4:7]

    def do_sub_(self, x):
        x.sub_(x.mean(1, keepdim=True))

    def do_lerp(self, x):
        x.lerp_(torch.zeros_like(x), 0.25)

    def do_data(self, x):
        x.detach().mul_(0.5)


class WithDense(Operator):
    """A map and what is none of the engine's: constants of every shape that broadcasts."""

    draws = dict(
        shape=st.sampled_from(
            "NCHW 1CHW NC11 1C11 C11 11HW N1HW HW W H1 N111 1 scalar tensor".split()
        ),
        op=st.sampled_from(("add", "mul", "rsub", "cat", "where", "maximum", "div", "addcmul")),
    )

    def forward(self, run, x):
        images, channels, height, width = x.shape
        sizes = {"N": images, "C": channels, "H": height, "W": width, "1": 1}
        name = self.p["shape"]
        if name == "scalar":
            value = 0.5
        elif name == "tensor":
            value = torch.tensor(0.5)
        else:
            shape = [sizes[letter] for letter in name]
            count = int(torch.tensor(shape).prod())
            value = torch.linspace(0.5, 1.5, count).view(shape)
        return run(lambda x: self.apply_to(x, value), x)

    def apply_to(self, x, value):
        op = self.p["op"]
        if isinstance(value, torch.Tensor):
            value = value.to(x.dtype)
        if op == "add":
            return value + x
        if op == "mul":
            return x * value
        if op == "rsub":
            return value - x
        if op == "div":
            return x / value
        tensor = torch.as_tensor(value, dtype=x.dtype)
        if op == "addcmul":
            return torch.addcmul(x, x, tensor, value=0.3)
        if op == "maximum":
            return torch.maximum(x, tensor)
        if op == "where":
            return torch.where(tensor > 1, x, tensor)
        wide = tensor.expand(x.shape)
        return torch.cat([x[:, :4], wide[:, :2], x[:, 6:]], 1)


class Coordinates(Operator):
    """CoordConv, as SOLO and CondInst have it."""

    def build(self):
        self.conv = nn.Conv2d(CHANNELS + 2, CHANNELS, 3, padding=1)

    def forward(self, run, x):
        def join(x):
            rows = torch.linspace(-1, 1, x.shape[-2], dtype=x.dtype, device=x.device)
            cols = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype, device=x.device)
            y, x_ = torch.meshgrid(rows, cols, indexing="ij")
            y, x_ = (v.expand([x.shape[0], 1, -1, -1]) for v in (y, x_))
            return torch.cat([x, x_, y], 1)

        return run(self.conv, run(join, x))


class Views(Operator):
    """Any views one after the other, ops over the dimensions that they make, and back."""

    counts_images = True
    draws = dict(
        steps=st.lists(
            st.tuples(
                st.sampled_from(
                    "permute transpose flatten unflatten view unsqueeze squeeze select slice "
                    "softmax mean sum layer_norm linear cumsum flip roll mul narrow expand relu_ "
                    "contiguous".split()
                ),
                st.integers(0, 23),
                st.integers(0, 23),
            ),
            min_size=1,
            max_size=7,
        )
    )

    def fits(self, size):
        return size[0] * size[1] < 1000

    def forward(self, run, x):
        return run(self.look, x)

    def look(self, x):
        y = x * 1.0
        for name, i, j in self.p["steps"]:
            y = getattr(self, "do_" + name)(y, i % y.dim(), j % y.dim(), j)
        # A tensor of any shape: seen by all pixels of its image, or as a map again.
        if y.shape == x.shape:
            return y + x
        if y.numel() == x.numel() and y.shape[0] == x.shape[0]:
            return y.reshape(x.shape) - x
        return x + y.sum().tanh()

    def do_permute(self, y, i, j, k):
        order = list(range(y.dim()))
        order.insert(j, order.pop(i))
        return y.permute(order)

    def do_transpose(self, y, i, j, k):
        return y.transpose(i, j)

    def do_flatten(self, y, i, j, k):
        return y.flatten(min(i, j), max(i, j))

    def do_unflatten(self, y, i, j, k):
        factor = (2, 4, 3)[k % 3]
        return y.unflatten(i, (factor, -1)) if y.shape[i] % factor == 0 and y.dim() < 6 else y

    def do_view(self, y, i, j, k):
        """Sizes in another order: memory read in another way, which no permutation is."""
        shape = list(y.shape)
        shape.insert(j, shape.pop(i))
        return y.reshape(shape)

    def do_unsqueeze(self, y, i, j, k):
        return y.unsqueeze(i) if y.dim() < 6 else y

    def do_squeeze(self, y, i, j, k):
        return y.squeeze(i) if y.dim() > 2 else y

    def do_select(self, y, i, j, k):
        return y.select(i, k % y.shape[i]) if y.dim() > 2 else y

    def do_slice(self, y, i, j, k):
        return y[(slice(None),) * i + (slice(k % 2, None, 1 + k % 3),)] if y.shape[i] > 1 else y

    def do_narrow(self, y, i, j, k):
        return y.narrow(i, 0, 1 + k % y.shape[i])

    def do_softmax(self, y, i, j, k):
        return y.softmax(i)

    def do_mean(self, y, i, j, k):
        return y.mean(i, keepdim=True)

    def do_sum(self, y, i, j, k):
        return y.sum(i).tanh() if y.dim() > 2 else y

    def do_layer_norm(self, y, i, j, k):
        return F.layer_norm(y, y.shape[-1:], eps=0.1)

    def do_linear(self, y, i, j, k):
        size = y.shape[-1]
        if size > 40:
            return y
        weight = torch.linspace(-1, 1, size * size, dtype=y.dtype).view(size, size) / size
        return F.linear(y, weight)

    def do_cumsum(self, y, i, j, k):
        return y.cumsum(i) * 0.1

    def do_flip(self, y, i, j, k):
        return y.flip(i)

    def do_roll(self, y, i, j, k):
        return y.roll(5, i)  # half of a window that no block is made of

    def do_mul(self, y, i, j, k):
        shape = [1] * y.dim()
        shape[i] = y.shape[i]
        return y * torch.linspace(0.5, 1.5, y.shape[i], dtype=y.dtype).view(shape)

    def do_expand(self, y, i, j, k):
        shape = list(y.shape)
        if shape[i] != 1 or y.dim() > 5:
            return y
        shape[i] = 2
        return y.expand(shape)

    def do_relu_(self, y, i, j, k):
        # Only where the dense tensor allows it: of an expanded one several values are one.
        return y.relu() if 0 in y.stride() else y.relu_()

    def do_contiguous(self, y, i, j, k):
        return y.contiguous()


class Choose(Operator):
    draws = dict(kind=st.sampled_from("where masked clamp nan_to_num minimum threshold".split()))

    def forward(self, run, x):
        return run(getattr(self, "by_" + self.p["kind"]), x)

    def by_where(self, x):
        return torch.where(x > 0, x, x * 0.1)

    def by_masked(self, x):
        return x.masked_fill(x < 0, -1.0) * (x > -2).to(x.dtype)

    def by_clamp(self, x):
        return torch.clamp(x, -0.7, 0.7) + x.clamp(min=0)

    def by_nan_to_num(self, x):
        return torch.nan_to_num(x / torch.zeros_like(x), nan=0.0, posinf=1.0, neginf=-1.0) + x

    def by_minimum(self, x):
        return torch.minimum(x, x[:, :1])

    def by_threshold(self, x):
        return F.threshold(x, 0.2, -0.4)


class DynamicConv(Operator):
    """Weights made from the map itself, one kernel for each image, by groups over the batch."""

    counts_images = True

    def build(self):
        self.kernel = nn.Linear(CHANNELS, 9 * CHANNELS)

    def fits(self, size):
        return min(size) >= 3

    def forward(self, run, x):
        def convolve(x):
            images, channels, height, width = x.shape
            weight = self.kernel(x.mean((2, 3))).view(images * channels, 1, 3, 3)
            y = x.reshape(1, images * channels, height, width)
            y = F.conv2d(y, weight, padding=1, groups=images * channels)
            return y.view(images, channels, height, width)

        return run(convolve, x)


class Whole(Operator):
    """Ops that no block can run by itself."""

    draws = dict(kind=st.sampled_from("flip roll cumsum transpose global_max rot batch".split()))

    def forward(self, run, x):
        return run(getattr(self, "by_" + self.p["kind"]), x)

    def by_flip(self, x):
        return x.flip(3)

    def by_roll(self, x):
        return torch.roll(x, (-1, 2), (2, 3))

    def by_cumsum(self, x):
        return x.cumsum(2) / x.shape[2]

    def by_transpose(self, x):
        return x.transpose(2, 3).contiguous()

    def by_rot(self, x):
        return x.rot90(1, (2, 3))

    def by_global_max(self, x):
        return x - x.amax((2, 3), keepdim=True) + x.flatten(2).max(-1)[0][..., None, None]

    def by_batch(self, x):
        """The images of a batch one by one, as some heads have them."""
        return torch.cat([image[None] * 2 for image in x], 0)


class Copies(Operator):
    draws = dict(
        kind=st.sampled_from("clone contiguous detach half to like new view unsqueeze".split())
    )

    def forward(self, run, x):
        return run(getattr(self, "by_" + self.p["kind"]), x)

    def by_clone(self, x):
        return x.clone().add_(1)

    def by_contiguous(self, x):
        return x.contiguous(memory_format=torch.channels_last) * 2

    def by_detach(self, x):
        return x.detach() - x.data

    def by_half(self, x):
        return x.double().to(x.dtype)

    def by_to(self, x):
        return x.to(x.device, torch.float64).type_as(x)

    def by_like(self, x):
        return torch.full_like(x, 0.5) + x - torch.ones_like(x) * torch.zeros_like(x)

    def by_new(self, x):
        return x + x.new_zeros(x.shape) + x.new_full((1, CHANNELS, 1, 1), 0.5)

    def by_view(self, x):
        return x.view(x.shape) + x.reshape(x.shape) - x.view_as(x)

    def by_unsqueeze(self, x):
        return x.unsqueeze(1).squeeze(1) + x[:, None].mean(1) + x[None][0]


class Odd(Operator):
    """What model code does besides calling layers."""

    draws = dict(
        kind=st.sampled_from(
            "shift buffer like new out out_given scatter assign bools integers numpy item unpool "
            "neighbours fft topk strided images flips data patches promote empty sizes deepcopy "
            "rrelu pad_channels crop_write transpose_write iterate branch".split()
        )
    )

    def fits(self, size):
        return min(size) >= 6 and max(size) < LARGEST

    def forward(self, run, x):
        return run(lambda x: getattr(self, "by_" + self.p["kind"])(x * 1.0), x)

    def by_shift(self, x):
        """Channels moved by a row or column, as temporal and spatial shifts are written."""
        y = torch.zeros_like(x)
        y[:, :2, :-1] = x[:, :2, 1:]
        y[:, 2:4, :, 1:] = x[:, 2:4, :, :-1]
        y[:, 4:] = x[:, 4:]
        return y

    def by_buffer(self, x):
        y = torch.zeros(x.shape[0], CHANNELS, x.shape[2] + 2, x.shape[3] + 4, dtype=x.dtype)
        y[:, :, 1:-1, 2:-2] = x
        return y

    def by_like(self, x):
        y = torch.empty_like(x)
        y[:, ::2] = x[:, 1::2]
        y[:, 1::2].fill_(0.5)
        return y

    def by_new(self, x):
        return x.new_empty(x.shape).copy_(x) + x

    def by_out(self, x):
        return torch.add(x, x, out=torch.empty_like(x))

    def by_out_given(self, x):
        y = torch.empty(x.shape, dtype=x.dtype)
        torch.mul(x, 2, out=y)
        return y

    def by_scatter(self, x):
        return x + torch.zeros_like(x).scatter_(1, x.argmax(1, keepdim=True), 1.0)

    def by_assign(self, x):
        x[x > 1] = 0.5
        return x

    def by_bools(self, x):
        return x * ((x > 0) & (x < 1) | ~(x > -1))

    def by_integers(self, x):
        return x + (x * 10).long().clamp(-5, 5) // 2

    def by_numpy(self, x):
        return x + torch.from_numpy(x.detach().cpu().numpy().copy())

    def by_item(self, x):
        return x * (1 + float(x.mean()) + x[0, 0, 0, 0].item() + x[0, 0, 1, :3].tolist()[1])

    def by_unpool(self, x):
        y, places = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(y, places, 2, output_size=x.shape[2:])

    def by_neighbours(self, x):
        return F.local_response_norm(x, 3) + F.avg_pool3d(x[:, None], 3, 1, 1)[:, 0]

    def by_fft(self, x):
        return x + torch.fft.rfft2(x).abs().mean((2, 3), keepdim=True) / 100

    def by_topk(self, x):
        return x - x.flatten(1).topk(5)[0].mean(1).view(-1, 1, 1, 1)

    def by_strided(self, x):
        return x.contiguous().as_strided(x.shape, x.contiguous().stride()) * 2

    def by_images(self, x):
        return torch.stack([image * (1 + i) for i, image in enumerate(x)])

    def by_flips(self, x):
        """Test-time augmentation inside the model."""
        a, b = torch.cat([x, x.flip(3)], 0).tanh().chunk(2, 0)
        return a + b.flip(3)

    def by_data(self, x):
        x.data = x.data * 3
        return x

    def by_patches(self, x):
        rows, cols = x.shape[2] // 3 * 3, x.shape[3] // 3 * 3
        patches = x[:, :, :rows, :cols].unfold(2, 3, 3).unfold(3, 3, 3)
        return x + patches.mean((-1, -2)).mean((2, 3), keepdim=True)

    def by_promote(self, x):
        y = torch.cat([x, x.double()], 1)[:, 4:12] + torch.arange(CHANNELS).view(1, -1, 1, 1)
        return y.to(x.dtype)

    def by_empty(self, x):
        return torch.cat([x[:, :0], x, x[:, CHANNELS:]], 1)

    def by_sizes(self, x):
        images, channels, *size = x.size()
        assert x.numel() == images * channels * size[0] * size[1] and x.dim() == x.ndim == 4
        assert x.is_floating_point() and not x.is_cuda and x.device.type == "cpu" and len(x)
        return F.interpolate(x, size=[s * 2 - 1 for s in size][:2], mode="nearest")

    def by_deepcopy(self, x):
        return copy.deepcopy(x).mul_(2) + x

    def by_rrelu(self, x):
        return F.rrelu(x)

    def by_pad_channels(self, x):
        return F.pad(x[:, :4], (0, 0, 0, 0, 1, 3), value=0.5)

    def by_crop_write(self, x):
        """A crop, written through, and the map after it; then the other way round."""
        crop = x[:, :, 1:5].narrow(3, 0, 5)
        crop.mul_(3)
        x.add_(1)
        return x + crop.sum((2, 3), keepdim=True).tanh()

    def by_transpose_write(self, x):
        x.transpose(2, 3)[:, :, 3] = 0.5
        x.permute(0, 2, 3, 1)[..., :2].relu_()
        return x

    def by_iterate(self, x):
        return torch.stack(list(torch.unbind(x, 1)), 1) + sum(x.split(2, 1)).repeat(1, 4, 1, 1)

    def by_branch(self, x):
        if (x > 1000).any() or not x.isfinite().all():
            raise ValueError("this map was never written")
        return x * 2


# -- ops of two maps -------------------------------------------------------------------------------


class Join(Operator):
    """A residual, or a concatenation; maps of other sizes are resized, as in FPN and HRNet."""

    draws = dict(
        kind=st.sampled_from("add iadd mul cat cat3 stack where max weighted".split()),
        mode=st.sampled_from(("nearest", "bilinear", "corners")),
    )

    def build(self, kind, mode):
        self.mix = nn.Conv2d(2 * CHANNELS, CHANNELS, 1)

    def forward(self, run, x, y):
        if x.shape[2:] != y.shape[2:]:
            size = tuple(x.shape[2:])
            options = dict(mode="nearest")
            if self.p["mode"] != "nearest":
                options = dict(mode="bilinear", align_corners=self.p["mode"] == "corners")
            y = run(lambda y: F.interpolate(y, size=size, **options), y)
        if self.p["kind"] == "iadd":
            z = run(lambda x: x * 0.7, x)
            return run(lambda z, y: F.relu_(z.add_(y)), z, y)
        return run(getattr(self, "by_" + self.p["kind"]), x, y)

    def by_add(self, x, y):
        return F.relu(x + y)

    def by_mul(self, x, y):
        return x * y.sigmoid()

    def by_cat(self, x, y):
        return self.mix(torch.cat([x, y], 1))

    def by_cat3(self, x, y):
        return torch.cat([y[:, :3], x[:, 3:7], y[:, 7:]], 1)

    def by_stack(self, x, y):
        return torch.stack([x, y]).mean(0)

    def by_where(self, x, y):
        return torch.where(x > y, x, 0.5 * y)

    def by_max(self, x, y):
        return torch.max(x, y)

    def by_weighted(self, x, y):
        weights = torch.softmax(torch.tensor([0.3, 0.9], dtype=x.dtype), 0)
        return sum(w * v for w, v in zip(weights, (x, y), strict=True))


@st.composite
def operators(draw, names=None):
    """``(name, parameters)`` of any op; build it with :func:`make`."""
    name = draw(st.sampled_from(tuple(names or OPERATORS)))
    return name, draw(st.fixed_dictionaries(OPERATORS[name].draws))


def make(spec) -> Operator:
    name, parameters = spec
    return OPERATORS[name](**parameters)
