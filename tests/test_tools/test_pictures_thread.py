"""Pictures are made beside the model: in order, none lost, errors told."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def pictures_thread(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    from _pictures_thread import PicturesThread

    yield PicturesThread
    sys.modules.pop("_pictures_thread")


def test_pictures_are_made_in_order_in_another_thread(pictures_thread):
    done = []
    with pictures_thread() as thread:
        for number in range(20):
            thread.run(lambda n: done.append((n, threading.get_ident())), number)
    assert [number for number, _ in done] == list(range(20))
    assert threading.get_ident() not in {where for _, where in done}


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priorities of their own")
def test_the_model_goes_first(pictures_thread):
    def niceness():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before, found = niceness(), []
    with pictures_thread() as thread:
        thread.run(lambda: found.append(niceness()))
    assert found == [min(before + 10, 19)]
    assert niceness() == before


def test_no_more_than_three_pictures_wait(pictures_thread):
    may_go, asked = threading.Event(), []

    def ask(thread):
        for number in range(6):
            thread.run(may_go.wait)
            asked.append(number)

    with pictures_thread() as thread:
        asking = threading.Thread(target=ask, args=(thread,))
        asking.start()
        time.sleep(0.3)
        assert asked == [0, 1, 2]
        may_go.set()
        asking.join(10)
    assert asked == list(range(6)) and thread.waited > 0.2 and thread.seconds > 0.2


def test_an_error_is_told_to_who_asks_next(pictures_thread):
    def fail():
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"), pictures_thread() as thread:
        thread.run(fail)
        for _ in range(100):
            thread.run(time.sleep, 0.01)
    with pytest.raises(OSError, match="disk is full"), pictures_thread() as thread:
        thread.run(fail)


def test_what_was_asked_for_is_done_whatever_ends_the_block(pictures_thread):
    done = []
    with pytest.raises(KeyboardInterrupt), pictures_thread() as thread:
        for number in range(3):
            thread.run(lambda n: (time.sleep(0.05), done.append(n)), number)
        raise KeyboardInterrupt
    assert done == [0, 1, 2]
