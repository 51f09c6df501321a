"""Random weights and batch-norm statistics with which a network of any kind is well-conditioned."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# Norms that end a residual branch; in training they start at zero.
_BRANCH_ENDS = ("bn3.weight", "gn3.weight")

# Weights that say where a layer looks, or how sharply: large ones make it turn on rounding errors.
_STEERING = ("offset", "query", "theta", "switch", "context", "weight_diff")


@torch.no_grad()
def draw_weights_(model: nn.Module, draw: torch.Generator) -> None:
    """Give all parameters values that keep activations at one scale and leave none at zero.

    Args:
        model: Any network; changed in place.
        draw: Where random numbers come from.
    """
    for name, parameter in model.named_parameters():
        value = torch.randn(parameter.shape, generator=draw)
        if parameter.dim() == 4:
            value *= (1.5 / parameter[0].numel()) ** 0.5
        elif parameter.dim() > 1:
            value *= parameter.shape[-1] ** -0.5
        elif parameter.dim() == 0 or name.endswith("weight"):
            value = 1 + 0.1 * value
        else:
            value *= 0.1
        if any(part in name for part in _STEERING):
            value *= 0.1
        if name.endswith(_BRANCH_ENDS):
            value *= 0.3
        parameter.copy_(value)
    for name, buffer in model.named_buffers():
        if name.endswith("weight_gamma"):  # To which standardised weights are scaled.
            weight = model.get_parameter(name.removesuffix("_gamma"))
            buffer.fill_((2 / weight[0].numel()) ** 0.5)


@torch.no_grad()
def draw_statistics_(model: nn.Module, frames: Tensor, draw: torch.Generator) -> None:
    """Give batch norms statistics of the scale of their inputs, different for each channel.

    Args:
        model: A network whose forward takes frames; changed in place, and in eval mode then.
        frames: ``(N, 3, H, W)``, what it runs on once.
        draw: Where random numbers come from.
    """

    def set_statistics(module: nn.Module, args: tuple) -> None:
        x = args[0]
        dims = [0, *range(2, x.dim())]
        square = x.square().mean(dims)
        # Not their own mean: to take it away in layer after layer lets rounding errors grow.
        module.running_mean.copy_(0.1 * square.sqrt() * torch.randn(square.shape, generator=draw))
        module.running_var.copy_(square * (0.5 + torch.rand(square.shape, generator=draw)))
        module.running_var.clamp_(min=0.1 * square.mean())

    hooks = [
        module.register_forward_pre_hook(set_statistics)
        for module in model.modules()
        if isinstance(module, _BatchNorm)
    ]
    model.eval()
    model(frames)
    for hook in hooks:
        hook.remove()
