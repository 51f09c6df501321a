"""The policy network: a small CNN from cells to a logit for each block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Channels of a cell: frame 3, last executed picture 3, their difference 3, last output 1,
# last grid 1.
INPUT_CHANNELS = 11


class PolicyNet(nn.Module):
    """Logits of executing each block.

    Four 3x3 convolutions go from cells to blocks (as many of the first ones have stride 2 as the
    block's side in cells needs), one more 3x3 convolution looks at the neighbouring blocks, and a
    1x1 head makes the logit. There is no normalisation layer: batch norm would couple the streams
    of a batch and the frames over time, and group norm would amplify the noise of a scene in which
    nothing moves. Instead the inputs are normalised (:func:`policy_input`).

    The head's result is added to the logit of ``rate``, so the net begins near the wanted rate, and
    weight decay pulls it there and not to 0.5.

    Weights and biases are kept divided by ``gain`` and multiplied by it when used. The net is the
    same, but a step of the optimizer, which for RMSprop is about the learning rate whatever the
    gradient, moves it ``gain`` times as far. With 8, the usual learning rate of 1e-4 learns a
    scene in 200 to 400 frames; with 1 it took more than 1500.

    Logits are kept within ``bound``, so that every block is executed now and then and new motion in
    it is found. This also keeps the net from getting stuck: at probabilities of almost 0 or 1 the
    gradient vanishes, and without the bound, a few steps too far in the same direction ended, in a
    scene without gain, in a grid that stayed empty or full forever.

    Args:
        rate: Executed rate at which the untrained net begins, above 0 and below 1.
        widths: Channels after each of the four convolutions.
        gain: Fixed factor on all weights and biases.
        bound: Largest absolute logit; 4.6 is a probability of 0.99 or 0.01.
        generator: Source of the initial weights; torch's global one is not touched.
    """

    def __init__(
        self,
        rate: float,
        generator: torch.Generator,
        widths: tuple[int, int, int, int] = (16, 32, 64, 64),
        gain: float = 8.0,
        bound: float = 4.6,
    ) -> None:
        super().__init__()
        self.gain = gain
        self.bound = bound
        channels = (INPUT_CHANNELS, *widths)
        # skip_init: the layers' own initialisation would draw from the global generator.
        self.stages = nn.ModuleList(
            nn.utils.skip_init(nn.Conv2d, before, after, 3, padding=1)
            for before, after in pairwise(channels)
        )
        self.context = nn.utils.skip_init(nn.Conv2d, widths[-1], widths[-1], 3, padding=1)
        self.head = nn.utils.skip_init(nn.Conv2d, widths[-1], 1, 1)
        self.register_buffer("offset", torch.tensor(math.log(rate / (1 - rate))))
        with torch.no_grad():
            for layer in (*self.stages, self.context):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
                layer.weight.div_(gain)
                nn.init.zeros_(layer.bias)
            # Small, so that all blocks begin near the rate; not zero, so that all layers learn.
            nn.init.normal_(self.head.weight, std=0.1 / widths[-1] / gain, generator=generator)
            nn.init.zeros_(self.head.bias)

    def forward(self, cells: Tensor, per_block: int) -> Tensor:
        """Return the logits.

        Args:
            cells: float32 ``(N, 11, GH * per_block, GW * per_block)``, see :func:`policy_input`.
            per_block: Side of a block in cells: 4, 8 or 16.

        Returns:
            float32 ``(N, GH, GW)``.
        """
        return self.logits(self.features(cells, per_block))

    def features(
        self, cells: Tensor, per_block: int, known: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """Return the results of the 3x3 convolutions.

        Args:
            cells: As in :meth:`forward`.
            per_block: As in :meth:`forward`.
            known: This method's result for these cells and weights from before. It is not computed
                again, but is returned with the gradients' way back.

        Returns:
            Five maps, float32 ``(N, width, ...)``; the last two have one value per block.
        """
        halvings = per_block.bit_length() - 1
        recall = iter(known) if known is not None else repeat(None)
        found = [cells]
        for index, stage in enumerate(self.stages, start=1):
            x = found[-1]
            # A 3x3 window of stride 2 padded on both sides lies half a step up and left of the
            # place that it represents. Four in a row would centre a block's window on its corner;
            # one shift the other way, in the last and largest step, makes up for the others.
            if index == halvings:
                x = F.pad(x, (0, 1, 0, 1))
            stride = 2 if index <= halvings else 1
            found.append(self._relu_conv(x, stage, stride, int(index != halvings), next(recall)))
        found.append(self._relu_conv(found[-1], self.context, 1, 1, next(recall)))
        return tuple(found[1:])

    def logits(self, features: Sequence[Tensor]) -> Tensor:
        """Return the logits ``(N, GH, GW)`` from the result of :meth:`features`."""
        weight, bias = self._weights(self.head)
        logits = F.conv2d(features[-2] + features[-1], weight, bias).squeeze(1) + self.offset
        return _Bounded.apply(logits, self.bound)

    def revision(self) -> int:
        """Return a number that changes whenever a weight is written."""
        layers = (*self.stages, self.context, self.head)
        return sum(layer.weight._version + layer.bias._version for layer in layers)

    def _weights(self, layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
        return layer.weight * self.gain, layer.bias * self.gain

    def _relu_conv(
        self, x: Tensor, layer: nn.Conv2d, stride: int, padding: int, known: Tensor | None
    ) -> Tensor:
        weight, bias = self._weights(layer)
        if known is not None:
            return _Known.apply(x, weight, bias, stride, padding, known)
        # In place: nobody else reads a convolution's own result.
        return F.relu_(F.conv2d(x, weight, bias, stride=stride, padding=padding))


class _Known(torch.autograd.Function):
    """``relu(conv2d(x))`` whose result is known: only the gradients are computed."""

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int, known: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, weight, known)
        ctx.stride, ctx.padding = stride, padding
        return known

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, known = ctx.saved_tensors
        gradients = torch.ops.aten.convolution_backward(
            torch.ops.aten.threshold_backward(gradient, known, 0),
            x,
            weight,
            [weight.shape[0]],
            [ctx.stride] * 2,
            [ctx.padding] * 2,
            [1, 1],
            False,
            [0, 0],
            1,
            ctx.needs_input_grad[:3],
        )
        return *gradients, None, None, None


class _Bounded(torch.autograd.Function):
    """Clamps, but lets a gradient pass that leads back between the bounds."""

    @staticmethod
    def forward(ctx, logits: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(logits)
        ctx.bound = bound
        return logits.clamp(-bound, bound)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (logits,) = ctx.saved_tensors
        # Descent goes against the gradient: at the upper bound a positive one leads back.
        outwards = ((logits > ctx.bound) & (gradient < 0)) | (
            (logits < -ctx.bound) & (gradient > 0)
        )
        return gradient.masked_fill(outwards, 0), None


def policy_input(
    picture: Tensor, last_picture: Tensor, last_output: Tensor, last_grid: Tensor, scale: tuple
) -> Tensor:
    """Put together the net's input.

    The pictures are normalised by the present one's mean and scale. Their absolute difference is
    compressed, ``log(1 + 10 d)``, which brings out faint motion and limits strong motion.

    Args:
        picture: float32 ``(N, 3, h, w)``, the present frame on cells.
        last_picture: The same of each block's last executed frame.
        last_output: float32 ``(N, 1, h, w)``, the map of the last output, 0 to 1.
        last_grid: bool ``(N, h, w)``, the last grid repeated to cells.
        scale: Mean and scale from :func:`.picture.picture_statistics`.

    Returns:
        float32 ``(N, 11, h, w)``.
    """
    mean, deviation = scale
    difference = (picture - last_picture).abs_().div_(deviation).mul_(10).log1p_()
    cells = torch.cat(
        (
            (picture - mean).div_(deviation),
            (last_picture - mean).div_(deviation),
            difference,
            last_output - 0.5,
            last_grid.unsqueeze(1).to(picture.dtype) - 0.5,
        ),
        dim=1,
    )
    # Channels last: the backward pass is about three times as fast.
    return cells.contiguous(memory_format=torch.channels_last)
