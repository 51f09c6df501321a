"""Transfers between host and device, on a GPU that tests on the CPU can have."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from benchmarks.gpu.device_reads import DeviceReads
from blockcopy_plugins.engine.frame_record import Scalars
from blockcopy_plugins.host_transfer import HostReads, to_host, upload, upload_into

DTYPES = (
    *(torch.bool, torch.uint8, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
)


def test_any_tensors_come_in_one_transfer():
    torch.manual_seed(0)
    tensors = [(torch.rand(3, 5) * 2).to(dtype) for dtype in DTYPES]
    # No dimension, no elements, no order in memory, of odd lengths in between.
    tensors += [torch.tensor(True), torch.tensor(2.5), torch.zeros(0, 4), torch.zeros(7) > 0]
    tensors += [torch.rand(4, 6).t()[::2], torch.arange(3), torch.rand(2, 3, 4, 5)[:, 1]]
    tensors += [torch.rand(6, 5)[:, 4], torch.rand(3)[1], torch.rand(1, 1)[0]]
    wanted = [value.clone() for value in tensors]
    with DeviceReads() as device:
        found = to_host([device.put(value) for value in tensors])
        assert dict(device.waits) == {"host_transfer.py:to_host to the host": 1}
        assert not any(value.is_cuda for value in found)
    for value, copy_ in zip(found, wanted, strict=True):
        assert value.dtype == copy_.dtype and torch.equal(value, copy_)


def test_what_is_there_is_not_copied():
    host, other = torch.rand(3), torch.rand(2)
    assert to_host([]) == [] and to_host([host])[0] is host
    with DeviceReads() as device:
        found = to_host([host, device.put(other.clone())])
        assert found[0] is host and not found[1].is_cuda and torch.equal(found[1], other)
        assert to_host([host])[0] is host and sum(device.waits.values()) == 1


def test_what_goes_up_waits_for_nothing():
    with DeviceReads() as device:
        there = device.put(torch.zeros(3))
        values = torch.rand(3)
        up = upload(values, there.device)
        upload_into(there, values)
        assert upload(up, there.device) is up and upload(values, values.device) is values
        assert up.is_cuda and not device.waits
        assert torch.equal(up.cpu(), values) and torch.equal(there.cpu(), values)


class Asks:
    def __init__(self) -> None:
        self.told = []

    def take(self, name, value) -> None:
        self.told.append((name, value.tolist()))

    def refuse(self, value) -> None:
        raise ValueError(f"{value.item()}")


def test_values_come_with_the_grid_and_those_of_results_with_the_next():
    asks, reads, grid = Asks(), HostReads(), torch.tensor([[[True, False]]])
    with reads:
        reads.add(torch.tensor([1.0, 2.0]), partial(asks.take, "chosen"))
        host = reads.bring(grid)
        assert torch.equal(host, grid) and host is not grid
        assert asks.told == [("chosen", [1.0, 2.0])]
        reads.add(torch.tensor(3), partial(asks.take, "result"))
    with pytest.raises(RuntimeError), reads:
        # A frame that fails: what it wanted is dropped, what the one before wanted is not.
        reads.add(torch.tensor(4), partial(asks.take, "failed"))
        raise RuntimeError
    assert len(asks.told) == 1
    with reads:
        reads.bring(grid)
    assert asks.told[1:] == [("result", 3)]
    with reads:
        reads.bring(grid)
    assert len(asks.told) == 2


def test_all_are_told_before_one_refuses():
    asks, reads, grid = Asks(), HostReads(), torch.zeros(1, 1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="1"), reads:
        reads.add(torch.tensor(1), asks.refuse)
        reads.add(torch.tensor(2), asks.refuse)
        reads.add(torch.tensor(3), partial(asks.take, "told"))
        reads.bring(grid)
    assert asks.told == [("told", 3)]
    with reads:
        reads.bring(grid)
    assert len(asks.told) == 1


def test_a_deep_copy_tells_the_copy():
    asks, reads = Asks(), HostReads()
    with reads:
        reads.add(torch.tensor(1), partial(asks.take, "a"))
    other, others = copy.deepcopy((reads, asks))
    with other:
        other.bring(torch.zeros(1, 1, 1, dtype=torch.bool))
    assert others.told == [("a", 1)] and asks.told == []


def test_figures_are_numbers_for_who_reads_them():
    reads = HostReads()
    host = {"rate": 0.25, "of a user's": torch.tensor(2.0)}
    assert Scalars(host, reads).known and Scalars(host, reads).floats() == host
    with DeviceReads() as device, reads:
        gain, n = device.put(torch.tensor(0.5)), device.put(torch.ones(1))
        values = {"rate": 0.25, "gain": gain, "n": n}
        one, other = Scalars(values, reads), Scalars(values, reads)
        assert not one.known and not device.waits
        assert one.floats() == {"rate": 0.25, "gain": 0.5, "n": 1.0} and one.known
        assert sum(device.waits.values()) == 1
        reads.bring(device.put(torch.zeros(1, 1, 1, dtype=torch.bool)))
        assert other.known and other.floats() == one.floats()
        assert sum(device.waits.values()) == 2
