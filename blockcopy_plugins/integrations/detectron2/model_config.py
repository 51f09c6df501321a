"""What is needed of a Detectron2 config, YAML or lazy, to run its model on video."""

from __future__ import annotations

import importlib
import itertools
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from torch import Tensor, nn

from ...checkpoints.model_weights import readable_weights
from ...errors import BlockCopyError, ConfigError
from ..common.given_config import check_config_file
from .checked_weights import CheckedCheckpointer
from .config import add_blockcopy_config

# Projects with additional keys, and the functions that add them.
_PROJECTS = (
    ("detectron2.projects.point_rend", "add_pointrend_config"),
    ("detectron2.projects.deeplab", "add_deeplab_config"),
    ("detectron2.projects.panoptic_deeplab", "add_panoptic_deeplab_config"),
)


class ModelConfig(ABC):
    """What a config says about its model, its weights and how images become inputs.

    Attributes:
        cfg: The config itself.
    """

    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg

    @staticmethod
    def of(cfg: Any, opts: Sequence[str] = ()) -> ModelConfig:
        """Read the config of a file, or take one that has been read.

        Args:
            cfg: Path of a YAML file or of a lazy config, a ``CfgNode``, or a lazy config.
            opts: Changes: ``["KEY", "value", ...]`` of a YAML config (``["KEY=value", ...]`` is
                understood too), ``["key=value", ...]`` of a lazy one.

        Returns:
            The config.

        Raises:
            ConfigError: If there is no such file, it cannot be read, or it enables test-time
                augmentation.
        """
        if isinstance(cfg, ModelConfig):
            return cfg
        if isinstance(cfg, (str, os.PathLike)):
            cfg = read_config(os.fspath(cfg), opts)
        found = YamlModelConfig(cfg) if isinstance(cfg, CfgNode) else LazyModelConfig(cfg)
        found.check()
        return found

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the meta-architecture."""

    @property
    @abstractmethod
    def weights(self) -> str:
        """Where the config's weights are; ``''`` if it names none."""

    @property
    @abstractmethod
    def input_format(self) -> str:
        """Order of the channels of the model's input, ``'BGR'`` or ``'RGB'``."""

    @property
    @abstractmethod
    def dataset(self) -> str:
        """Name of the dataset that the config tests on; ``''`` if it names none."""

    @property
    def metadata(self) -> Any:
        """``Metadata`` of that dataset, ``None`` without one."""
        return MetadataCatalog.get(self.dataset) if self.dataset else None

    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes of things, if the config's dataset has them.

        A lazy config without a dataset may have ``metadata = dict(classes=[...])``.
        """
        found = getattr(self.metadata, "thing_classes", None)
        return tuple(found) if found else None

    def palette(self) -> list[tuple[int, int, int]] | None:
        """Colours of the classes of pixels, if the dataset has them."""
        return getattr(self.metadata, "stuff_colors", None) or None

    @abstractmethod
    def check(self) -> None:
        """Refuse options that break streams.

        Raises:
            ConfigError: If the config has one.
        """

    @abstractmethod
    def augmentations(self) -> list[T.Augmentation]:
        """The augmentations of a test image, usually a resize."""

    def build(self, weights: str | None = None) -> nn.Module:
        """Build the model, in eval mode and with its weights loaded.

        Args:
            weights: Weights that replace the config's: a file in Detectron2's own format or
                another that its checkpointer reads. ``''`` leaves the model with random weights.

        Returns:
            The model.

        Raises:
            ConfigError: If the model cannot be built, there is no such file, or it lacks weights
                of the model.
            OSError: If the weights cannot be fetched from an address.
        """
        weights = self.weights if weights is None else os.fspath(weights)
        if weights and "://" not in weights and not os.path.isfile(weights):
            raise ConfigError(
                f"there is no checkpoint {weights!r} (the working directory is {os.getcwd()!r})."
            )
        with _of_the_config("model"):
            model = self._build().eval()
        with readable_weights(weights):
            CheckedCheckpointer(model).load(weights)
        return model

    @abstractmethod
    def _build(self) -> nn.Module: ...


class YamlModelConfig(ModelConfig):
    """A ``CfgNode``."""

    @property
    def name(self) -> str:
        """See :class:`ModelConfig`."""
        return self.cfg.MODEL.META_ARCHITECTURE

    @property
    def weights(self) -> str:
        """See :class:`ModelConfig`."""
        return self.cfg.MODEL.WEIGHTS

    @property
    def input_format(self) -> str:
        """See :class:`ModelConfig`."""
        return self.cfg.INPUT.FORMAT

    @property
    def dataset(self) -> str:
        """See :class:`ModelConfig`."""
        return self.cfg.DATASETS.TEST[0] if len(self.cfg.DATASETS.TEST) else ""

    def check(self) -> None:
        """See :class:`ModelConfig`."""
        if self.cfg.TEST.AUG.ENABLED:
            raise ConfigError(
                "TEST.AUG.ENABLED is True: test-time augmentation runs an image several times, "
                "flipped and resized, which would be taken for the frames of a video. Set it to "
                "False."
            )

    def augmentations(self) -> list[T.Augmentation]:
        """Those of ``DefaultPredictor``."""
        size = self.cfg.INPUT.MIN_SIZE_TEST
        return [T.ResizeShortestEdge([size, size], self.cfg.INPUT.MAX_SIZE_TEST)]

    def _build(self) -> nn.Module:
        return build_model(self.cfg.clone())


class LazyModelConfig(ModelConfig):
    """A lazy config with ``model``, ``dataloader`` and perhaps ``train``.

    Raises:
        ConfigError: If it has no ``model``, or one that is not a ``LazyCall``.
    """

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        if not hasattr(cfg, "get") or cfg.get("model") is None:
            raise ConfigError(
                f"the lazy config ({type(cfg).__name__}) has no model; write model = "
                "model_zoo.get_config('common/models/mask_rcnn_fpn.py').model, for example."
            )
        if not hasattr(cfg.model, "get") or cfg.model.get("_target_") is None:
            raise ConfigError(
                f"the model of the lazy config is {_in_a_line(cfg.model)[:80]}, expected a "
                "LazyCall, which has a _target_: model = LazyCall(GeneralizedRCNN)(...). Configs "
                "of MMDetection and MMSegmentation are Python files."
            )

    @property
    def name(self) -> str:
        """See :class:`ModelConfig`."""
        target = self.cfg.model.get("_target_")
        return getattr(target, "__name__", str(target).rpartition(".")[2])

    @property
    def weights(self) -> str:
        """See :class:`ModelConfig`."""
        return (self.cfg.get("train") or {}).get("init_checkpoint") or ""

    @property
    def input_format(self) -> str:
        """See :class:`ModelConfig`."""
        found = self.cfg.model.get("input_format") or self._mapper().get("image_format")
        return found or "BGR"

    @property
    def dataset(self) -> str:
        """See :class:`ModelConfig`."""
        test = (self.cfg.get("dataloader") or {}).get("test") or {}
        names = (test.get("dataset") or {}).get("names") or ""
        return names if isinstance(names, str) else names[0]

    def check(self) -> None:
        """Lazy configs have no key for test-time augmentation."""

    def classes(self) -> tuple[str, ...] | None:
        """See :meth:`ModelConfig.classes`."""
        given = (self.cfg.get("metadata") or {}).get("classes")
        return tuple(given) if given else super().classes()

    def augmentations(self) -> list[T.Augmentation]:
        """Those of ``dataloader.test.mapper``, if there is one."""
        with _of_the_config("test mapper"):
            return [instantiate(one) for one in self._mapper().get("augmentations") or ()]

    def _mapper(self) -> Any:
        test = (self.cfg.get("dataloader") or {}).get("test") or {}
        return test.get("mapper") or {}

    def _build(self) -> nn.Module:
        model = instantiate(self.cfg.model)
        device = (self.cfg.get("train") or {}).get("device")
        wanted = device if device is not None and torch.cuda.is_available() else None
        return model if wanted is None else model.to(wanted)


def read_config(path: str, opts: Sequence[str] = ()) -> Any:
    """Read a config file.

    Args:
        path: A YAML file, which may have keys of this package and of Detectron2's own projects;
            or a lazy config, in Python or as ``LazyConfig.save`` writes it.
        opts: See :meth:`ModelConfig.of`.

    Returns:
        A ``CfgNode``, or the lazy config.

    Raises:
        ConfigError: If there is no such file, or it cannot be read.
    """
    check_config_file(path)
    try:
        if is_lazy(path):
            return LazyConfig.apply_overrides(LazyConfig.load(path), list(opts))
        cfg = _with_projects(path)
        cfg.merge_from_list(_pairs(opts))
        if not torch.cuda.is_available() and str(cfg.MODEL.DEVICE).startswith("cuda"):
            cfg.MODEL.DEVICE = "cpu"
        return cfg
    except (Exception, SystemExit) as error:  # a config is a program, which may fail in any way
        raise ConfigError(
            f"the config {path!r} cannot be read: {type(error).__name__}: {_in_a_line(error)}"
        ) from error


def is_lazy(path: str) -> bool:
    """Whether a config file of Detectron2 is a lazy one.

    Raises:
        OSError: It is YAML, and cannot be read.
    """
    if os.path.splitext(path)[1].lower() not in (".yaml", ".yml"):
        return True
    with open(path, encoding="utf-8", errors="replace") as file:
        # As LazyConfig.save and Detectron2's lazyconfig_train_net.py write them.
        return any(re.match(r"model\s*:", line) for line in file)


def prepare_image(
    image: np.ndarray, augmentations: Sequence[T.Augmentation], input_format: str
) -> Tensor:
    """Prepare a frame as a model's input.

    Args:
        image: uint8 ``(H, W, 3)``, BGR.
        augmentations: See :meth:`ModelConfig.augmentations`.
        input_format: Order of the model's channels.

    Returns:
        float32 ``(3, h, w)``, neither normalised nor padded.
    """
    if input_format == "RGB":
        image = image[:, :, ::-1]
    prepared = T.AugInput(image)
    T.AugmentationList(list(augmentations))(prepared)
    return torch.as_tensor(np.ascontiguousarray(prepared.image.transpose(2, 0, 1))).float()


def _with_projects(path: str) -> CfgNode:
    """The file's config, with the keys of as few projects as necessary."""
    first = None
    for count in range(len(_PROJECTS) + 1):
        for chosen in itertools.combinations(_PROJECTS, count):
            cfg = get_cfg()
            add_blockcopy_config(cfg)
            try:
                for module, function in chosen:
                    getattr(importlib.import_module(module), function)(cfg)
                cfg.merge_from_file(path)
                return cfg
            except (KeyError, ModuleNotFoundError) as error:
                first = first or error
    raise first


def _pairs(opts: Sequence[str]) -> list[str]:
    pairs: list[str] = []
    for item in opts:
        name, equals, value = str(item).partition("=")
        # A value may have an equals sign: "dict(type='GainPolicy')".
        if equals and name.replace(".", "").replace("_", "").isalnum() and len(pairs) % 2 == 0:
            pairs += [name, value]
        else:
            pairs.append(str(item))
    return pairs


@contextmanager
def _of_the_config(what: str) -> Iterator[None]:
    """Report errors in building a part of the config as errors of the config."""
    try:
        yield
    except BlockCopyError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the {what} of the config cannot be built: {type(error).__name__}: "
            f"{_in_a_line(error)}. Correct the config, or the changes to it on the command line."
        ) from error


def _in_a_line(value: Any) -> str:
    return " ".join(str(value).split())
