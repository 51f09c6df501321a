"""Figures for logs: each frame's once, in order, and none that would have to be waited for."""

from __future__ import annotations

from blockcopy_plugins.integrations.common.frame_figures import FrameFigures


class Record:
    """A frame on a GPU: asked before the next one has run, it counts a wait."""

    def __init__(self, rate):
        self.executed_rate, self.scalars_known, self.waits = rate, False, 0

    @property
    def scalars(self):
        self.waits += not self.scalars_known
        return {"reward": 2 * self.executed_rate}


def test_a_frame_late_and_none_twice():
    figures, records = FrameFigures(), [Record(i / 8) for i in range(4)]
    told = []
    for index, record in enumerate(records):
        if index:
            records[index - 1].scalars_known = True  # it came with this frame
        figures.add(record, index)
        told.append(list(figures.known()))
    wanted = [({"executed_rate": i / 8, "reward": i / 4}, i) for i in range(4)]
    assert told == [[], wanted[:1], wanted[1:2], wanted[2:3]]
    assert not any(record.waits for record in records)
    assert list(figures.all()) == wanted[3:] and records[3].waits == 1
    assert list(figures.all()) == [] == list(figures.known())


def test_on_a_cpu_at_once():
    figures, record = FrameFigures(), Record(0.5)
    record.scalars_known = True
    figures.add(record)
    assert list(figures.known()) == [({"executed_rate": 0.5, "reward": 1.0}, None)]
    figures.add(record)
    figures.clear()
    assert list(figures.all()) == []
