"""Wraps a backbone in a module that has the same parameters under the same names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...api import blockcopy_
from ...engine.convert import handle
from ...options import read_options


class SharedBackbone:
    """Runs a backbone block-sparsely in eval mode, and unchanged in training.

    Derive from this before the framework's own base class of modules. Parameters and buffers are
    those of the wrapped backbone under the same names, so that checkpoints of the plain model load
    here, and those saved here load there.

    Attributes:
        inner: The wrapped backbone.
    """

    def _share(
        self, backbone: nn.Module, options: Mapping[str, Any], refused: Mapping[str, str]
    ) -> None:
        """Wrap a backbone, once the base class is initialised.

        Args:
            backbone: The backbone, which is converted.
            options: The user's options.
            refused: Options that have no meaning in this framework, and why.

        Raises:
            ConfigError: If an option is unknown, refused or out of range.
        """
        config = read_options(options, type(self).__name__, refused).config
        # Not a submodule: this module shares the dictionaries of the wrapped one, and so has the
        # same parameters under the same names.
        object.__setattr__(self, "inner", blockcopy_(backbone, config))
        for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            object.__setattr__(self, name, getattr(backbone, name))
        self.training = backbone.training

    def forward(self, x: Tensor) -> Any:
        """Features of ``(N, 3, H, W)`` images, as the wrapped backbone returns them, dense."""
        if self.training:
            with handle(self.inner).paused():
                return self.inner(x)
        return self.inner(x)

    def train(self, mode: bool = True) -> SharedBackbone:
        """Also set the mode of the wrapped backbone, which may keep parts frozen."""
        super().train(mode)
        self.inner.train(mode)
        return self

    def __getattr__(self, name: str) -> Any:
        """An attribute of the wrapped backbone, such as ``out_channels`` or ``bottom_up``."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "inner" not in self.__dict__:
                raise
            return getattr(self.__dict__["inner"], name)

    def extra_repr(self) -> str:
        """What ``print(model)`` shows of the wrapper."""
        return f"{type(self.inner).__name__}, block_size={handle(self.inner).config.block_size}"
