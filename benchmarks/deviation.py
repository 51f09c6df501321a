"""How far outputs are from what they should be."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path


def deviation(found: Any, expected: Any) -> float:
    """Largest difference of any tensor, relative to the largest value expected in that tensor.

    Args:
        found: Tensors in lists, tuples and dicts.
        expected: The same structure; keys of dicts may be in another order.

    Returns:
        The deviation; infinite where NaN was found.

    Raises:
        ValueError: If structures or sizes differ, or what is expected is no measure: not finite, or
            nothing but zeros.
    """
    got, wanted = _by_place(found), _by_place(expected)
    if got.keys() != wanted.keys():
        raise ValueError(f"found {sorted(got)}, expected {sorted(wanted)}")
    pairs = [(got[k], b) for k, b in wanted.items() if isinstance(b, Tensor) and b.numel()]
    if not pairs:
        raise ValueError("there is no tensor to compare")
    worst = 0.0
    for a, b in pairs:
        if type(a) is not Tensor or a.shape != b.shape:
            raise ValueError(f"found {type(a).__name__} {tuple(a.shape)} for {tuple(b.shape)}")
        scale = b.abs().max().item()
        if not 0 < scale < float("inf"):
            raise ValueError(f"expected values reach {scale}, which is no measure")
        difference = (a.to(b.device).double() - b.double()).abs().max().item() / scale
        # max() would drop NaN, and take garbage for agreement.
        worst = max(worst, difference if difference == difference else float("inf"))
    return worst


def _by_place(structure: Any) -> dict[str, Any]:
    return {keystr(path): leaf for path, leaf in tree_flatten_with_path(structure)[0]}
