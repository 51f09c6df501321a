"""A frame that ran twice: on the blocks that a policy chose, and then whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .task_output import TaskOutputs


@dataclass(frozen=True, eq=False)
class Comparison:
    """The outputs that some images would have had if they had not been executed whole afterwards.

    Made by the engine when :meth:`~.base.Policy.compares` asks for it.

    Attributes:
        images: Which images of the batch were executed whole after their own grid.
        chosen: bool ``(N, GH, GW)`` in host memory, the grid that ran first.
        outputs: The task's output for each image after the first run, or None if the integration
            gives none.
    """

    images: tuple[bool, ...]
    chosen: Tensor
    outputs: TaskOutputs

    @property
    def blocks(self) -> Tensor:
        """Blocks of ``images`` that ran in the first run, bool ``(N, GH, GW)`` in host memory."""
        return self.chosen & torch.tensor(self.images)[:, None, None]
