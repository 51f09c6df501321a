"""Preprocessors that note what they do to a picture give what they would have given."""

from __future__ import annotations

import copy

import pytest
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmengine.model import ImgDataPreprocessor
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample

import blockcopy_plugins as bc
from blockcopy_plugins.integrations.common.noted_picture import NotedPicture, plain

NORMS = [
    dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    dict(mean=[127.5], std=[0.0039]),
    {},
]


def picture(size, seed=0, channels=3):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, *size), dtype=torch.uint8, generator=draw)


def both(preprocessor, pictures):
    """What it makes of the pictures, and of the same noted; with the latter."""
    noted = [NotedPicture.of(x) for x in pictures]
    results = []
    for given in (pictures, noted):
        samples = [SegDataSample() for _ in given]
        result = preprocessor({"inputs": given, "data_samples": samples}, False)
        results.append((plain(result["inputs"]), [sample.metainfo for sample in samples]))
    return *results, noted


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("swap", [{}, {"bgr_to_rgb": True}])
@pytest.mark.parametrize("divisor", [1, 32])
@pytest.mark.parametrize("sizes", [[(45, 60)], [(45, 60), (33, 70)]])
@pytest.mark.parametrize("kind", [ImgDataPreprocessor, DetDataPreprocessor])
def test_the_batch_is_the_same_bit_for_bit(kind, norm, swap, divisor, sizes):
    preprocessor = kind(**norm, **swap, pad_size_divisor=divisor, pad_value=7)
    wanted, found, noted = both(preprocessor, [picture(s, i) for i, s in enumerate(sizes)])
    assert torch.equal(found[0], wanted[0]) and found[0].stride() == wanted[0].stride()
    assert found[1] == wanted[1]
    assert not any(x._computed is not None for x in noted)  # in one pass


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("test_cfg", [None, {"size_divisor": 32}, {"size": (64, 64)}])
def test_of_segmentors_too(norm, test_cfg):
    preprocessor = SegDataPreProcessor(
        **norm, bgr_to_rgb=True, size_divisor=32, test_cfg=test_cfg, pad_val=3
    )
    wanted, found, noted = both(preprocessor, [picture((45, 60), i) for i in range(2)])
    assert torch.equal(found[0], wanted[0]) and found[1] == wanted[1]
    assert not any(x._computed is not None for x in noted)


@pytest.mark.parametrize(
    "op",
    [
        lambda x: x.flip(2),
        lambda x: x[:, 1:].float(),
        lambda x: x[[0]] + x[[1]],
        lambda x: x.float() - torch.arange(5.0),
        lambda x: x.float() * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1) + 1,
        lambda x: 1 - x.float(),
        lambda x: torch.nn.functional.pad(x.float(), (1, 2, 0, 0), value=4),
        lambda x: torch.nn.functional.pad(x.float(), (0, 2, 0, 1), value=4) - 1,
        lambda x: torch.nn.functional.pad(x.float(), (0, 2), mode="reflect"),
        lambda x: torch.nn.functional.pad(x.float(), (0, 1)).sub_(1),
        lambda x: torch.stack((x, x)).sum(0),
        lambda x: torch.stack((x.float(), x.float()[[1, 0, 2]])),
        lambda x: torch.stack((x.float(), x.float() + 1)),
        lambda x: torch.stack((x.float(), x.float()), 1),
        lambda x: x.to(torch.bfloat16) / 3,
        lambda x: x.double() - 0.1,
        lambda x: torch.from_numpy(x.numpy() // 2),
        lambda x: x.float().clamp_(10, 20),
        lambda x: x.half().mean((1, 2)),
        lambda x: x * 2,
        lambda x: x[[2, -2, 0, 0]],
        lambda x: x.expand(3, *x.shape[1:]),
    ],
)
@pytest.mark.parametrize("channels", [3, 1])
def test_ops_that_no_preprocessor_of_ours_has(op, channels):
    values = picture((4, 5), channels=channels)
    try:
        wanted = op(values.clone())
    except (IndexError, RuntimeError) as error:
        with pytest.raises(type(error)):
            op(NotedPicture.of(values))
        return
    found = plain(op(NotedPicture.of(values)))
    assert type(found) is torch.Tensor and found.dtype == wanted.dtype
    assert torch.equal(found, wanted)


def test_what_was_computed_and_written_to_stays_so():
    noted = NotedPicture.of(picture((4, 5))).float()
    noted.mul_(2)
    noted[0] = 1
    wanted = picture((4, 5)).float() * 2
    wanted[0] = 1
    assert torch.equal(plain(noted + 1), wanted + 1)


@pytest.fixture()
def model(tiny):
    return tiny.build(tiny.mask_rcnn())


def inputs_of(model, data):
    """What a call of the model gets from its preprocessor."""
    seen = []
    hook = model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model.test_step(data)
    hook.remove()
    return seen[0]


def test_only_the_converted_model_works_so(model, tiny, monkeypatch):
    data = tiny.batch([tiny.picture((96, 128), 1)])
    assert data["inputs"][0].dtype == torch.uint8
    wanted = model.data_preprocessor(data, False)["inputs"]
    made = []
    original = NotedPicture.of.__func__
    monkeypatch.setattr(
        NotedPicture, "of", classmethod(lambda cls, x: made.append(x) or original(cls, x))
    )
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=32, policy="all"))
    found = model.data_preprocessor(data, False)["inputs"]
    assert type(found) is torch.Tensor and torch.equal(found, wanted) and len(made) == 1
    again = copy.deepcopy(model)
    assert torch.equal(again.data_preprocessor(data, False)["inputs"], wanted) and len(made) == 2
    with bc.dense(model):
        assert torch.equal(inputs_of(model, data), wanted) and len(made) == 2
    model.data_preprocessor(data, True)
    floats = {**data, "inputs": [x.float() for x in data["inputs"]]}
    assert torch.equal(model.data_preprocessor(floats, False)["inputs"], wanted) and len(made) == 2
    # Where another device normalises, it gets the bytes.
    monkeypatch.setattr(model.data_preprocessor, "_device", torch.device("meta"))
    model.data_preprocessor.to("meta")
    assert model.data_preprocessor(data, False)["inputs"].device.type == "meta" and len(made) == 2
    bc.restore_(model)
    assert "forward" not in model.data_preprocessor.__dict__


def test_a_preprocessor_of_the_users_is_left_alone(model, tiny):
    class Own(type(model.data_preprocessor)):
        def forward(self, data, training=False):
            assert type(data["inputs"][0]) is torch.Tensor
            return super().forward(data, training)

    model.data_preprocessor.__class__ = Own
    bc.blockcopy_(model, bc.BlockCopyConfig(block_size=32, policy="all"))
    model.data_preprocessor(tiny.batch([tiny.picture((96, 128), 1)]), False)
