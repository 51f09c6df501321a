from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.policy.picture import picture_statistics
from blockcopy_plugins.policy.reinforce.net import INPUT_CHANNELS, PolicyNet, policy_input


def _net(rate=0.3, seed=0, **arguments):
    return PolicyNet(rate, torch.Generator().manual_seed(seed), **arguments)


@pytest.mark.parametrize("per_block", [4, 8, 16])
@pytest.mark.parametrize("grid", [(1, 1), (5, 10), (8, 16)])
def test_one_logit_a_block(per_block, grid):
    cells = torch.randn(2, INPUT_CHANNELS, grid[0] * per_block, grid[1] * per_block)
    logits = _net()(cells, per_block)
    assert logits.shape == (2, *grid) and logits.dtype == torch.float32


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_it_begins_near_the_rate(rate):
    for seed in range(3):
        cells = torch.randn(1, INPUT_CHANNELS, 128, 256)
        probability = _net(rate, seed)(cells, 16).sigmoid()
        assert (probability - rate).abs().max() < 0.1


def test_gain_leaves_the_net_as_it_is_and_speeds_the_step():
    cells = torch.randn(1, INPUT_CHANNELS, 32, 32)
    one, eight = _net(gain=1.0), _net(gain=8.0)
    torch.testing.assert_close(one(cells, 16), eight(cells, 16), atol=1e-5, rtol=0)
    moved = []
    for net in (one, eight):
        before = net(cells, 16).detach()
        optimizer = torch.optim.RMSprop(net.parameters(), lr=1e-6)
        net(cells, 16).sum().backward()
        optimizer.step()
        moved.append(float((net(cells, 16) - before).detach().sum()))
    # The optimizer's step has the same length for both, whatever the gradient.
    assert moved[1] == pytest.approx(8 * moved[0], rel=0.1)


def test_logits_are_bounded_and_find_their_way_back():
    cells = torch.zeros(1, INPUT_CHANNELS, 16, 16)
    for pushed in (30.0, -30.0):
        net = _net(gain=1.0)
        torch.nn.init.constant_(net.head.bias, pushed)
        logit = net(cells, 16).detach()
        assert logit.abs().max() == pytest.approx(4.6)
        # Descent along +logit or -logit: only the direction back between the bounds is learned.
        for sign in (1.0, -1.0):
            net.zero_grad()
            (sign * net(cells, 16)).sum().backward()
            assert float(net.head.bias.grad) == (sign if sign * pushed > 0 else 0.0)


def test_initial_weights_come_from_the_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = _net(seed=1), _net(seed=1), _net(seed=2)
    assert torch.equal(before, torch.get_rng_state())
    for (name, a), b in zip(one.state_dict().items(), same.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not torch.equal(one.head.weight, other.head.weight)


@pytest.mark.parametrize("per_block", [4, 8, 16])
def test_what_a_block_sees_is_centred_on_it(per_block):
    torch.manual_seed(0)
    net = _net(gain=1.0, bound=1e9)
    for parameter in net.parameters():
        torch.nn.init.constant_(parameter, 0.01)  # so that nothing is cut off by a ReLU
    cells = torch.rand(1, INPUT_CHANNELS, 7 * per_block, 7 * per_block, requires_grad=True)
    net(cells, per_block)[0, 3, 3].backward()
    reach = cells.grad.abs().sum((0, 1))
    blocks = reach.reshape(7, per_block, 7, per_block).sum((1, 3))
    assert blocks.argmax() == 24  # the middle of 7 x 7
    assert (blocks[2:5, 2:5] > 0).all()
    places = torch.arange(7 * per_block) + 0.5
    middle = 3.5 * per_block
    for axis in (0, 1):
        centre = float((reach.sum(1 - axis) * places).sum() / reach.sum())
        assert abs(centre - middle) < 0.6  # cells


@pytest.mark.parametrize("per_block", [4, 8, 16])
def test_known_features_give_the_same_gradients(per_block):
    torch.manual_seed(0)
    net = _net(gain=2.0)
    cells = torch.randn(2, INPUT_CHANNELS, 3 * per_block, 5 * per_block)
    wanted = torch.randn(2, 3, 5)
    (net(cells, per_block) * wanted).sum().backward()
    expected = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    with torch.no_grad():
        known = net.features(cells, per_block)
        logits = net.logits(known)
    again = net.features(cells, per_block, known)
    assert all(torch.equal(a, b) for a, b in zip(again, known, strict=True))
    found = net.logits(again)
    assert torch.equal(found, logits)
    (found * wanted).sum().backward()
    for name, parameter in net.named_parameters():
        assert expected[name].abs().max() > 0
        torch.testing.assert_close(parameter.grad, expected[name])


def test_the_revision_tells_that_weights_were_written():
    net = _net()
    optimizer = torch.optim.RMSprop(net.parameters(), lr=1e-4)
    seen = [net.revision()]
    net(torch.randn(1, INPUT_CHANNELS, 32, 32), 16).sum().backward()
    assert net.revision() == seen[0]
    for write in (optimizer.step, lambda: net.load_state_dict(_net(seed=1).state_dict())):
        write()
        assert net.revision() not in seen
        seen.append(net.revision())


def test_inputs_are_normalised_whatever_the_unit():
    torch.manual_seed(0)
    now, last = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    output, grid = torch.rand(2, 1, 16, 16), torch.rand(2, 16, 16) > 0.5
    cells = policy_input(now, last, output, grid, picture_statistics(now))
    assert cells.shape == (2, INPUT_CHANNELS, 16, 16)
    bright = now * 255 + 40, last * 255 + 40
    other = policy_input(*bright, output, grid, picture_statistics(bright[0]))
    torch.testing.assert_close(cells, other, atol=1e-4, rtol=1e-4)
    assert (policy_input(now, now, output, grid, picture_statistics(now))[:, 6:9] == 0).all()
    torch.testing.assert_close(cells[:, 9:10], output - 0.5)
    assert set(cells[:, 10].unique().tolist()) == {-0.5, 0.5}
