"""The prediction follows from the times. The clock is a fake one, which the layers push on."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins import ops
from blockcopy_plugins.engine.adapter import ModelAdapter
from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.estimate import fit_costs
from blockcopy_plugins.policy import Policy

SIZE = (256, 384)
BLOCK = 32
BLOCKS = 8 * 12


class Clock:
    """Seconds that pass only where somebody says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Costly(nn.Module):
    """A layer of known cost: so much a pixel of the map or of the executed blocks, and a fixed one.

    Args:
        clock: What it pushes on.
        dense: Seconds a pixel in a dense frame.
        sparse: Seconds a pixel of an executed block.
        fixed: Seconds a call on blocks.
        by_area: Seconds a pixel of the whole map in a call on blocks.
        dense_fixed: Seconds a dense call.
        whole: What a fully executed frame takes of a dense one.
    """

    def __init__(
        self, clock, dense, sparse, fixed=0.0, by_area=0.0, dense_fixed=0.0, whole=1.0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, 1, 1)
        self.costs = (clock, dense, sparse, fixed, by_area)
        self.dense_fixed, self.whole = dense_fixed, whole

    def forward(self, x):
        clock, dense, sparse, fixed, by_area = self.costs
        area = x.shape[2] * x.shape[3]
        if isinstance(x, bc.BlockTensor):
            executed = int(x.frame.grid.sum()) * x.frame.block_size**2
            if executed == area:
                clock.seconds += self.whole * (area * dense + self.dense_fixed)
            else:
                clock.seconds += executed * sparse + fixed + area * by_area
        else:
            clock.seconds += area * dense + self.dense_fixed
        return self.conv(x)


class CostlyPolicy(Policy):
    """Takes so many seconds to choose and so many to learn, by the frame's area."""

    def __init__(self, clock, select, feedback) -> None:
        self.costs = (clock, select, feedback)

    def select(self, frame, context):
        clock, select, _ = self.costs
        clock.seconds += select * frame.shape[2] * frame.shape[3]
        return torch.zeros(context.grid_shape, dtype=torch.bool)

    def feedback(self, frame, grid, outputs, context):
        clock, _, feedback = self.costs
        clock.seconds += feedback * frame.shape[2] * frame.shape[3]
        return super().feedback(frame, grid, outputs, context)


def predict(clock, layers, size=SIZE, block_size=BLOCK, **options):
    options = {"policy": "none", "budget_s": 1e9} | options
    return bc.estimate(nn.Sequential(*layers).eval(), size, block_size, clock=clock, **options)


# Seconds that a real machine would take; the smaller ones have the model run on smaller frames.
BUDGETS = [1e9, 40.0, 6.0, 0.5]
AREA = SIZE[0] * SIZE[1]


@pytest.mark.parametrize("budget", BUDGETS)
def test_cost_proportional_to_executed_blocks_is_the_ideal(budget):
    clock = Clock()
    found = predict(clock, [Costly(clock, 1e-6, 1e-6), Costly(clock, 9e-6, 9e-6)], budget_s=budget)
    assert found.dense_ms == pytest.approx(1e3 * 1e-5 * AREA)
    (only,) = found.block_sizes
    assert [r.executed for r in only.rates] == [96, 48, 24, 12]
    for rate in only.rates:
        assert rate.speedup == pytest.approx(1 / rate.rate)
        assert rate.efficiency == pytest.approx(1.0)
        assert rate.policy_ms == 0
    assert only.pays_below == pytest.approx(1.0)
    assert only.fixed_ms == pytest.approx(0.0, abs=1e-9)
    assert only.block_ms == pytest.approx(1e3 * 1e-5 * BLOCK**2)


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_kind_of_cost_is_found(budget):
    """Fixed, by area, by block, the policy's, and the rest: the hand-computed times."""
    clock = Clock()
    layers = [Costly(clock, 1e-5, 1.5e-5, fixed=0.02, by_area=1e-6)]
    policy = CostlyPolicy(clock, 2e-7, 3e-7)
    found = predict(clock, layers, policy=policy, rest_ms=100.0, budget_s=budget)
    dense, of_policy, rest = 1e-5 * AREA, 5e-7 * AREA, 0.1
    (only,) = found.block_sizes
    assert only.fixed_ms == pytest.approx(1e3 * (0.02 + 1e-6 * AREA + of_policy))
    for rate in only.rates:
        model = 0.02 + 1e-6 * AREA + 1.5e-5 * rate.executed * BLOCK**2
        if rate.rate == 1:
            model = dense
        assert rate.dense_ms == pytest.approx(1e3 * dense)
        assert rate.policy_ms == pytest.approx(1e3 * of_policy)
        assert rate.sparse_ms == pytest.approx(1e3 * (model + of_policy))
        assert rate.speedup == pytest.approx((dense + rest) / (model + of_policy + rest))
        assert rate.efficiency == pytest.approx(dense / (model + of_policy) * rate.rate)
    pays = (dense - of_policy - 0.02 - 1e-6 * AREA) / (1.5e-5 * AREA)
    assert only.pays_below == pytest.approx(pays)
    assert found.policy == "CostlyPolicy"


@pytest.mark.parametrize("budget", BUDGETS)
def test_fully_executed_frames_and_fixed_costs_of_dense(budget):
    clock = Clock()
    layers = [Costly(clock, 1e-5, 1e-5, dense_fixed=0.3, whole=1.25)]
    found = predict(clock, layers, budget_s=budget)
    assert found.dense_ms == pytest.approx(300 + 1e-2 * AREA)
    assert found.speedup(1.0) == pytest.approx(1 / 1.25)
    assert found.speedup(0.5) == pytest.approx((0.3 + 1e-5 * AREA) / (1e-5 * AREA / 2))


class Regions(nn.Module):
    """A detector's: as many on any frame; on blocks, those over executed ones are run again."""

    def __init__(self, clock) -> None:
        super().__init__()
        self.conv, self.clock = nn.Conv2d(3, 3, 3, 1, 1), clock

    def forward(self, x):
        area = x.shape[2] * x.shape[3]
        if isinstance(x, bc.BlockTensor):
            executed = int(x.frame.grid.sum()) * x.frame.block_size**2
            self.clock.seconds += 5e-6 * executed + 0.2 * executed / area
        else:
            self.clock.seconds += 1e-5 * area + 0.6
        return self.conv(x)


@pytest.mark.parametrize("budget", BUDGETS)
def test_regions_do_not_grow_with_the_frame(budget):
    clock = Clock()
    found = predict(clock, [Regions(clock)], budget_s=budget)
    (only,) = found.block_sizes
    for rate in only.rates:
        assert rate.dense_ms == pytest.approx(1e3 * (1e-5 * AREA + 0.6))
        assert rate.sparse_ms == pytest.approx(1e3 * rate.rate * (5e-6 * AREA + 0.2))
    assert only.block_ms == pytest.approx(1e3 * (5e-6 * AREA + 0.2) / BLOCKS)


def test_what_never_pays_is_said_so():
    clock = Clock()
    found = predict(clock, [Costly(clock, 1e-6, 1e-6, fixed=10.0)])
    assert found.of().pays_below == 0
    assert "does not pay" in str(found)


def test_dense_is_measured_at_full_size_where_time_allows():
    clock = Clock()
    layers = [Costly(clock, 1e-5, 1e-5)]
    assert predict(clock, layers, budget_s=1e9).dense_measured
    found = predict(clock, layers, budget_s=1.0)
    assert not found.dense_measured and "extrapolated" in str(found)
    assert found.of().measured_on != (SIZE,)


@pytest.mark.parametrize("budget", [12.0, 60.0])
def test_time_taken_stays_near_the_budget(budget):
    clock = Clock()
    found = predict(clock, [Costly(clock, 1e-5, 1e-5)], (1024, 1024), 64, budget_s=budget)
    assert found.seconds == clock.seconds < 1.1 * budget


def test_best_block_size_is_the_fastest():
    """Each block costs a hundred pixels beyond its own, so the largest are the fastest."""
    clock = Clock()

    class ByBlock(Costly):
        def forward(self, x):
            if isinstance(x, bc.BlockTensor):
                clock.seconds += 1e-5 * 100 * int(x.frame.grid.sum())
            return super().forward(x)

    found = predict(clock, [ByBlock(clock, 1e-5, 1e-5)], block_size=[32, 64, 128])
    assert [f.block_size for f in found.block_sizes] == [32, 64, 128]
    assert found.best == 128 and found.of().block_size == 128
    for each in found.block_sizes:
        area = each.block_size**2
        assert each.rates[2].speedup == pytest.approx(4 * area / (area + 100))
    assert found.speedup(0.25) == found.of(128).rates[2].speedup > found.speedup(0.25, 32)


def test_block_sizes_that_suit_the_strides_are_tried():
    layers = [nn.Conv2d(3, 4, 3, 2, 1)] + [nn.Conv2d(4, 4, 3, 2, 1) for _ in range(5)]
    model = nn.Sequential(*layers).eval()
    found = bc.estimate(model, (256, 384), policy="none", budget_s=0.01)
    assert [f.block_size for f in found.block_sizes] == [64, 128], (
        "stride 64; 256 leaves two blocks"
    )


def test_sizes_that_are_no_multiple_of_the_block():
    clock = Clock()
    found = predict(clock, [Costly(clock, 1e-5, 1e-5)], (200, 330), 64)
    (only,) = found.block_sizes
    assert only.blocks == 4 * 6
    assert found.dense_ms == pytest.approx(1e3 * 1e-5 * 200 * 330)
    assert only.block_ms == pytest.approx(1e3 * 1e-5 * 64**2)


def test_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    versions = [p._version for p in model.parameters()]
    attributes = {name: set(m.__dict__) for name, m in model.named_modules()}
    picture = torch.randn(1, 3, 64, 64)
    wanted = model(picture)
    random = torch.get_rng_state()
    bc.estimate(model, (128, 128), 32, budget_s=0.01)
    assert torch.equal(torch.get_rng_state(), random)
    assert [p._version for p in model.parameters()] == versions
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    for name, module in model.named_modules():
        assert set(module.__dict__) == attributes[name]
        assert not module._forward_hooks and not module._forward_pre_hooks and not module.training
    assert torch.equal(model(picture), wanted)
    assert all(p.requires_grad for p in model.parameters())
    model(picture).sum().backward()


def test_adapter_says_what_the_policy_compares():
    seen = []

    class Sees(Policy):
        needs_outputs = True

        def select(self, frame, context):
            return torch.zeros(context.grid_shape, dtype=torch.bool)

        def feedback(self, frame, grid, outputs, context):
            seen.append(outputs)
            return super().feedback(frame, grid, outputs, context)

    class Third(ModelAdapter):
        def task_outputs(self, outputs, call):
            return ["third"]

    model = nn.Conv2d(3, 4, 3, 1, 1).eval()
    found = bc.estimate(model, (128, 128), 32, policy=Sees(), adapter=Third(), budget_s=0.01)
    assert seen and all(outputs == ["third"] for outputs in seen)
    assert found.policy == "Sees"


@pytest.mark.parametrize("policy", ["motion_vectors", "motion_detection"])
def test_rules_are_timed_too(policy):
    model = nn.Conv2d(3, 4, 3).eval()
    found = bc.estimate(model, (128, 128), 64, policy=policy, budget_s=0.01)
    assert all(rate.policy_ms > 0 for rate in found.of(64).rates)


def test_what_a_model_keeps_of_a_call_can_be_trained_with():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.scale = nn.Conv2d(3, 4, 3, 1, 1), None

        def forward(self, x):
            if self.scale is None:
                self.scale = torch.full((1, 4, 1, 1), 2.0)
            return self.conv(x) * self.scale

    model = Keeps().eval()
    bc.estimate(model, (128, 128), 64, policy="none", budget_s=0.01)
    model(torch.randn(1, 3, 64, 64)).sum().backward()


def test_model_is_left_as_it_was_after_a_failure():
    clock = Clock()

    class Fails(CostlyPolicy):
        def feedback(self, *args):
            raise RuntimeError("from within")

    model = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1)).eval()
    with pytest.raises(RuntimeError, match="from within"):
        bc.estimate(model, SIZE, 32, policy=Fails(clock, 0, 0), clock=clock)
    assert "_blockcopy" not in model.__dict__ and "forward" not in model.__dict__
    bc.blockcopy_(model, bc.BlockCopyConfig(policy="all"))


def test_what_runs_dense_is_told():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 3, 1)).eval()
    found = bc.estimate(model, (192, 192), 64, policy="none", budget_s=1e9)
    only = found.of()
    first, second = 192 * 192 * 3 * 4 * 9, 64 * 64 * 4 * 4 * 9
    assert only.share_on_blocks == pytest.approx(first / (first + second))
    assert [(path, "stride" in reason) for path, _, reason in only.whole_map_ops] == [("1", True)]
    assert f"{second / (first + second):.0%} of the MACs do not run on blocks" in str(found)


def test_state_of_the_whole_frame():
    """One convolution keeps rings of its input, and the exit its output."""
    model = nn.Sequential(nn.Conv2d(3, 5, 3, 1, 1)).eval()
    found = bc.estimate(model, (512, 512), 64, policy="none", budget_s=0.01)
    kept = 8 * 8 * (64 * 64 - 62 * 62) if ops.conv_kernels() else 512 * 512
    assert found.of().state_bytes == pytest.approx(4 * (3 * kept + 5 * 512 * 512))
    assert found.of().measured_on != ((512, 512),)


def test_printed_and_as_json():
    clock = Clock()
    found = predict(clock, [Costly(clock, 1e-5, 1e-5)], block_size=[32, 64])
    text = str(found)
    for part in ("256x384 px", "32 px", "64 px", "12.5%", "8.00x", "best block size", "note:"):
        assert part in text
    assert json.loads(json.dumps(found.as_dict()))["block_sizes"][0]["block_size"] == 32


def test_batch_norm_is_pointed_out():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    found = bc.estimate(model, (128, 128), 64, policy="none", budget_s=0.01)
    assert any("batch norm" in note for note in found.notes)
    found = bc.estimate(model[0], (128, 128), 64, policy="none", budget_s=0.01)
    assert not any("batch norm" in note for note in found.notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(model=3), "torch.nn.Module"),
        (dict(size=1024), "height, width"),
        (dict(size=(0, 64)), "height, width"),
        (dict(size=(64, 64.0)), "height, width"),
        (dict(block_size=0), "at least 1"),
        (dict(block_size="128"), "at least 1"),
        (dict(block_size=[]), "empty"),
        (dict(block_size=512), "nothing to skip"),
        (dict(size=(16, 16), block_size=None), "nothing to skip"),
        (dict(rates=()), "rates"),
        (dict(rates=(0.0,)), "rates"),
        (dict(rates=(30,)), "rates"),
        (dict(rest_ms=-1), "rest_ms"),
        (dict(rest_ms=math.nan), "rest_ms"),
        (dict(budget_s=0), "budget_s"),
        (dict(policy="nonesuch"), "nonesuch"),
    ],
)
def test_bad_values_are_errors(change, words):
    given = dict(model=nn.Conv2d(3, 4, 3).eval(), size=SIZE, block_size=32, budget_s=0.01) | change
    with pytest.raises(ConfigError, match=words):
        bc.estimate(given.pop("model"), given.pop("size"), given.pop("block_size"), **given)


def test_models_that_are_not_ready_are_errors():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(ConfigError, match="model.eval"):
        bc.estimate(model, SIZE, 32)
    bc.blockcopy_(model.eval())
    with pytest.raises(ConfigError, match="restore_"):
        bc.estimate(model, SIZE, 32)
    with pytest.raises(ConfigError, match="restore_"):
        bc.estimate(nn.Sequential(model), SIZE, 32)


def test_a_model_that_cannot_run_is_an_error():
    with pytest.raises(ConfigError, match="call=f"):
        bc.estimate(nn.Conv2d(7, 4, 3).eval(), SIZE, 32, budget_s=0.01)


def test_results_that_were_not_asked_for_are_errors():
    clock = Clock()
    found = predict(clock, [Costly(clock, 1e-5, 1e-5)])
    with pytest.raises(ConfigError, match="rates="):
        found.speedup(0.4)
    with pytest.raises(ConfigError, match="not tried"):
        found.of(99)


def test_costs_are_fitted_and_not_negative():
    points = [((1.0, float(n)), 2.0 + 3.0 * n) for n in (1, 2, 5)]
    assert fit_costs(points) == pytest.approx((2.0, 3.0))
    # The line through these falls below 0 at n = 0; a cost cannot.
    fixed, slope = fit_costs([((1.0, 1.0), 1.0), ((1.0, 2.0), 3.0), ((1.0, 3.0), 5.0)])
    assert fixed == 0 and 1.0 < slope < 5 / 3
    # One number of blocks tells nothing of a fixed cost.
    assert fit_costs([((0.0, 2.0), 6.0)]) == pytest.approx((0.0, 3.0))


def test_a_detector_is_called_as_it_wants(tmp_path):
    pytest.importorskip("mmdet")
    from pathlib import Path

    from blockcopy_plugins.estimate import estimate_config

    root = Path(__file__).resolve().parents[1]
    path = tmp_path / "config.py"
    path.write_text(
        f"_base_ = {str(root / 'configs/_base_/models/mask-rcnn_r18-thin_fpn.py')!r}\n"
        "default_scope = 'mmdet'\n"
    )
    found = estimate_config(str(path), (128, 192), 64, rates=(1.0, 0.5), budget_s=0.01)
    assert found.size == (128, 192) and found.policy == "GainPolicy"
    assert [r.executed for r in found.of().rates] == [6, 3]
    assert found.dense_ms > 0 and found.of().state_bytes > 0
