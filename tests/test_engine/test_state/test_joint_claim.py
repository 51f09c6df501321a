"""Entries that are claimed together are claimed as they would be one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blockcopy_plugins.engine.state.entry import StateEntry, StateKey
from blockcopy_plugins.engine.state.joint_claim import JointClaim
from blockcopy_plugins.engine.state.stream import Stream
from blockcopy_plugins.errors import StateError

SLOTS = 2


def entries(count=3):
    found = []
    for i in range(count):
        entry = StateEntry(
            StateKey("net", i, "conv"), SLOTS, (1, 8, 8), (4, 4), torch.float32, torch.device("cpu")
        )
        entry.widen(1)
        found.append(entry)
    return found


def one_by_one(all_, slots, streams, full):
    for entry in all_:
        entry.claim(slots, streams, full, entry.border)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["joint", "other joint", "one", "new stream", "border", "fails"]),
        st.sampled_from([(0,), (1,), (0, 1), (1, 0)]),
        st.booleans(),
    ),
    max_size=12,
)


@settings(deadline=None)
@given(STEPS)
def test_claims_are_allowed_and_refused_as_one_by_one(steps):
    ours, wanted = entries(), entries()
    joint = JointClaim(ours), JointClaim(ours[:2])
    streams = [Stream(token=slot, slot=slot) for slot in range(SLOTS)]
    token = SLOTS
    for what, slots, full in steps:
        now = [streams[slot] for slot in slots]
        if what == "new stream":
            streams[slots[0]] = Stream(token=token, slot=slots[0])
            token += 1
            continue
        some = {"one": slice(1, 2), "other joint": slice(2)}.get(what, slice(3))
        if what == "border":
            for all_ in (ours, wanted):
                all_[0].claim(slots, now, [True] * len(now), 2)
                all_[0].widen(2)
            continue
        flags = [full] * len(now)
        given = slots, now, flags
        result = said(one_by_one, wanted[some], *given)
        if what == "one":
            assert said(one_by_one, ours[some], *given) == result
        else:
            assert said(joint[what == "other joint"].claim, *given) == result
        for a, b in zip(ours, wanted, strict=True):
            for stream in streams:
                assert a.used_now([stream]) == b.used_now([stream])
        if result is None and what != "fails":
            for stream in now:
                stream.frames += 1


def said(claim, *given):
    try:
        return claim(*given)
    except StateError as error:
        return str(error)


def test_later_frames_look_at_one_use():
    all_ = entries()
    joint, stream = JointClaim(all_), Stream(token=7, slot=1)
    joint.claim([1], [stream], [True])
    for entry in all_:
        entry.claim = None  # whoever claims them one by one fails
    for _ in range(3):
        stream.frames += 1
        joint.claim([1], [stream], [False])
        assert all(entry.used_now([stream]) for entry in all_)


def test_a_layer_that_was_left_out_is_refused_then():
    all_ = entries()
    joint, stream = JointClaim(all_), Stream(token=7, slot=0)
    joint.claim([0], [stream], [True])
    stream.frames += 1
    one_by_one(all_[:2], [0], [stream], [False])
    stream.frames += 1
    with pytest.raises(StateError, match="2"):
        joint.claim([0], [stream], [False])
    joint.claim([0], [stream], [True])


def test_a_copy_of_the_entries_goes_its_own_way():
    all_ = entries()
    joint, stream = JointClaim(all_), Stream(token=7, slot=0)
    joint.claim([0], [stream], [True])
    twins, twin = copy.deepcopy((all_, stream))
    stream.frames += 1
    joint.claim([0], [stream], [False])
    assert all(entry.used_now([stream]) for entry in all_)
    assert all(entry.used_now([twin]) for entry in twins)


def test_a_wider_border_is_claimed_anew():
    all_ = entries()
    joint, stream, other = JointClaim(all_), Stream(token=7, slot=0), Stream(token=8, slot=1)
    joint.claim([0], [stream], [True])
    all_[0].claim([1], [other], [True], 2)
    all_[0].widen(2)
    stream.frames += 1
    # What was kept for it reaches less far.
    with pytest.raises(StateError, match="no state"):
        joint.claim([0], [stream], [False])
