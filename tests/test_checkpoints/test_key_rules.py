"""Renaming by rules, on state dicts of a few keys; what must come out is written down."""

from __future__ import annotations

import pytest
import torch

from blockcopy_plugins.checkpoints import CheckpointError, KeyRules, convert_state, match_state
from blockcopy_plugins.errors import BlockCopyError


def rules(*pairs, **options):
    return KeyRules(name="toy", description="a toy", rules=pairs, **options)


def ones(**shapes):
    return {key.replace("_", "."): torch.ones(shape) for key, shape in shapes.items()}


def test_first_rule_that_matches_the_whole_key_holds():
    toy = rules((r"a\.(\w+)", r"first.\1"), (r"a\.w", r"second.w"), (r"b\..*", None))
    assert toy.target_of("a.w") == "first.w"
    assert toy.target_of("b.anything.at.all") is None
    for key in ("xa.w", "a.w.x"):
        with pytest.raises(KeyError):
            toy.target_of(key)


def test_values_move_and_what_is_left_out_is_gone():
    state = ones(a_w=(2, 3), a_b=(2,), b_w=(4,))
    toy = rules((r"a\.(\w)", r"model.\1"), (r"b\.w", None))
    found = convert_state(state, toy, {"model.w": torch.zeros(2, 3), "model.b": torch.zeros(2)})
    assert set(found) == {"model.w", "model.b"}
    assert found["model.w"] is state["a.w"] and found["model.b"] is state["a.b"]


def test_transform_comes_before_shapes_and_knows_the_target():
    seen = []

    def halve(key, tensor):
        seen.append(key)
        return tensor[:1] if key == "m.w" else tensor

    toy = rules((r"a\.(\w)", r"m.\1"), (r"b\.w", None), transform=halve)
    target = {"m.w": torch.zeros(1), "m.b": torch.zeros(2)}
    found = convert_state(ones(a_w=(2,), a_b=(2,), b_w=(1,)), toy, target)
    assert found["m.w"].shape == (1,) and sorted(seen) == ["m.b", "m.w"]


def test_what_a_source_cannot_have_may_be_missing_and_may_be_there():
    toy = rules((r"(.*)", r"\1"), unfilled=(r".*\.n",))
    target = {"a.w": torch.zeros(1), "a.n": torch.zeros(())}
    assert set(convert_state(ones(a_w=(1,)), toy, target)) == {"a.w"}
    assert set(convert_state(ones(a_w=(1,), a_n=()), toy, target)) == {"a.w", "a.n"}
    with pytest.raises(CheckpointError, match="a.w"):
        convert_state(ones(a_n=()), toy, target)


def test_all_that_does_not_fit_is_told():
    toy = rules((r"a\.(\w)", r"m.\1"), (r"b\.(\w)", r"m.\1"))
    state = ones(a_w=(1,), b_w=(1,), a_x=(1,), a_s=(2, 3), z_b=(1,), z_a=(1,))
    target = {"m.w": torch.zeros(1), "m.s": torch.zeros(3, 2), "m.gone": torch.zeros(1)}
    found, problems = match_state(state, toy, target)
    assert found["m.w"] is state["a.w"]
    assert problems == {
        "unknown keys in the checkpoint": ["z.b", "z.a"],
        "keys of the model that two others want to fill": ["m.w (by a.w and b.w)"],
        "keys that the model does not have": ["m.x (from a.x)"],
        "shapes that differ": ["m.s: (2, 3) (from a.s), the model has (3, 2)"],
        "keys of the model that nothing fills": ["m.gone"],
    }
    with pytest.raises(BlockCopyError) as error:
        convert_state(state, toy, target)
    text = str(error.value)
    assert "'toy' (a toy)" in text and "unknown keys in the checkpoint (2)" in text
    assert text.index("z.a") < text.index("z.b"), "sorted"
    for keys in problems.values():
        assert all(key in text for key in keys)
