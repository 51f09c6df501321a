"""planes against torch's own copy."""

from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.ops.planes import planes

IMPLEMENTATIONS = [pytest.param(planes, id="op"), pytest.param(planes.reference, id="twin")]
DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.uint8, torch.bool, torch.complex128]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1), (2, 3, 5, 7), (3, 70, 33, 65), (1, 32, 64, 64), (2, 5, 0, 4), (0, 3, 2, 2)],
)
def test_it_is_a_contiguous_copy(implementation, dtype, shape):
    contiguous = torch.arange(torch.Size(shape).numel()).view(shape).to(dtype)
    map_ = contiguous.contiguous(memory_format=torch.channels_last)
    found = implementation(map_)
    assert found.is_contiguous() and found.dtype == dtype
    assert torch.equal(found, contiguous)
    if found.numel():
        assert found.data_ptr() != map_.data_ptr()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_other_layouts_are_refused(implementation):
    with pytest.raises(ValueError, match="channels last"):
        implementation(torch.zeros(2, 3, 4, 5))
    with pytest.raises(ValueError, match="channels last"):
        implementation(torch.zeros(2, 3, 4))
