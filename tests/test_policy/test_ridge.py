from __future__ import annotations

import torch

from blockcopy_plugins.policy.gain.ridge import OnlineRidge


def _data(count=60, features=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, features, generator=draw)
    y = x @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + 0.1 * torch.randn(count, generator=draw)
    return x, y


def test_before_any_sample_it_is_the_prior():
    prior = torch.tensor([0.0, 1.0, 0.0, 0.5])
    ridge = OnlineRidge(prior, 20, 1000)
    ridge.solve()
    assert torch.allclose(ridge.weights, prior.double())


def test_it_is_the_closed_form_of_what_it_has_seen():
    """The same least squares, written with one row for each sample and for each prior weight."""
    prior = torch.tensor([0.0, 1.0, 0.0, 0.5])
    x, y = _data()
    seen = torch.arange(60) % 3 > 0
    ridge = OnlineRidge(prior, strength=7.0, memory=50.0)
    for part in (slice(0, 24), slice(24, 60)):
        ridge.learn(x[part], y[part], seen[part], int(seen[part].sum()))
    ridge.solve()
    # The first part's 16 samples have decayed by the 24 of the second.
    weight = torch.cat((torch.full((16,), 2.718281828 ** (-24 / 50)), torch.ones(24))).double()
    rows = torch.cat((x[seen].double() * weight.sqrt()[:, None], 7**0.5 * torch.eye(4).double()))
    values = torch.cat((y[seen].double() * weight.sqrt(), 7**0.5 * prior.double()))
    expected = torch.linalg.lstsq(rows, values).solution
    assert torch.allclose(ridge.weights, expected, atol=1e-6)


def test_it_follows_when_the_truth_changes():
    ridge = OnlineRidge(torch.zeros(4), strength=1.0, memory=100.0)
    x, y = _data(400)
    ridge.learn(x, y, torch.ones(400, dtype=torch.bool), 400)
    for _ in range(10):
        ridge.learn(x[:100], -y[:100], torch.ones(100, dtype=torch.bool), 100)
    ridge.solve()
    assert torch.allclose(ridge.weights.float(), torch.tensor([-1.0, 2.0, -0.5, 0.0]), atol=0.1)


def test_autocast_changes_nothing():
    plain, ridge = (OnlineRidge(torch.zeros(4), strength=1.0, memory=100.0) for _ in "ab")
    x, y = _data()
    everything = torch.ones(60, dtype=torch.bool)
    plain.learn(x, y, everything, 60)
    plain.solve()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ridge.learn(x, y, everything, 60)
        ridge.solve()
    assert torch.equal(ridge.weights, plain.weights)


def test_it_follows_the_frames_to_their_device():
    ridge = OnlineRidge(torch.zeros(4), strength=1.0, memory=100.0)
    kept = ridge.products
    ridge.to(torch.device("cpu"))
    assert ridge.products is kept
    ridge.to(torch.device("meta"))
    for name in ("prior", "weights", "products", "targets"):
        assert getattr(ridge, name).device.type == "meta", name
