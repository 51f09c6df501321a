"""What holds for every operator of the namespace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import blockcopy_plugins.policy.gain.look  # noqa: F401 - registers what the policies need
import blockcopy_plugins.propagation  # noqa: F401
from blockcopy_plugins.ops import conv_kernels, library

HERE = Path(__file__).parent
# Says what the processor has; it has no tensors.
WITHOUT_TENSORS = {"conv_kernels"}


def names() -> set[str]:
    found = {
        name.partition("::")[2].partition(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("blockcopy::")
    }
    return found - WITHOUT_TENSORS


def test_each_is_held_against_torchs_own_checks():
    tests = "".join(path.read_text() for path in HERE.glob("test_*.py"))
    # Each way to write it down: torch.ops.blockcopy.NAME.default, or ops.NAME.default.
    checked = set(re.findall(r"ops(?:\.blockcopy)?\.(\w+)\.default", tests))
    missing = {name for name in names() if name not in checked and f"::{name}" not in tests}
    assert not missing


def case(name):
    state = torch.randn(2, 8, 16, 16).to(memory_format=torch.channels_last)
    blocks = torch.tensor([[0, 0, 1], [1, 1, 0]], dtype=torch.int32)
    rings = torch.randn(2, 8, 4, 48).to(memory_format=torch.channels_last)
    if name == "scatter_rings_":
        packed = torch.randn(2, 8, 8, 8).to(memory_format=torch.channels_last)
        return torch.ops.blockcopy.scatter_rings_.default, (rings, packed, blocks, [16, 16], 2)
    if name == "copy_rings_":
        map_ = torch.randn(1, 8, 16, 16).to(memory_format=torch.channels_last)
        place = torch.tensor([[1, 0, 0]], dtype=torch.int32)
        return torch.ops.blockcopy.copy_rings_.default, (rings, map_, place, [8, 8], 2)
    if name == "scatter_planes_":
        packed = torch.randn(2, 8, 8, 8)
        return torch.ops.blockcopy.scatter_planes_.default, (state.contiguous(), packed, blocks)
    if name == "copy_blocks_":
        wanted = torch.rand(2, 2, 2) < 0.5
        copied = (state, state.clone(), wanted, torch.tensor(False), [8, 8])
        return torch.ops.blockcopy.copy_blocks_.default, copied
    if name == "planes":
        return torch.ops.blockcopy.planes.default, (state,)
    weight = torch.randn(8, 8, 3, 3)
    if name == "conv_prepare":
        return torch.ops.blockcopy.conv_prepare.default, (weight, False)
    prepared = torch.ops.blockcopy.conv_prepare(weight, False)
    windows = torch.arange(-1, 9, dtype=torch.int32)
    table = torch.stack((windows, windows + 8)).clamp_max_(16)
    table[table == 16] = -1
    return torch.ops.blockcopy.conv_blocks.default, (
        *(state, None, blocks, table, table, weight, prepared, torch.randn(8), [], 0.0),
        *([1, 1], [1, 1], [8, 8], None, 0.0, 6.0, torch.empty(0, dtype=torch.uint8)),
    )


@pytest.mark.parametrize(
    "name",
    [
        "scatter_rings_",
        "copy_rings_",
        "scatter_planes_",
        "copy_blocks_",
        "planes",
        "conv_prepare",
        "conv_blocks",
    ],
)
def test_opcheck(name):
    if name.startswith("conv") and not conv_kernels():
        pytest.skip("no kernels for this processor")
    utils = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if name != "conv_prepare":
        # Of what that returns a part is no values, and another one in each call.
        utils.append("test_aot_dispatch_dynamic")
    torch.library.opcheck(*case(name), test_utils=utils)


def test_an_extension_of_other_sources_is_refused():
    with pytest.raises(ImportError, match=r"of another version: it has .*planes\(Tensor map\)"):
        library.register_operator("planes(Tensor map, int more) -> Tensor", None, None)
