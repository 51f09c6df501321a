"""The policy's network and its training: one step of RMSprop every few batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from blockcopy_plugins.errors import ConfigError

from .experience import Experience, Recalled, joined
from .net import INPUT_CHANNELS, PolicyNet


class Learner:
    """A network that decides, the batches from which it will learn, and its optimiser.

    Args:
        net: A :class:`PolicyNet`, or a module that makes logits of the same input.
        lr: Learning rate of RMSprop.
        weight_decay: RMSprop's weight decay.

    Attributes:
        gathered: Batches since the last update.
        updates: Number of updates so far.
    """

    def __init__(self, net: nn.Module, lr: float, weight_decay: float) -> None:
        self.net = net
        self.gathered: list[Experience] = []
        self.updates = 0
        self._optimizer = torch.optim.RMSprop(net.parameters(), lr=lr, weight_decay=weight_decay)

    def decide(self, cells: Tensor, per_block: int) -> tuple[Tensor, Recalled | None]:
        """Return the logits of a batch, and the intermediate results.

        Args:
            cells: float32 ``(N, 11, h, w)``.
            per_block: Cells along a block's side.
        """
        with _full_precision(cells.device):
            if not isinstance(self.net, PolicyNet):
                return self.net(cells, per_block), None
            features = self.net.features(cells, per_block)
            return self.net.logits(features), Recalled(features, self.net.revision())

    def update(self) -> Tensor:
        """Take one step on the gathered batches, drop them, and return the loss, 0-dim."""
        with torch.inference_mode(False), torch.enable_grad():
            self._optimizer.zero_grad(set_to_none=True)
            blocks = torch.stack([item.credited.sum() for item in self.gathered]).sum()
            loss = torch.zeros((), device=self.net.offset.device)
            revision = self.net.revision() if isinstance(self.net, PolicyNet) else None
            for item in joined(self.gathered, revision):
                logits = self._logits(item)
                # log pi of what was done: log p if executed, log (1 - p) if skipped.
                log_pi = F.logsigmoid(torch.where(item.grid, logits, -logits))
                loss = loss - (log_pi * item.reward * item.credited).sum()
            loss = loss / blocks.clamp_min(1)
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        self.gathered.clear()
        self.updates += 1
        return loss.detach()

    def move(self, device: torch.device) -> bool:
        """Move to the frames' device; return whether that was another one."""
        if self.net.offset.device == device:
            return False
        # A transfer to a GPU does not wait; from a GPU, the host must wait.
        to = {"device": device, "non_blocking": device.type != "cpu"}
        with torch.inference_mode(False):
            self.net.to(**to)
            for averages in self._optimizer.state.values():
                for name, value in averages.items():
                    # RMSprop counts its steps on the host.
                    if isinstance(value, Tensor) and name != "step":
                        averages[name] = value.to(**to)
        self.gathered.clear()
        return True

    def macs(self, images: int, cells: tuple[int, int], per_block: int, online: bool) -> list[int]:
        """Count the multiply-accumulates of a decision, and of one batch's share of an update.

        The network runs on zeros. The share is only the backward pass, because the forward pass is
        the decision's.

        Args:
            images: N.
            cells: ``(h, w)``.
            per_block: Cells along a block's side.
            online: Whether there are updates.
        """
        with torch.inference_mode(False):
            zeros = torch.zeros((images, INPUT_CHANNELS, *cells), device=self.net.offset.device)
            with torch.no_grad(), FlopCounterMode(display=False) as forward:
                _, recalled = self.decide(zeros, per_block)
            update = 0
            if online:
                # Only the logits are differentiated, so it does not matter what was executed.
                unknown = torch.zeros(0)
                item = Experience(zeros, recalled, per_block, unknown, unknown, unknown)
                with torch.enable_grad(), FlopCounterMode(display=False) as counter:
                    loss = self._logits(item).sum()
                    # grad() leaves the parameters' own gradients alone.
                    torch.autograd.grad(loss, list(self.net.parameters()))
                update = counter.get_total_flops() // 2
        return [forward.get_total_flops() // 2, update]

    def state_dict(self) -> dict[str, Any]:
        """Return a copy, on the CPU: ``net``, ``optimizer`` (RMSprop's averages), ``updates``."""
        return {
            "net": _copy(self.net.state_dict()),
            "optimizer": _copy(self._optimizer.state_dict()["state"]),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, and drop the gathered batches.

        Raises:
            ConfigError: If it belongs to another network; the learner is then as before.
        """
        own = self.net.state_dict()
        shapes = {name: tuple(value.shape) for name, value in own.items()}
        found = {name: tuple(value.shape) for name, value in state["net"].items()}
        odd = sorted(
            name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name)
        )
        if odd:
            raise ConfigError(
                "the state dict holds another policy network: "
                + ", ".join(
                    f"{name} has shape {found.get(name, 'none')} and should have "
                    f"{shapes.get(name, 'none')}"
                    for name in odd
                )
                + "; build the policy with the same net=dict(...)"
            )
        parameters = list(self.net.parameters())
        for index, entry in state["optimizer"].items():
            fits = isinstance(index, int) and 0 <= index < len(parameters)
            if not fits or entry["square_avg"].shape != parameters[index].shape:
                raise ConfigError(
                    f"the optimizer's state {index!r} in the state dict does not fit the network "
                    "in it; the file is damaged"
                )
        with torch.inference_mode(False):
            self.net.load_state_dict(state["net"])
            groups = self._optimizer.state_dict()["param_groups"]
            self._optimizer.load_state_dict(
                {"state": _copy(state["optimizer"]), "param_groups": groups}
            )
        self.updates = state["updates"]
        self.gathered.clear()

    def _logits(self, item: Experience) -> Tensor:
        """Return the logits again, with gradients."""
        with _full_precision(item.cells.device):
            if item.recalled is None:
                return self.net(item.cells, item.per_block)
            known = item.recalled.features
            return self.net.logits(self.net.features(item.cells, item.per_block, known))


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Without the caller's autocast: the network's steps are finer than bfloat16's."""
    with torch.autocast(device.type, enabled=False):
        yield


def _copy(value: Any) -> Any:
    """Return a deep copy of nested dicts with tensors on the CPU, detached."""
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, Tensor):
        with torch.inference_mode(False):
            return value.detach().to("cpu", copy=True)
    return value
