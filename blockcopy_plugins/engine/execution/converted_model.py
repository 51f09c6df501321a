"""A converted model, and what all of its frames share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from torch import nn

from ...config import BlockCopyConfig
from ..adapter import ModelAdapter
from ..call_lock import ThreadValue
from ..conv.planner import ConvPlanner
from ..frame.active_frame import ActiveFrame
from .module_look import ModuleLook, Question

T = TypeVar("T")


@dataclass
class ConvertedModel:
    """A model, its options, and what all of its frames share.

    Attributes:
        model: The model.
        config: Its options; from the first frame on with the block size chosen for ``'auto'``.
        adapter: Knows how it is called.
        modules: Its modules with their paths, as they were when it was converted.
        convolutions: Runs them.
        active: The frame that it runs now.
        dense: Whether this thread's calls are those of the user's own model.
        plain: Whether this thread runs the model's own forward as a frame.
        look: Notices what was replaced in its modules.
    """

    model: nn.Module
    config: BlockCopyConfig
    adapter: ModelAdapter
    modules: Sequence[tuple[str, nn.Module]]
    convolutions: ConvPlanner
    active: ActiveFrame = field(default_factory=ActiveFrame)
    dense: ThreadValue[bool] = field(default_factory=lambda: ThreadValue(False))
    plain: ThreadValue[bool] = field(default_factory=lambda: ThreadValue(False))
    look: ModuleLook = field(init=False, default_factory=ModuleLook)

    def read_modules(self) -> None:
        """Take the model's modules as they are now."""
        self.modules = tuple(nn.Module.named_modules(self.model))

    def take_look(self) -> object:
        """Look at its modules, see :meth:`ModuleLook.take`."""
        return self.look.take(self.model)

    def ask(self, question: Question[T]) -> T:
        """The answer to a question about its modules, see :meth:`ModuleLook.ask`."""
        return self.look.ask(self.model, question)

    @classmethod
    def of(cls, model: nn.Module, config: BlockCopyConfig, adapter: ModelAdapter) -> ConvertedModel:
        """Make one with what the options require."""
        return cls(
            model,
            config,
            adapter,
            tuple(nn.Module.named_modules(model)),
            ConvPlanner(config.fuse, config.winograd),
        )
