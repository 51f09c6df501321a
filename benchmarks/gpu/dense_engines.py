"""Dense engines that a user of a GPU could pick instead of us."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Run = Callable[[Tensor], Any]
"""Runs a frame; the result's memory may be used again by the next call."""


class EngineUnavailable(Exception):
    """An engine is not installed or cannot run the network; the message says why."""


def fold_batch_norms_(net: nn.Module) -> nn.Module:
    """Fold each batch norm that stands right behind a convolution in an ``nn.Sequential`` into it.

    Args:
        net: In eval mode; changed in place.

    Returns:
        The same network.
    """
    for module in net.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for index in range(len(module) - 1):
            layers = module[index], module[index + 1]
            if type(layers[0]) is nn.Conv2d and type(layers[1]) is nn.BatchNorm2d:
                module[index] = torch.nn.utils.fusion.fuse_conv_bn_eval(*layers)
                module[index + 1] = nn.Identity().eval()
    return net


def cuda_graph(run: Run, frame: Tensor) -> Run:
    """A run as one CUDA graph, which takes all of Python's and the launches' time away.

    Args:
        run: Warmed up or not.
        frame: Of the only shape that it is for.

    Raises:
        EngineUnavailable: If CUDA cannot capture it.
    """
    static = frame.clone(memory_format=torch.preserve_format)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            result = run(static)
    except RuntimeError as error:
        raise EngineUnavailable(f"it cannot be captured: {_line(error)}") from error

    def replay(frame: Tensor) -> Any:
        static.copy_(frame)
        graph.replay()
        return result

    return replay


def compiled(net: nn.Module, frame: Tensor) -> Run:
    """``torch.compile(mode='max-autotune-no-cudagraphs')``, compiled for this frame's shape.

    Raises:
        EngineUnavailable: If it fails.
    """
    torch._dynamo.reset()
    run = torch.compile(copy.deepcopy(net), mode="max-autotune-no-cudagraphs", dynamic=False)
    try:
        for _ in range(2):
            run(frame)
    # Compilers raise what they like; the other engines are still to be measured.
    except Exception as error:
        raise EngineUnavailable(f"{type(error).__name__}: {_line(error)}") from error
    return run


def tensorrt(net: nn.Module, frame: Tensor) -> Run:
    """TensorRT by way of torch_tensorrt.

    Raises:
        EngineUnavailable: If it is not installed or cannot build an engine.
    """
    try:
        torch_tensorrt = importlib.import_module("torch_tensorrt")
    except ImportError as error:
        raise EngineUnavailable(f"torch_tensorrt is not installed ({error})") from error
    flat = _Flat(copy.deepcopy(net)).eval()
    try:
        run = torch_tensorrt.compile(
            flat, ir="dynamo", arg_inputs=[frame], enabled_precisions={frame.dtype}
        )
        run(frame)
    except Exception as error:
        raise EngineUnavailable(f"{type(error).__name__}: {_line(error)}") from error
    return run


def slow_to_build(net: nn.Module, frame: Tensor) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Engines that take a minute or more, by name."""

    def compiled_graph() -> Run:
        return cuda_graph(compiled(net, frame), frame)

    yield "torch.compile", lambda: compiled(net, frame)
    if frame.is_cuda:
        yield "torch.compile, CUDA graph", compiled_graph
        yield "TensorRT", lambda: tensorrt(net, frame)


class _Flat(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        return tuple(tree_leaves(self.net(frame)))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
