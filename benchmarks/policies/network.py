"""What the comparison needs of a network, whatever it is written in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from blockcopy_plugins.engine.adapter import ModelAdapter
from blockcopy_plugins.errors import ConfigError

from .answers import Answer
from .plan import Clip, Model, Window


class Frames(Protocol):
    """The frames of a part of a clip; may be gone through any number of times."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


class Network(ABC):
    """A network that can be converted, and run over the frames of a clip.

    Attributes:
        module: What is converted and called.
        adapter: How it is called, if the package does not know by itself.
        block_size: In pixels, where nobody asks for another.
    """

    module: nn.Module
    adapter: ModelAdapter | None = None
    block_size: int = 64

    @abstractmethod
    def frames(self, clip: Clip, window: Window, motion: bool = False) -> Frames:
        """The frames of a part of a clip, each in the form that the other methods take.

        Args:
            clip: The clip.
            window: First frame and the one to stop before.
            motion: With the motion vectors of the video's codec, for policies that need them.

        Raises:
            BlockCopyError: If it has no such frames, or no motion vectors.
        """

    @abstractmethod
    def run(self, frame: Any) -> Answer:
        """Run the module on a frame, as it is at that moment: dense or block-sparse."""

    @abstractmethod
    def truth(self, frame: Any) -> Answer | None:
        """Ground truth of a frame, None where it has none."""


def build_network(model: Model) -> Network:
    """Make a network with its weights.

    Args:
        model: What it is.

    Raises:
        ConfigError: If it is neither a config nor a factory.
    """
    if ":" in model.source:
        from .torch_network import TorchNetwork

        return TorchNetwork(model)
    if Path(model.source).suffix == ".py":
        from .config_network import ConfigNetwork

        return ConfigNetwork(model)
    raise ConfigError(
        f"the model {model.source!r} is neither a config file (config.py) nor a factory "
        "(file.py:function or package.module:function)"
    )
