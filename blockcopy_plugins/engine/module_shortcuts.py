"""What replaces the forward of some modules of a converted model.

Convolutions, batch norms and ReLUs do without torch's dispatch what the strategies do if the
package's own kernels run, with the same results. Instance norms become group norms. Linear
layers of ordinary tensors run by the convolutions' kernels. For everything else the module's own
forward is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .frame.active_frame import ActiveFrame
from .strategies.pointwise import fuse_norm
from .tensor.axes import MAP
from .tensor.block_tensor import BlockTensor
from .tensor.dense_map import is_no_map, plain
from .tensor.pending_map import INFINITY

_CONVOLUTION = torch.ops.aten.convolution.default


@dataclass
class ModuleShortcut:
    """Replaces the forward of one module.

    Attributes:
        active: The frame that the model is running.
        path: Of the module.
        module: The module.
        original: Its own forward.
    """

    active: ActiveFrame
    path: str
    module: nn.Module
    original: Any

    def run_original(self, x):
        """Call the module's own forward, so that its ops count as the module's."""
        frame = self.active.frame
        if frame is None:
            return self.original(x)
        frame.enter(self.path)
        out = self.original(x)
        frame.leave(self.path)
        return out


class ConvShortcut(ModuleShortcut):
    """A convolution."""

    def __call__(self, input):
        """See ``nn.Conv2d.forward``."""
        frame, module = self.active.frame, self.module
        if frame is None or type(input) is not BlockTensor or input.frame is not frame:
            return self._run_on_images(input)
        frame.enter(self.path)
        out = frame.kernels.convolve(
            frame,
            input,
            module.weight,
            module.bias,
            module.stride,
            module.padding,
            module.dilation,
            module.groups,
            fast_only=True,
        )
        if type(out) is not BlockTensor:
            out = self.original(input)
        frame.leave(self.path)
        return out

    def _run_on_images(self, input):
        frame = self.active.frame
        if frame is not None and (type(input) is Tensor or is_no_map(input)):
            frame.enter(self.path)
            out = frame.kernels.convolve_regions(frame, plain(input), self.module)
            frame.leave(self.path)
            if out is not None:
                return out if input is plain(input) else frame.derived(out, _CONVOLUTION, (input,))
        return self.run_original(input)


class LinearShortcut(ModuleShortcut):
    """A linear layer of an ordinary tensor."""

    def __call__(self, input):
        """See ``nn.Linear.forward``."""
        frame = self.active.frame
        if frame is not None and type(input) is Tensor:
            frame.enter(self.path)
            out = frame.kernels.multiply_rows(input, self.module)
            frame.leave(self.path)
            if out is not None:
                return out
        return self.run_original(input)


class ConvWrapperShortcut(ConvShortcut):
    """A convolution that calls its own norm and activation afterwards."""

    def __call__(self, input):
        """See the forward of the module's class."""
        out = super().__call__(input)
        for part in (self.module.norm, self.module.activation):
            out = out if part is None else part(out)
        return out


class NormShortcut(ModuleShortcut):
    """A batch norm."""

    def __call__(self, input):
        """See ``nn.BatchNorm2d.forward``."""
        module = self.module
        if type(input) is BlockTensor and not module.training and module.running_mean is not None:
            out = fuse_norm(
                input,
                module.weight,
                module.bias,
                module.running_mean,
                module.running_var,
                module.eps,
            )
            if out is not None:
                return out
        return self.run_original(input)


class InstanceNormShortcut(ModuleShortcut):
    """An instance norm, of which torch makes a batch norm of one image with all images' channels.

    By the map's own statistics it is a group norm with a group for each channel, by running ones a
    batch norm.
    """

    def __call__(self, input):
        """See ``nn.InstanceNorm2d.forward``."""
        frame, module = self.active.frame, self.module
        if (
            type(input) is not BlockTensor
            or input.frame is not frame
            or input.axes != MAP
            or module.num_features not in (0, input.shape[1])
            or prod(input.size_of_map) == 1
        ):
            return self.run_original(input)
        if module.track_running_stats:
            mean, variance = module.running_mean, module.running_var
            return F.batch_norm(input, mean, variance, module.weight, module.bias, eps=module.eps)
        frame.enter(self.path)
        images, channels = input.shape[:2]
        pixels = prod(input.size_of_map)
        out = torch.ops.aten.native_group_norm.default(
            input, module.weight, module.bias, images, channels, pixels, channels, module.eps
        )
        frame.leave(self.path)
        return out[0]


class ReluShortcut(ModuleShortcut):
    """A ReLU."""

    def __call__(self, input):
        """See ``nn.ReLU.forward``."""
        if type(input) is BlockTensor and input.pending is not None:
            bounded = input.pending.with_bounds(0.0, INFINITY)
            out = input.then(bounded, self.module.inplace)
            if out is not None:
                return out
        return self.run_original(input)


def shortcut_for(
    active: ActiveFrame,
    path: str,
    module: nn.Module,
    has_kernels: bool,
    conv_wrappers: frozenset[type] = frozenset(),
) -> ModuleShortcut | None:
    """The shortcut that replaces a module's forward, ``None`` for most modules.

    Args:
        active: The frame that the model is running.
        path: Of the module.
        module: The module.
        has_kernels: Whether the package's own kernels run.
        conv_wrappers: See :attr:`~.adapter.ModelAdapter.conv_wrappers`.
    """
    if "forward" in module.__dict__:
        return None
    forward = type(module).forward
    if forward is nn.InstanceNorm2d.forward and isinstance(module, nn.InstanceNorm2d):
        return InstanceNormShortcut(active, path, module, module.forward)
    if not has_kernels:
        return None
    if forward is nn.Conv2d.forward or type(module) in conv_wrappers:
        # Other padding modes are separate ops, and torch reads the strings.
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            return None
        kind = ConvShortcut if forward is nn.Conv2d.forward else ConvWrapperShortcut
        return kind(active, path, module, MethodType(nn.Conv2d.forward, module))
    if forward is _BatchNorm.forward and isinstance(module, nn.BatchNorm2d):
        return NormShortcut(active, path, module, module.forward)
    if forward is nn.Linear.forward:
        return LinearShortcut(active, path, module, module.forward)
    if forward is nn.ReLU.forward:
        return ReluShortcut(active, path, module, module.forward)
    return None
