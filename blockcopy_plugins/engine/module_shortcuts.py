"""Convolutions, batch norms and ReLUs of a converted model, on a shorter way than torch's dispatch.

They do what the strategies do where the package's own kernels run: nothing here changes a result.
On everything else they call the module's own forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .conv.region_convolution import convolve_regions
from .frame.active_frame import ActiveFrame
from .strategies.pointwise import fuse_norm
from .strategies.sliding import native_plan
from .tensor.axes import MAP
from .tensor.block_tensor import BlockTensor
from .tensor.pending_map import INFINITY

_UNKNOWN = object()  # no plan is a plan too: that of a convolution that cannot run on blocks


@dataclass
class ModuleShortcut:
    """Stands for the forward of one module.

    Attributes:
        active: The frame that the model runs now.
        path: Of the module.
        module: The module.
        original: Its own forward.
    """

    active: ActiveFrame
    path: str
    module: nn.Module
    original: Any

    def run_original(self, x):
        """The module's own forward; its ops are known to be the module's."""
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
        native, weight = frame.native, module.weight
        # A model that was pickled where there are such kernels may run where there are none.
        if native is None or input.axes != MAP or not native.takes(input, weight, module.groups):
            return self.run_original(input)
        frame.enter(self.path)
        key = (
            self.path,
            input.size_of_map,
            input.block,
            frame.images,
            frame.whole,
            weight.shape,
            module.stride,
            module.padding,
            module.dilation,
        )
        plan = frame.store.plans.get(key, _UNKNOWN)
        if plan is _UNKNOWN:
            plan = native_plan(frame, input, weight, module.stride, module.padding, module.dilation)
            frame.store.plans[key] = plan
        if plan is None:
            out = self.original(input)
        else:
            out = native.run(frame, self.path, input, weight, module.bias, plan)
        frame.leave(self.path)
        return out

    def _run_on_images(self, input):
        frame = self.active.frame
        if frame is not None and frame.native is not None and type(input) is Tensor:
            frame.enter(self.path)
            out = convolve_regions(frame.native, frame, input, self.module)
            frame.leave(self.path)
            if out is not None:
                return out
        return self.run_original(input)


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


def shortcut_for(active: ActiveFrame, path: str, module: nn.Module) -> ModuleShortcut | None:
    """What is to stand for a module's forward, ``None`` for most modules."""
    if "forward" in module.__dict__:
        return None
    forward = type(module).forward
    if forward is nn.Conv2d.forward:
        # Other paddings are ops of their own, strings are torch's affair.
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            return None
        return ConvShortcut(active, path, module, module.forward)
    if forward is _BatchNorm.forward and isinstance(module, nn.BatchNorm2d):
        return NormShortcut(active, path, module, module.forward)
    if forward is nn.ReLU.forward:
        return ReluShortcut(active, path, module, module.forward)
    return None
