"""Random weights with which activations stay of order one, in half precision too."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def draw_weights_(net: nn.Module, draw: torch.Generator) -> None:
    """Give every parameter a value.

    Args:
        net: A network of this package; changed in place.
        draw: Where random numbers come from.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            # So large that sums over a ReLU's outputs have the variance of the sums that went into
            # the ReLU (He et al., ICCV 2015).
            module.weight.normal_(0, (2 / _summands(module)) ** 0.5, generator=draw)
            if module.bias is not None:
                module.bias.normal_(0, 0.1, generator=draw)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            module.weight.normal_(1, 0.1, generator=draw)
            module.bias.normal_(0, 0.1, generator=draw)
        elif next(module.parameters(recurse=False), None) is not None:
            module.reset_parameters()


@torch.no_grad()
def draw_statistics_(net: nn.Module, frame: Tensor, draw: torch.Generator) -> None:
    """Give batch norms statistics that bring their inputs to order one.

    Not each channel's own mean and variance: what is taken away and divided by in layer after layer
    lets a perturbation grow by a fifth and more in each, and fifty layers would make noise of the
    rounding errors of half precision. All channels of a layer get about the same statistics, those
    of a mean of nothing.

    Args:
        net: A network of this package, with weights; changed in place, and in eval mode then.
        frame: ``(N, 3, H, W)``, what it runs on once.
        draw: Where random numbers come from.
    """

    def set_statistics(norm: nn.BatchNorm2d, args: tuple[Tensor]) -> None:
        square = args[0].square().mean()
        norm.running_mean.normal_(0, 0.1, generator=draw).mul_(square.sqrt())
        norm.running_var.uniform_(0.75, 1.25, generator=draw).mul_(square)
        norm.num_batches_tracked.zero_()

    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(set_statistics) for norm in norms]
    net.eval()(frame)
    for hook in hooks:
        hook.remove()


def _summands(conv: nn.Conv2d | nn.ConvTranspose2d) -> float:
    """Products that make one value of the convolution's output."""
    if isinstance(conv, nn.ConvTranspose2d):
        return conv.weight[:, 0].numel() / (conv.stride[0] * conv.stride[1])
    return conv.weight[0].numel()
