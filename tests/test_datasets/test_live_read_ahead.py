"""The thread that reads ahead: order, bounds, dropping, errors, and that it ends."""

from __future__ import annotations

import threading
import time
import weakref

import pytest

from blockcopy_plugins.datasets.live_read_ahead import ReadAhead


class Source:
    """Numbers that are given out one by one, when the test allows it."""

    def __init__(self, count, gate=None, fail_at=None):
        self.count, self.gate, self.fail_at = count, gate, fail_at
        self.given, self.finished, self.thread = 0, 0, None

    def __iter__(self):
        self.thread = threading.current_thread()
        for i in range(self.count):
            if self.gate is not None:
                self.gate.acquire()
            if i == self.fail_at:
                raise OSError("the cable is out")
            self.given += 1
            yield i

    def finish(self):
        self.finished += 1


def reading(source, ahead=3, drop=False, patience=5.0):
    return ReadAhead(source, ahead, drop, source.finish, patience)


def until(condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    until(lambda: set(threading.enumerate()) <= before)


def test_all_items_in_order_from_another_thread():
    source = Source(50)
    ahead = reading(source)
    assert list(ahead) == list(range(50))
    assert source.thread is not threading.main_thread()
    assert (ahead.dropped, source.finished) == (0, 1)
    assert list(ahead) == []  # and it stays at its end


def test_no_more_wait_than_may():
    source = Source(100)
    ahead = reading(source, ahead=3)
    assert next(ahead) == 0
    until(lambda: source.given == 1 + 3 + 1)  # one was taken, three wait, one is in hand
    time.sleep(0.05)
    assert source.given == 5
    assert [next(ahead) for _ in range(3)] == [1, 2, 3]
    ahead.close()


def test_newest_item_counts_where_items_may_be_dropped():
    gate = threading.Semaphore(1)
    source = Source(100, gate)
    ahead = reading(source, ahead=1, drop=True)
    assert next(ahead) == 0
    gate.release(10)
    until(lambda: ahead.dropped == 9)
    assert next(ahead) == 10  # 1 to 9 are gone
    gate.release(1)
    assert next(ahead) == 11  # nothing was dropped where nobody was late
    assert ahead.dropped == 9
    gate.release(1)
    ahead.close()


def test_oldest_go_where_several_may_wait():
    gate = threading.Semaphore(1)
    ahead = reading(Source(100, gate), ahead=3, drop=True)
    assert next(ahead) == 0
    gate.release(10)
    until(lambda: ahead.dropped == 7)
    assert [next(ahead) for _ in range(3)] == [8, 9, 10]
    gate.release(1)
    ahead.close()


def test_items_before_an_error_come_before_it():
    ahead = reading(Source(10, fail_at=3))
    found = []
    with pytest.raises(OSError, match="the cable is out"):
        for item in ahead:
            found.append(item)
    assert found == [0, 1, 2]
    assert list(ahead) == []  # raised once


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_close_ends_a_thread_that_waits_for_room(taken):
    source = Source(1000)
    ahead = reading(source)
    for _ in range(taken):
        next(ahead)
    ahead.close()
    assert source.finished == 1
    assert list(ahead) == []
    ahead.close()
    assert source.finished == 1


def test_close_from_another_thread_wakes_whoever_waits():
    gate = threading.Semaphore(0)
    ahead = reading(Source(10, gate))
    found = []
    waiting = threading.Thread(target=lambda: found.extend(ahead))
    waiting.start()
    until(lambda: ahead._started)
    gate.release(1)
    until(lambda: found == [0])
    threading.Timer(0.05, gate.release, [9]).start()
    ahead.close()
    waiting.join(5)
    assert not waiting.is_alive()


def test_a_read_that_hangs_is_left_behind_and_said(caplog):
    gate = threading.Semaphore(1)
    source = Source(10, gate)
    ahead = reading(source, patience=0.05)
    assert next(ahead) == 0
    began = time.monotonic()
    ahead.close()
    assert time.monotonic() - began < 2
    assert "left behind" in caplog.text
    gate.release(9)


def test_items_are_not_kept_alive_while_the_next_one_is_waited_for():
    class Item:
        pass

    gate = threading.Semaphore(1)
    ahead = ReadAhead(map(lambda i: gate.acquire() and Item(), range(3)), 1, False, int, 5.0)
    item = next(ahead)
    gone = weakref.ref(item)
    del item
    until(lambda: gone() is None)
    gate.release(2)
    ahead.close()
