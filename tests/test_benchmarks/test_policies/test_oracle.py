"""What the oracle picks, from gains that are dictated."""

from __future__ import annotations

import pytest
import torch

from benchmarks.policies.oracle import OraclePolicy, neighbours_mean
from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy import InformationGain, PolicyContext


class DictatedGain(InformationGain):
    """A summary is a map of values on blocks; the gain is how far two are apart."""

    def summarise(self, output, geometry):
        return output[0]

    def compare(self, previous, current, geometry):
        return (current - previous).abs()


def context(index, images=1):
    grid = torch.zeros(images, 2, 3, dtype=torch.bool)
    first = torch.tensor([index == 0] * images)
    streams = tuple(range(images))
    return PolicyContext(streams, (images, 2, 3), 16, first, (index,) * images, grid)


def play(policy, dense, count=None):
    """Run a network that shows the dense output of the blocks that are executed."""
    frame = torch.zeros(1, 3, 32, 48)
    shown, grids = torch.zeros(2, 3), []
    for index, wanted in enumerate(dense[:count]):
        here = context(index)
        grid = policy.select(frame, here)
        assert torch.equal(grid, policy.select(frame, here)), "to look changes nothing"
        grid = grid | here.first[:, None, None]
        shown = torch.where(grid[0], wanted, shown)
        policy.feedback(frame, grid, [shown[None]], here)
        grids.append(grid[0])
    return grids


def test_the_farthest_blocks_run_first():
    dense = [torch.zeros(2, 3), torch.tensor([[0.0, 5, 1], [4, 2, 3]])]
    dense += [dense[1].clone(), dense[1].clone()]
    grids = play(OraclePolicy(dense, DictatedGain(), target=1 / 3), dense)
    assert grids[0].all()
    assert grids[1].tolist() == [[False, True, False], [True, False, False]]
    # What was not executed is still wrong.
    assert grids[2].tolist() == [[False, False, False], [False, True, True]]
    # One left; and of those that are right the one that has waited longest.
    assert grids[3].tolist() == [[True, False, True], [False, False, False]]


def test_the_budget_is_exact_over_frames():
    dense = list(torch.rand(41, 2, 3))
    for target in (0.0, 0.1, 0.25, 0.7, 1.0):
        grids = play(OraclePolicy(dense, DictatedGain(), target), dense)
        assert sum(int(grid.sum()) for grid in grids[1:]) == int(40 * target * 6 + 1e-6)
        counts = {int(grid.sum()) for grid in grids[1:]}
        assert max(counts) - min(counts) <= 1


def test_neighbours_count_half():
    values = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    wanted = [[11 / 3, 19 / 5, 13 / 3], [8 / 3, 16 / 5, 10 / 3]]
    torch.testing.assert_close(neighbours_mean(values), torch.tensor(wanted))
    # Alone, the largest gain wins; with its neighbours a lesser one among others does.
    dense = [torch.zeros(2, 3), torch.tensor([[4.0, 0, 3.3], [0, 3.4, 3.5]])]
    alone, together = (
        play(OraclePolicy(dense, DictatedGain(), 1 / 6, share), dense)[1].flatten().tolist()
        for share in (0.0, 0.5)
    )
    assert alone.index(True) == 0 and together.index(True) == 5


def test_it_forgets_and_refuses():
    dense = list(torch.rand(3, 2, 3))
    policy = OraclePolicy(dense, DictatedGain(), 0.5)
    before = play(policy, dense)
    policy.reset()
    assert all(torch.equal(a, b) for a, b in zip(before, play(policy, dense), strict=True))
    frame = torch.zeros(2, 3, 32, 48)
    with pytest.raises(ConfigError, match="knows 3 frames of one stream.*frame 3"):
        policy.select(frame[:1], context(3))
    with pytest.raises(ConfigError, match="2 streams"):
        policy.select(frame, context(1, images=2))
    with pytest.raises(ConfigError, match="target must be from 0 to 1, found 1.5"):
        OraclePolicy(dense, DictatedGain(), 1.5)
