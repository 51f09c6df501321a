"""GainPolicy beside moved outputs: what motion explains of detections brings nothing."""

from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.policy import Detections, GainPolicy, PolicyContext

SIZE, BLOCK, GRID = (128, 192), 32, (1, 4, 6)
WHOLE = torch.ones(GRID, dtype=torch.bool)


def boxes(shift):
    """Two people, moved to the right."""
    found = torch.tensor([[10.0, 10, 40, 60], [90, 30, 120, 100]])
    found[:, [0, 2]] += shift
    scores, labels = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.long)
    return Detections(found, scores, labels, None, SIZE)


def logits(seed):
    return 8 * torch.randn(4, 32, 48, generator=torch.Generator().manual_seed(seed))


class Propagated:
    """What would be delivered."""

    def __init__(self, moved):
        self.moved = moved

    def moved_output(self, image):
        return self.moved


def gain(first, second, moved):
    """Mean gain of a second frame, of which all blocks run, if ``moved`` would be delivered."""
    policy = GainPolicy(target=1.0)
    frames = torch.randn(2, 1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    for index, output in enumerate((first, second)):
        context = PolicyContext(
            streams=("a",),
            grid_shape=GRID,
            block_size=BLOCK,
            first=torch.tensor([index == 0]),
            frame_index=(index,),
            last_grid=WHOLE & (index > 0),
        )
        context.take_propagated(Propagated(moved))
        policy.select(frames[index], context)
        scalars = policy.feedback(frames[index], WHOLE, [output], context)
    return float(scalars["information_gain"])


def test_what_motion_explains_is_no_gain():
    copied = gain(boxes(0), boxes(30), None)
    assert copied > 0.1
    assert gain(boxes(0), boxes(30), boxes(30)) == pytest.approx(0, abs=1e-6)
    # Motion that leads elsewhere explains nothing.
    assert gain(boxes(0), boxes(30), boxes(70)) > 0.8 * copied


def test_of_maps_it_is_the_copied_output_that_counts():
    one, two = logits(1), logits(2)
    assert gain(one, two, two) == gain(one, two, None) > 0.1
