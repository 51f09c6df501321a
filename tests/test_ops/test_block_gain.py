"""predict_gain and remember_gain against the definition, block by block in plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from blockcopy_plugins.ops.block_gain import (
    FEATURES,
    MAPS,
    Prediction,
    predict_gain,
    predict_gain_reference,
    remember_gain,
)

PREDICTIONS = [
    pytest.param(predict_gain, id="op"),
    pytest.param(lambda *args: Prediction(*predict_gain_reference(*args)), id="twin"),
]
MEMORIES = [
    pytest.param(remember_gain, id="op"),
    pytest.param(remember_gain.reference, id="twin"),
]
CONSTANTS = (0.01, 0.1, 1e-4, 1e-5)


def around(values, row, column):
    """Mean over the eight neighbours of a list of rows; the nearest inside for those outside."""
    rows, columns = len(values), len(values[0])
    near = [
        values[min(max(row + dy, 0), rows - 1)][min(max(column + dx, 0), columns - 1)]
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    return (sum(near) - values[row][column]) / 8


def make_case(images=2, rows=3, columns=5, cells=8, seed=0):
    draw = torch.Generator().manual_seed(seed)
    picture = torch.randn(images, 3, rows * cells, columns * cells, generator=draw) + 1
    executed = picture + 0.3 * torch.randn(picture.shape, generator=draw)
    maps = torch.rand(images, len(MAPS), rows, columns, generator=draw)
    maps[:, 2] = maps[:, 2].mul(9).ceil()
    weights = 0.4 * torch.randn(len(FEATURES), dtype=torch.float64, generator=draw)
    forbidden = torch.rand(images, rows, columns, generator=draw) > 0.6
    return picture, executed, maps, weights, forbidden


def changes(picture, executed, cells):
    """Of one image: the parts' differences of each block, in standard deviations."""
    sampled = picture[:, 1::4, 1::4].double()
    deviation = sampled.var((1, 2)).mean().sqrt()
    deviation = max(float(deviation), 0.05 * float(sampled.mean((1, 2)).abs().mean()))
    part = cells // 4
    parts = (picture - executed).abs().double().mean(0).unflatten(0, (-1, part))
    parts = parts.unflatten(2, (-1, part)).mean((1, 3)) / deviation
    return parts.unflatten(0, (-1, 4)).unflatten(2, (-1, 4)).transpose(1, 2)


@pytest.mark.parametrize("predict", PREDICTIONS)
@pytest.mark.parametrize("cells", [4, 8, 16])
@pytest.mark.parametrize("zone", [False, True])
def test_a_prediction_is_what_the_definition_says(predict, cells, zone):
    picture, executed, maps, weights, forbidden = make_case(cells=cells)
    forbidden = forbidden if zone else None
    found = predict(picture, executed, maps, weights, forbidden, cells, *CONSTANTS)
    for image in range(2):
        blocks = changes(picture[image], executed[image], cells)
        change = blocks.mean((2, 3)).tolist()
        gains = maps[image, 0].tolist()
        of_frame = sum(map(sum, change)) / 15
        worth = [[0.0] * 5 for _ in range(3)]
        for row in range(3):
            for column in range(5):
                log_gain, surprise, age, stale, output, peak = maps[image, :, row, column].tolist()
                differences = (
                    float(blocks[row, column].max()),
                    change[row][column],
                    around(change, row, column),
                    of_frame,
                    stale,
                )
                features = [math.log(value + 0.01) for value in differences]
                features += [log_gain, around(gains, row, column), surprise, math.log(age)]
                features += [output, peak, 1.0]
                place = (image, row, column)
                assert found.features[place].tolist() == pytest.approx(features, abs=2e-5)
                assert float(found.change[place]) == pytest.approx(change[row][column], rel=1e-5)
                expected = sum(f * w for f, w in zip(features, weights.tolist(), strict=True))
                expected = min(max(expected, -6), 2)
                assert float(found.expected[place]) == pytest.approx(expected, abs=5e-5)
                worth[row][column] = max(math.exp(expected) - 0.1, 1e-4)
                if zone and forbidden[place]:
                    worth[row][column] = 1e-4
                assert float(found.worth[place]) == pytest.approx(worth[row][column], rel=1e-3)
        for row in range(3):
            for column in range(5):
                nine = (8 * around(worth, row, column) + worth[row][column]) / 9
                score = (nine + worth[row][column]) / 2 + 1e-5 * maps[image, 2, row, column]
                assert float(found.scores[image, row, column]) == pytest.approx(
                    float(score), rel=1e-3
                )
        flat = [value for line in worth for value in line]
        spread = sum(flat) ** 2 / (15 * sum(value * value for value in flat))
        measures = [spread, sum(flat) / 15, 1.0, float(picture[image].double().mean())]
        assert found.measures[:, image].tolist() == pytest.approx(measures, rel=1e-3)


@pytest.mark.parametrize("predict", PREDICTIONS)
def test_spread_of_two_classes_is_the_share_that_is_worth_something(predict):
    picture, _, maps, weights, forbidden = make_case(1)
    maps.zero_()
    maps[:, 2] = 1
    weights.zero_()
    weights[-1] = 1.0  # all blocks are worth e - 0.1, but those that are forbidden
    found = predict(picture, picture, maps, weights, forbidden, 8, *CONSTANTS)
    assert 0 < forbidden.sum() < 15
    share = 1 - float(forbidden.float().mean())
    assert float(found.measures[0, 0]) == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("predict", PREDICTIONS)
def test_the_noise_of_a_flat_picture_is_no_motion(predict):
    _, _, maps, weights, _ = make_case(1)
    flat = torch.full((1, 3, 24, 40), -2.0)
    noisy = flat + 1e-3 * torch.randn(flat.shape)
    found = predict(noisy, flat, maps, weights, None, 8, *CONSTANTS)
    assert float(found.change.max()) < 0.02


@pytest.mark.parametrize("predict", PREDICTIONS)
def test_what_is_not_finite_shows_in_its_image_alone(predict):
    picture, executed, maps, weights, _ = make_case(2)
    picture[1, 2, 23, 39] = math.nan
    found = predict(picture, executed, maps, weights, None, 8, *CONSTANTS)
    assert found.measures[3].isfinite().tolist() == [True, False]


def test_both_predict_alike():
    case = make_case(3, 8, 16, 16, seed=3)
    op = predict_gain(*case, 16, *CONSTANTS)
    twin = predict_gain_reference(*case, 16, *CONSTANTS)
    for one, other in zip(op, twin, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("remember", MEMORIES)
@pytest.mark.parametrize("given", ["nothing", "output", "gain and output"])
@pytest.mark.parametrize("everywhere", [False, True])
def test_what_is_remembered(remember, given, everywhere):
    _, _, maps, weights, grid = make_case(1)
    maps, grid = maps[0], grid[0]
    assert 0 < grid.sum() < 15
    change, expected, gain = torch.rand(3, 3, 5).unbind(0)
    output = torch.rand(2, 3, 5)
    before = maps.clone()
    after = remember(
        maps,
        grid,
        change,
        expected,
        weights,
        gain if "gain" in given else None,
        output if "output" in given else None,
        everywhere,
        0.1,
        0.3,
    )
    assert torch.equal(maps, before)
    habit = float(weights[FEATURES.index("surprise")])
    left = [
        [0.0 if grid[row, column] else float(change[row, column]) for column in range(5)]
        for row in range(3)
    ]
    for row in range(3):
        for column in range(5):
            place = (row, column)
            log_gain, surprise, age, stale, shown, peak = maps[:, row, column].tolist()
            ran = bool(grid[place])
            if ran:
                stale = around(left, row, column)
            if ran and "gain" in given:
                brought, predicted = float(gain[place]), float(expected[place])
                log_gain = math.log(brought + 0.1)
                told = max(brought, math.exp(predicted) - 0.1, 0.0)
                missed = log_gain - predicted + (habit - 1) * surprise
                surprise = min(max(surprise + 0.3 * told / (told + 0.1) * missed, -4), 4)
            if "output" in given and (ran or everywhere):
                shown, peak = output[:, row, column].tolist()
            wanted = [log_gain, surprise, 1.0 if ran else age + 1, stale, shown, peak]
            assert after[:, row, column].tolist() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("remember", MEMORIES)
def test_a_block_that_brings_less_than_predicted_is_remembered(remember):
    maps, nothing = torch.zeros(len(MAPS), 1, 3), torch.zeros(1, 3)
    expected = torch.tensor([[1.1, 0.1, 1.1]]).log()
    grid = torch.tensor([[True, True, False]])
    weights = torch.zeros(len(FEATURES), dtype=torch.float64)
    weights[FEATURES.index("surprise")] = 1.0
    one = remember(maps, grid, nothing, expected, weights, nothing, None, False, 0.1, 0.3)
    # A gain of 1 was predicted of the first and none of the second; the third did not run.
    by_hand = 0.3 * (1 / 1.1) * math.log(0.1 / 1.1)
    assert one[1].flatten().tolist() == pytest.approx([by_hand, 0, 0], abs=1e-6)
    # The same again: what was predicted, now less that surprise, is compared without it.
    again = remember(one, grid, nothing, expected, weights * 0, nothing, None, False, 0.1, 0.3)
    by_hand += 0.3 / 1.1 * (math.log(0.1 / 1.1) - by_hand)
    assert float(again[1, 0, 0]) == pytest.approx(by_hand, abs=1e-6)
    # However often it disappoints, a surprise has bounds.
    for _ in range(60):
        again = remember(
            again, grid, nothing, expected + 6, weights * 0, nothing, None, False, 0.1, 1.0
        )
    assert float(again[1, 0, 0]) == -4


@pytest.mark.parametrize("predict", PREDICTIONS)
def test_wrong_arguments_of_a_prediction_raise(predict):
    picture, executed, maps, weights, forbidden = make_case()
    with pytest.raises(ValueError, match="executed has shape"):
        predict(picture, executed[:1], maps, weights, forbidden, 8, *CONSTANTS)
    with pytest.raises(ValueError, match="picture has shape"):
        predict(picture, executed, maps, weights, forbidden, 4, *CONSTANTS)
    with pytest.raises(ValueError, match="cells is 6"):
        predict(picture, executed, maps, weights, forbidden, 6, *CONSTANTS)
    with pytest.raises(ValueError, match="maps"):
        predict(picture, executed, maps[0], weights, forbidden, 8, *CONSTANTS)
    with pytest.raises(TypeError, match="weights has dtype"):
        predict(picture, executed, maps, weights.float(), forbidden, 8, *CONSTANTS)
    with pytest.raises(TypeError, match="forbidden has dtype"):
        predict(picture, executed, maps, weights, forbidden.int(), 8, *CONSTANTS)


@pytest.mark.parametrize("remember", MEMORIES)
def test_wrong_arguments_of_a_memory_raise(remember):
    _, _, maps, weights, grid = make_case()
    plain = torch.zeros(3, 5)
    for bad in ((plain[:2], None, None), (plain, plain[:2], None), (plain, None, plain)):
        with pytest.raises(ValueError, match="has shape"):
            remember(maps[0], grid[0], bad[0], plain, weights, *bad[1:], False, 0.1, 0.3)
    with pytest.raises(TypeError, match="grid has dtype"):
        remember(maps[0], plain, plain, plain, weights, None, None, False, 0.1, 0.3)


def test_the_operators_are_well_registered():
    case = make_case(1)
    torch.library.opcheck(torch.ops.blockcopy.predict_gain.default, (*case, 8, *CONSTANTS))
    _, _, maps, weights, grid = case
    plain = torch.rand(3, 5)
    arguments = (maps[0], grid[0], plain, plain, weights, plain, None, True, 0.1, 0.3)
    torch.library.opcheck(torch.ops.blockcopy.remember_gain.default, arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_the_gpu():
    case = make_case(2)
    found = predict_gain(*(value.cuda() for value in case), 8, *CONSTANTS)
    assert found.scores.is_cuda
    for one, other in zip(found, predict_gain(*case, 8, *CONSTANTS), strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-4)
