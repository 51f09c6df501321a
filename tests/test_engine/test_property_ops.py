"""The laws for every op by itself, with any parameters, sizes, blocks and grids."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from torch import nn

import blockcopy_plugins as bc
from tests.test_engine import property_helpers as laws
from tests.test_engine import property_operators as ops


class Single(nn.Module):
    """One op, between two pointwise ones or by itself."""

    def __init__(self, spec, bare: bool) -> None:
        super().__init__()
        self.operator = ops.make(spec)
        self.bare = bare

    def forward(self, x):
        run = self.run
        if not self.bare:
            x = run(lambda x: x * 1.5, x)
        inputs = (x, x) if isinstance(self.operator, ops.Join) else (x,)
        out = self.operator(run, *inputs)
        return (out if self.bare else run(lambda x: x + 0.25, out),)


sizes = st.tuples(st.integers(3, 34), st.integers(3, 34))
call = dict(
    size=sizes,
    block=st.sampled_from((2, 4, 6, 8, 8, 12, 16, 16, 5, 64)),
    rates=st.lists(st.sampled_from((0.0, 0.1, 0.4, 0.7, 2.0)), min_size=2, max_size=3),
    images=st.integers(1, 3),
    pack=st.booleans(),
    mode=st.sampled_from(tuple(laws.MODES)),
    channels_last=st.booleans(),
    shuffle=st.booleans(),
    seed=st.integers(0, 999),
)


def takes_images_by_themselves(net, size, images):
    """Whether an image's output depends neither on its place in the batch nor on the others.

    Else a frame of other streams runs another model, and what the streams have kept is of none.
    """
    net = copy.deepcopy(net).double().eval()
    net.run = laws.Plain()
    x = torch.randn(images, ops.CHANNELS, *size, dtype=torch.float64)
    with torch.no_grad():
        apart = torch.cat([net(image[None])[0] for image in x])
        return all(
            torch.allclose(net(x[:count])[0], apart[:count], equal_nan=True)
            for count in range(2, images + 1)
        )


def check(spec, bare, size, seed, **options):
    torch.manual_seed(seed)
    net = Single(spec, bare)
    assume(net.operator.fits(size))
    if isinstance(net.operator, ops.InPlace):
        net.bare = False  # Writes into the frame are another matter.
        # The dense model itself cannot view a map in this layout as rows.
        assume(not (options["channels_last"] and net.operator.p["kind"] in ("flat", "joined")))
    by_images = options["shuffle"] and net.operator.counts_images
    assume(not by_images or takes_images_by_themselves(net, size, options["images"]))
    options.update(channels=ops.CHANNELS, by_images=by_images)
    assume(laws.check_laws(net, size, seed=seed, **options))


# No time on telling which parts of a failing case matter: it takes minutes.
PHASES = (Phase.explicit, Phase.generate, Phase.shrink)


# The ops with the most parameters, and those that write, more often.
MIX = [*ops.OPERATORS, *["Conv", "Resize", "AvgPool", "Transposed", "InPlace"] * 4]


@given(spec=ops.operators(MIX), bare=st.booleans(), **call)
@settings(max_examples=300, phases=PHASES)
def test_any_op(**drawn):
    check(**drawn)


@pytest.mark.slow
@given(spec=ops.operators(MIX), bare=st.booleans(), **call)
@settings(max_examples=450, phases=PHASES)
def test_any_op_at_length(**drawn):
    check(**drawn)


@pytest.mark.weekly
@pytest.mark.parametrize("name", tuple(ops.OPERATORS))
def test_any_op_thoroughly(name):
    @given(spec=ops.operators((name,)), bare=st.booleans(), **call)
    @settings(max_examples=180, phases=PHASES)
    def run(**drawn):
        check(**drawn)

    run()


CONV = dict(kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), groups=1, bias=True)
UP = dict(
    kernel=(4, 4),
    stride=(2, 2),
    padding=(1, 1),
    output_padding=(0, 0),
    dilation=(1, 1),
    groups=1,
    bias=True,
)
POOL = dict(kernel=(3, 3), stride=(2, 2), padding=(1, 1), ceil_mode=False)
AVERAGE = dict(POOL, include_pad=True, divisor=None)
PAD = dict(mode="constant", pad=(0, 2, 1, 1), value=0.0, kernel=(3, 3), stride=(1, 1), groups=1)
RESIZE = dict(corners=False, antialias=False, size=None, scale=(2.0, 2.0), recompute=None)
DILATED = dict(CONV, dilation=(13, 13), padding=(13, 13))

# What runs on blocks: name of the op, parameters.
ON_BLOCKS = [
    ("SqueezeExcite", dict(kind="mean")),
    ("SqueezeExcite", dict(kind="adaptive")),
    ("InstanceNorm", dict(affine=True)),
    ("SqueezeExcite", dict(kind="grn")),
    ("SplitAttention", {}),
    ("Conv", CONV),
    ("Conv", dict(CONV, kernel=(7, 7), stride=(2, 2), padding=(3, 3))),
    ("Conv", dict(CONV, kernel=(1, 7), padding=(0, 3))),
    ("Conv", dict(CONV, kernel=(4, 4), stride=(4, 4), padding=(0, 0))),
    ("Conv", DILATED),
    ("Conv", dict(CONV, groups=8)),
    ("ConvSame", dict(kernel=(5, 5), dilation=(2, 2), groups=2)),
    ("ConvSame", dict(kernel=(4, 4), dilation=(1, 1), groups=1)),
    ("PaddedConv", PAD),
    ("PaddedConv", dict(PAD, value=1.5, kernel=(7, 7), pad=(2, 4, 3, 3))),
    ("PaddedConv", dict(PAD, mode="reflect")),
    ("PaddedConv", dict(PAD, mode="replicate", stride=(2, 2))),
    ("Transposed", UP),
    ("Transposed", dict(UP, kernel=(3, 3), output_padding=(1, 1))),
    ("Transposed", dict(UP, kernel=(2, 2), padding=(0, 0), groups=8)),
    ("Transposed", dict(UP, kernel=(3, 3), dilation=(2, 2), padding=(2, 2), stride=(1, 1))),
    ("MaxPool", dict(POOL, dilation=(1, 1))),
    ("MaxPool", dict(POOL, dilation=(2, 2), stride=(1, 1))),
    ("AvgPool", AVERAGE),
    ("AvgPool", dict(AVERAGE, include_pad=False)),
    ("AvgPool", dict(AVERAGE, divisor=3)),
    ("AvgPool", dict(AVERAGE, kernel=(2, 2), padding=(0, 0), ceil_mode=True)),
    ("Resize", dict(RESIZE, mode="nearest")),
    ("Resize", dict(RESIZE, mode="nearest-exact", scale=(0.5, 0.5))),
    ("Resize", dict(RESIZE, mode="bilinear")),
    ("Resize", dict(RESIZE, mode="bilinear", corners=True)),
    ("Resize", dict(RESIZE, mode="bilinear", size=(33, 41))),
    ("PixelShuffle", dict(again=False)),
    ("PixelShuffle", dict(again=True)),
    ("PixelUnshuffle", {}),
    ("StridedSlice", dict(start=(1, 0), step=(2, 2), ellipsis=True)),
    ("Focus", {}),
    ("Crop", dict(cut=(0, 1, 0, 2), narrow=False)),
    ("BatchNorm", dict(affine=True, inplace=True)),
    ("GroupNorm", dict(groups=2)),
    *[
        ("ChannelLayerNorm", dict(kind=kind))
        for kind in ("permute", "by hand", "mmcv", "moveaxis", "var")
    ],
    ("ChannelShuffle", dict(groups=2, kind="view")),
    ("ChannelShuffle", dict(groups=4, kind="reshape")),
    ("ChannelShuffle", dict(groups=4, kind="torch")),
    ("ChannelShuffle", dict(groups=2, kind="published")),
    ("ChannelShuffle", dict(groups=2, kind="images")),
    *[("GroupsAsImages", dict(kind=kind)) for kind in "blur pool resize norm".split()],
    *[
        ("Parts", dict(kind=kind))
        for kind in ("chunk split sizes stack unbind index slice step tensor_split repeat".split())
    ],
    ("Tokens", dict(kind="norm")),
    ("Tokens", dict(kind="mlp")),
    ("Tokens", dict(kind="reshape")),
    ("Tokens", dict(kind="rows")),
    ("Tokens", dict(kind="attention")),
    ("Whole", dict(kind="roll")),
    ("MixFeedForward", {}),
    *[
        ("OverChannels", dict(kind=kind))
        for kind in "softmax log_softmax normalize mean max amax sum norm sort cumsum std".split()
    ],
    ("SpatialAttention", {}),
    ("Activation", dict(kind="hardswish")),
    ("Activation", dict(kind="prelu")),
    ("InPlace", dict(kind="relu", before=True)),
    ("InPlace", dict(kind="chunk", before=True)),
    ("InPlace", dict(kind="channel", before=True)),
    ("WithDense", dict(shape="NCHW", op="add")),
    ("WithDense", dict(shape="NC11", op="mul")),
    ("WithDense", dict(shape="W", op="add")),
    ("WithDense", dict(shape="11HW", op="cat")),
    ("Coordinates", {}),
    ("Choose", dict(kind="where")),
    ("Choose", dict(kind="masked")),
    ("Unfold", dict(kind="unfold")),
    ("Join", dict(kind="add", mode="nearest")),
    ("Join", dict(kind="cat", mode="nearest")),
    ("Join", dict(kind="stack", mode="nearest")),
    ("Join", dict(kind="weighted", mode="nearest")),
]

_WINDOW_KINDS = """
attention fused merge enlarge slices pool channels_first padded unfolded
""".split()
# Of maps whose sides the windows divide.
IN_WINDOWS = (
    [("Windows", dict(kind=kind, side=side)) for kind in _WINDOW_KINDS for side in (2, 4)]
    + [
        ("ReducedAttention", dict(ratio=2)),
        ("ViewNorm", dict(groups=1)),
        ("ViewNorm", dict(groups=4)),
    ]
    + [
        ("ShiftedWindows", dict(side=side, channels_last=last))
        for side in (2, 4)
        for last in (True, False)
    ]
)

# What needs the whole map: the ops that the report must name.
ON_WHOLE_MAPS = [
    ("PaddedConv", dict(PAD, mode="circular"), ""),
    ("Resize", dict(RESIZE, mode="bicubic"), "upsample_bicubic2d"),
    ("Resize", dict(RESIZE, mode="area", size=(7, 9)), "adaptive_avg_pool2d"),
    ("AdaptivePool", dict(bins=(2, 2), kind="avg", corners=False), "adaptive_avg_pool2d"),
    ("GroupsAsImages", dict(kind="gate"), "mean"),
    ("GroupsAsImages", dict(kind="attend"), "softmax"),
    ("Unfold", dict(kind="fold"), "col2im"),
    ("GridSample", dict(corners=False, mode="bilinear", zoom=True), "grid_sampler"),
    ("Whole", dict(kind="flip"), "flip"),
]


def dense_ops_of(name, parameters, size, pack, mode):
    """Ops that ran on whole maps in a frame of all blocks, of some, and of none."""
    net = Single((name, parameters), bare=False).eval()
    assert net.operator.fits(size)
    rates = [2.0, 0.5, -1.0]
    config = bc.BlockCopyConfig(
        block_size=8,
        policy=lambda f, c: torch.rand(c.grid_shape) < rates.pop(0),
        pack_whole_frames=pack,
    )
    net.run = laws.Plain()
    bc.blockcopy_(net, config)
    for _ in range(3):
        with mode():
            net(torch.randn(2, ops.CHANNELS, *size))
    return bc.report(net).dense_ops


def title(case):
    values = "-".join(str(value) for value in case[1].values()) or "any"
    return f"{case[0]}-{values}".replace(" ", "")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("case", ON_BLOCKS, ids=title)
def test_it_runs_on_blocks(case, mode):
    for size in ((16, 24), (15, 21)):
        for pack in (True, False):
            assert dense_ops_of(*case, size, pack, mode) == ()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("case", IN_WINDOWS, ids=title)
def test_windows_within_blocks_are_views_of_them(case, mode):
    for size in ((16, 24), (20, 12)):
        for pack in (True, False):
            assert dense_ops_of(*case, size, pack, mode) == ()


@pytest.mark.parametrize("case", ON_WHOLE_MAPS, ids=title)
def test_it_runs_on_the_whole_map_and_is_reported(case):
    *spec, op = case
    found = dense_ops_of(*spec, (16, 24), True, torch.no_grad)
    assert any(op in entry.op for entry in found), found
    assert all(entry.reason and entry.path.startswith("operator") for entry in found)
