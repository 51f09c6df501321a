"""Results of region heads taken from the last frame: beside heads that compute all regions."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.adapter import ModelAdapter
from blockcopy_plugins.integrations.common import repeated_regions
from blockcopy_plugins.integrations.common.rebound_methods import StandIn
from blockcopy_plugins.integrations.common.repeated_regions import repeat_regions
from blockcopy_plugins.policy.dictated import DictatedPolicy


@pytest.fixture(autouse=True)
def _small_heads_too(monkeypatch):
    monkeypatch.setattr(repeated_regions, "_LEAST_VALUES", 0)


class Head(nn.Module):
    """Two results for each region; notes how many it computes."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, dtype=dtype)
        self.rows = []

    def forward(self, x):
        self.rows.append(len(x))
        out = self.conv(x).relu()
        return out.mean((2, 3)), {"map": out}


class MixingHead(Head):
    def forward(self, x):
        first, second = super().forward(x)
        return first - first.mean(0), second


class Net(nn.Module):
    """Its head gets features from outside."""

    def __init__(self, head):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.head = head
        self.features = None

    def forward(self, x):
        return self.stem(x), *self.head(self.features)


class Adapter(ModelAdapter):
    def attach(self, model):
        return repeat_regions(model, [(model.head, "forward")])


def converted(head):
    """A net between its 8th and 16th call, which has seen 40 regions; returns how to run others."""
    net = Net(head.eval()).eval()
    policy = DictatedPolicy()
    config = bc.BlockCopyConfig(block_size=16, policy=policy, programs=False)
    bc.blockcopy_(net, config, adapter=Adapter())
    whole = torch.ones(1, 2, 2, dtype=torch.bool)
    part = torch.tensor([[[True, False], [False, False]]])
    dtype = head.conv.weight.dtype
    first = torch.randn(40, 4, 5, 5, dtype=dtype)

    def run(features, grid=part):
        net.features, policy.grid, before = features, grid, len(head.rows)
        with torch.no_grad():
            found = net(torch.randn(1, 3, 32, 32))
            computed = sum(head.rows[before:])
            wanted = type(head).forward(head, features)
        torch.testing.assert_close(found[1:], tuple(wanted), atol=1e-5, rtol=0)
        return computed, found

    run(first, whole)
    for _ in range(8):
        run(first.clone())
    return net, first, run, whole


def mixed(first):
    """Thirty regions in another order, ten of them new."""
    order = torch.randperm(len(first))[:30]
    features = first[order].contiguous()
    features[20:] += 1
    return features


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_new_regions_are_computed(dtype):
    _, first, run, _ = converted(Head(dtype))
    features = mixed(first)
    assert run(features)[0] == 10
    assert run(features.clone())[0] == 1  # the last one, for the form of the results
    features[3, 0, 0, 0] += 1  # hardly any of it
    features[4, 3, 4, 3] += 1
    assert run(features)[0] == 3


def test_small_heads_compute_all_regions(monkeypatch):
    _, first, run, _ = converted(Head())
    monkeypatch.undo()
    assert run(first)[0] == 40


def test_features_written_over_those_of_the_last_frame_are_computed():
    _, first, run, _ = converted(Head())
    run(first)
    first[7:9] += 1
    assert run(first)[0] == 40


def test_results_stay_those_of_the_frame_that_computed_them():
    _, first, run, _ = converted(Head())
    _, found = run(first)
    kept = found[1].clone()
    found[1].add_(1)  # the caller may do so
    for _ in range(2):
        computed, found = run(first.clone())
        assert computed == 1 and torch.equal(found[1][:-1], kept[:-1])


def test_whole_frames_compute_all_regions():
    _, first, run, whole = converted(Head())
    assert run(first, whole)[0] == 40 and run(first.clone())[0] == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head.conv.weight.mul_(2),
        lambda head: head.conv.weight.data.mul_(2),
        lambda head: head.conv.register_parameter("bias", nn.Parameter(torch.ones(6))),
        lambda head: head.conv.load_state_dict(nn.Conv2d(4, 6, 3).state_dict()),
    ],
)
def test_other_weights_compute_all_regions(change):
    net, first, run, _ = converted(Head())
    with torch.no_grad():
        change(net.head)
    assert run(first)[0] == 40 and run(first.clone())[0] == 1


def test_a_head_that_mixes_regions_is_left_alone():
    _, first, run, _ = converted(MixingHead())
    assert run(first)[0] == 40 and run(first.clone())[0] == 40


@pytest.mark.parametrize(
    "other", [torch.randn(8, 4, 5, 5), torch.randn(40, 4, 6, 5), torch.randn(20, 4, 5, 5).double()]
)
def test_features_of_another_kind_are_computed(other):
    net, first, run, _ = converted(Head())
    if other.dtype == torch.float64:
        net.head.double()
    assert run(other)[0] == len(other)


def test_copies_remember_nothing_and_restored_models_have_their_own_method():
    net, first, run, _ = converted(Head())
    twin = copy.deepcopy(net)
    stand_in = vars(twin.head)["forward"]
    assert isinstance(stand_in, StandIn) and stand_in.owner is twin.head and not stand_in._last
    assert len(pickle.dumps(vars(net.head)["forward"]._last)) > len(pickle.dumps(stand_in._last))
    bc.restore_(net)
    assert "forward" not in vars(net.head) and "forward" in vars(twin.head)


def test_whole_detectors_find_the_same(tiny):
    config = tiny.mask_rcnn()
    config["roi_head"]["mask_head"]["num_convs"] = 2
    model = tiny.build(config)
    other = copy.deepcopy(model)
    draw = torch.Generator().manual_seed(0)
    grids = [torch.rand(1, 6, 8, generator=draw) < 0.1 for _ in range(8)]
    found = []
    for each in (model, other):
        taken = iter([torch.ones(1, 6, 8, dtype=torch.bool), *grids])
        policy = lambda frame, state, taken=taken: next(taken)  # noqa: E731
        bc.blockcopy_(each, bc.BlockCopyConfig(block_size=32, policy=policy))
        if each is other:
            for head in (each.roi_head.bbox_head, each.roi_head.mask_head):
                head.__dict__.pop("forward").remove()
        rows = []
        fc = each.roi_head.bbox_head.fc_cls
        hook = fc.register_forward_pre_hook(lambda m, args, rows=rows: rows.append(len(args[0])))
        with torch.no_grad():
            results = [
                each.test_step(tiny.batch([tiny.picture((192, 256), seed)])) for seed in range(9)
            ]
        hook.remove()
        found.append(([r[0].pred_instances for r in results], sum(rows)))
    (ours, computed), (wanted, all_) = found
    assert computed < 0.9 * all_
    for a, b in zip(ours, wanted, strict=True):
        assert len(b) >= 3 and torch.equal(a.labels, b.labels)
        torch.testing.assert_close(a.scores, b.scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(a.bboxes, b.bboxes, atol=1e-2, rtol=0)
        assert (a.masks != b.masks).float().mean() < 1e-3
