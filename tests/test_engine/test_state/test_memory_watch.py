"""Whether memory is still in use, and how two tensors change memories."""

from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.engine.state import memory_watch
from blockcopy_plugins.engine.state.memory_watch import is_held, swap_memory, watch_memory
from blockcopy_plugins.ops.library import extension_module
from blockcopy_plugins.shared_copy import shared_copy


@pytest.fixture(params=["native", "torch"], autouse=True)
def way(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(memory_watch, "_NATIVE", None)
    elif extension_module() is None:
        pytest.skip("the extension is not built")
    return request.param


def test_memory_is_held_as_long_as_a_tensor_of_it_lives():
    x = torch.zeros(100)
    watch = watch_memory(x)
    view = x[10:]
    assert is_held(watch)
    del x
    assert is_held(watch)
    del view
    assert not is_held(watch)


def test_a_shared_copy_is_watched_on_its_own():
    x = torch.zeros(1 << 18)
    copy = shared_copy(x)
    watch = watch_memory(copy)
    assert is_held(watch)
    del copy
    assert not is_held(watch) and not x.any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("inference", [False, True])
def test_tensors_change_memories(layout, inference):
    one, other = (torch.full((1, 3, 4, 5), v).contiguous(memory_format=layout) for v in (1.0, 2.0))
    addresses, view = [one.data_ptr(), other.data_ptr()], one[:, :1]
    versions = one._version, other._version
    with torch.inference_mode(inference):
        swap_memory(one, other)
    assert [other.data_ptr(), one.data_ptr()] == addresses
    assert (one == 2).all() and (other == 1).all() and (view == 1).all()
    assert one.is_contiguous(memory_format=layout) and one.shape == (1, 3, 4, 5)
    assert one._version > versions[0] and other._version > versions[1]
    one.zero_()
    assert (other == 1).all()


def test_what_does_not_lie_alike_is_refused(way):
    if way == "torch":
        pytest.skip("checked by the extension")
    x = torch.zeros(2, 3)
    for wrong in (torch.zeros(3, 2), torch.zeros(2, 3, dtype=torch.float64), torch.zeros(7)[1:]):
        with pytest.raises(ValueError, match="do not lie alike"):
            swap_memory(x, wrong)
    with pytest.raises(TypeError, match="expected a tensor"):
        swap_memory(x, 1)
