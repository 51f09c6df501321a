"""ridge_sums and ridge_weights against the same least squares with a row for each sample."""

from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.ops.ridge import (
    ridge_sums,
    ridge_weights,
)

IMPLEMENTATIONS = [
    pytest.param((ridge_sums, ridge_weights), id="op"),
    pytest.param((ridge_sums.reference, ridge_weights.reference), id="twin"),
]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("count", [1, 5, 12])
def test_least_squares(implementation, count):
    sums, weights = implementation
    features, values = torch.randn(90, count), torch.randn(90)
    seen = torch.rand(90) > 0.4
    products = torch.zeros(count, count, dtype=torch.float64)
    targets = torch.zeros(count, dtype=torch.float64)
    for part, decay in ((slice(0, 50), 1.0), (slice(50, 90), 0.5)):
        products, targets = sums(products, targets, features[part], values[part], seen[part], decay)
    prior = torch.randn(count, dtype=torch.float64)
    found = weights(products, targets, prior, 3.0)
    # The first part has half the weight.
    root = torch.where(torch.arange(90) < 50, 0.5**0.5, 1.0).double()[seen]
    rows = torch.cat((features[seen].double() * root[:, None], 3**0.5 * torch.eye(count).double()))
    right = torch.cat((values[seen].double() * root, 3**0.5 * prior))
    torch.testing.assert_close(found, torch.linalg.lstsq(rows, right).solution)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_wrong_arguments_raise(implementation):
    sums, weights = implementation
    products, targets = torch.zeros(3, 3).double(), torch.zeros(3).double()
    features, values, seen = torch.zeros(4, 3), torch.zeros(4), torch.zeros(4).bool()
    with pytest.raises(ValueError, match="values has shape"):
        sums(products, targets, features, values[:2], seen, 1.0)
    with pytest.raises(TypeError, match="products has dtype"):
        sums(products.float(), targets, features, values, seen, 1.0)
    with pytest.raises(ValueError, match="targets has shape"):
        weights(products, targets[:2], targets, 1.0)


def test_the_operators_are_well_registered():
    products, targets = torch.eye(3).double(), torch.ones(3).double()
    samples = (torch.randn(4, 3), torch.randn(4), torch.rand(4) > 0.5)
    torch.library.opcheck(
        torch.ops.blockcopy.ridge_sums.default, (products, targets, *samples, 0.9)
    )
    torch.library.opcheck(
        torch.ops.blockcopy.ridge_weights.default, (products, targets, targets, 2.0)
    )
