"""Threads that call one model, against each stream in a model of its own."""

from __future__ import annotations

import copy
import pickle
import threading
import time

import pytest
import torch
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.call_lock import CallLock, ThreadValue
from blockcopy_plugins.errors import StateError
from blockcopy_plugins.policy import Policy

SIDE = 16
SHAPE = (1, 3, 48, 64)


class Slow(Policy):
    """Draws a grid of each frame, and lets other threads in while it does."""

    def select(self, frame, context):
        draw = torch.Generator().manual_seed(int(1e4 * frame.abs().sum()) % 2**31)
        time.sleep(0.002)
        return torch.rand(context.grid_shape, generator=draw) < 0.4

    def feedback(self, frame, grid, outputs, context):
        time.sleep(0.001)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 4, 1)
    ).eval()


def video(seed, frames=12):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=draw) for _ in range(frames)]


def in_threads(works):
    failures = []

    def guarded(work):
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    if failures:
        raise failures[0]


@torch.no_grad()
def test_each_thread_has_its_stream_and_its_results():
    videos = {name: video(seed) for seed, name in enumerate("abcd")}
    wanted = {}
    for name, frames in videos.items():
        alone = bc.blockcopy_(network(), bc.BlockCopyConfig(SIDE, Slow()))
        wanted[name] = [alone(frame) for frame in frames]
    model = bc.blockcopy_(network(), bc.BlockCopyConfig(SIDE, Slow()))
    got = {name: [] for name in videos}

    def run(name):
        with torch.no_grad(), bc.streams(model, [name]):
            for frame in videos[name]:
                got[name].append(model(frame))

    in_threads([lambda name=name: run(name) for name in videos])
    for name in videos:
        for found, right in zip(got[name], wanted[name], strict=True):
            assert torch.equal(found, right)
    assert bc.report(model).frames == 4 * 12


@torch.no_grad()
def test_what_a_thread_says_is_its_own():
    model = bc.blockcopy_(network(), bc.BlockCopyConfig(SIDE, "all"))
    dense, frame = network(), video(9, 1)[0]
    said, done = threading.Event(), threading.Event()

    def paused():
        with bc.dense(model), bc.streams(model, ["x", "y"]):
            said.set()
            assert done.wait(30)

    def running():
        assert said.wait(30)
        with torch.no_grad():
            # Two streams for one image would be refused; and in 'dense' nothing would be counted.
            assert torch.allclose(model(frame), dense(frame), atol=1e-5)
        done.set()

    in_threads([paused, running])
    assert bc.report(model).frames == 1


@torch.no_grad()
def test_parts_that_another_thread_runs_meanwhile_are_plain():
    model = bc.blockcopy_(network(), bc.BlockCopyConfig(SIDE, "all", strict=True))
    plain = network()
    inside, go_on = threading.Event(), threading.Event()

    def wait(module, args, output):
        inside.set()
        assert go_on.wait(30)

    hook = model[1].register_forward_hook(wait)
    frame, map_ = video(5, 1)[0], torch.randn(1, 8, 20, 20)
    found = {}

    def whole():
        with torch.no_grad():
            found["whole"] = model(frame)

    def part():
        assert inside.wait(30)
        with torch.no_grad():
            found["part"] = model[2](map_)
        found["active"] = bc.handle(model).converted.active.frame
        go_on.set()

    in_threads([whole, part])
    hook.remove()
    # Layers that this thread enters and leaves must not count as the other one's frame's.
    assert found["active"] is None
    assert torch.allclose(found["part"], plain[2](map_), atol=1e-5)
    assert torch.allclose(found["whole"], plain(frame), atol=1e-5)


@torch.no_grad()
def test_a_policy_that_calls_its_model_is_told_how():
    holder = []

    def asks(frame, context):
        holder[0](frame)
        return torch.ones(context.grid_shape, dtype=torch.bool)

    def asks_dense(frame, context):
        with bc.dense(holder[0]):
            return holder[0](frame).new_ones(context.grid_shape, dtype=torch.bool)

    model = bc.blockcopy_(network(), bc.BlockCopyConfig(SIDE, asks))
    holder.append(model)
    with pytest.raises(StateError, match=r"bc\.dense\(model\)"):
        model(video(1, 1)[0])
    model = bc.blockcopy_(network(), bc.BlockCopyConfig(SIDE, asks_dense))
    holder[0] = model
    assert model(video(1, 1)[0]).shape == (1, 4, 24, 32)


def test_a_copy_has_a_lock_of_its_own():
    lock, value = CallLock(), ThreadValue("usual")
    with lock, value.set_to("mine"):
        other, same = copy.deepcopy((lock, value))
        with other:
            assert same.get() == "usual" and value.get() == "mine"
        with pytest.raises(StateError), lock:
            pass
    assert value.get() == "usual"
    with pickle.loads(pickle.dumps(lock)):
        pass


def test_a_call_that_fails_lets_the_next_one_in():
    lock = CallLock()
    with pytest.raises(ValueError, match="lost"), lock:
        raise ValueError("lost")
    with lock:
        pass
