"""Tables and plans that all frames of one geometry share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class FramePlans:
    """Tables and plans of ops.

    Attributes:
        tables: Index tables by kind of window, size and block.
        convolutions: Plans of convolutions by place in the model.
    """

    tables: dict[tuple, Tensor | tuple[Tensor, Tensor]] = field(default_factory=dict)
    convolutions: dict[tuple, Any] = field(default_factory=dict)
