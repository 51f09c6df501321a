"""Options as users write them: of a hook, a backbone, a script, YAML, a command line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .config import BlockCopyConfig, default_policy
from .engine.propagation import Propagation
from .errors import ConfigError
from .policy import build_policy
from .policy.guards import build_guards
from .policy.policy_file import load_policy
from .policy.policy_text import parse_text


@dataclass(frozen=True)
class BlockCopyOptions:
    """All options of a block-sparse run, wherever they are given.

    Attributes:
        config: The options of the conversion; policy and guards are built, and the content of the
            file ``policy_checkpoint`` is loaded.
        interleaved: Frames of several videos take turns in consecutive batches. By default, a video
            that is missing from a batch is considered over, and its state is released.
        one_video: Images whose data samples have no ``video_id`` are the frames of one video, image
            i of each batch being of stream i. By default they are treated as unrelated pictures:
            each is executed fully, and a warning says so once.
        given: Names of the options that were given.
    """

    config: BlockCopyConfig
    interleaved: bool = False
    one_video: bool = False
    given: frozenset[str] = frozenset()


def option_names() -> tuple[str, ...]:
    """Names of all options: those of ``BlockCopyConfig``, the policy's file, and the streams'."""
    return (*_config_names(), "policy_checkpoint", "interleaved", "one_video")


def read_options(
    given: Mapping[str, Any], place: str, refused: Mapping[str, str] | None = None
) -> BlockCopyOptions:
    """Check and build the options that a user gave. Every entry point calls this.

    Args:
        given: Values by name; a policy, guards and a motion may also be texts, such as
            ``"dict(type='GainPolicy', target=0.2)"``. ``None`` is an option's default.
        place: The user's name for where the options are written (``'BlockCopyHook'``).
        refused: Options that have no meaning there, each with the reason and the remedy; their
            defaults are used.

    Returns:
        The options.

    Raises:
        ConfigError: If an option is unknown, refused or out of range, or the policy file does not
            fit.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"the options of {place} are a {type(given).__name__}, expected a BlockCopyConfig, or "
            "a dict such as dict(block_size=128, policy=dict(type='GainPolicy', target=0.3))."
        )
    known = option_names()
    for name in given:
        if name not in known:
            raise ConfigError(_unknown(name, place, known))
    values = {name: value for name, value in given.items() if value is not None}
    defaults = {item.name: item.default for item in fields(BlockCopyConfig)}
    for name, reason in (refused or {}).items():
        if name in values and values[name] != defaults.get(name, False):
            raise ConfigError(f"{place} does not take {name}={values[name]!r}: {reason}")
    streams = {name: values.pop(name, False) for name in ("interleaved", "one_video")}
    for name, value in streams.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{name}={value!r}, expected True or False.")
    checkpoint = values.pop("policy_checkpoint", None)
    values = {name: _parsed(name, value) for name, value in values.items()}
    values["policy"] = build_policy(values.get("policy", default_policy()))
    if checkpoint:
        load_policy(values["policy"], checkpoint)
    values["guards"] = build_guards(values.get("guards", ())).guards
    config = BlockCopyConfig(**values)
    Propagation.of(config)  # find a wrong motion now, and not only after the weights are loaded
    return BlockCopyOptions(config, given=frozenset(given), **streams)


def change_options(options: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Replace a config's options by those of a command line.

    Args:
        options: The config's; changed in place. A policy that is changed does not start from the
            file of the one before, and another way of propagating is not bound to the old motion.
        changes: Values by name; ``None`` changes nothing.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    for name, bound in (("policy", "policy_checkpoint"), ("propagate", "motion")):
        if name in given:
            options.pop(bound, None)
    for name, value in given.items():
        options[name] = _parsed(name, value)  # MMEngine's configs would merge a dict by update


def _parsed(name: str, value: Any) -> Any:
    """A value for which a policy, guards or a motion may be written as a text."""
    if name == "guards" and isinstance(value, (list, tuple)):
        return [parse_text(guard, "guard") if isinstance(guard, str) else guard for guard in value]
    if name == "policy" and isinstance(value, str):
        return parse_text(value, "policy")
    if name == "motion" and isinstance(value, str):
        # An empty text stands for the default of 'move' and 'auto', as YAML has no None for a text.
        return parse_text(value, "motion") if value else None
    return value


def _config_names() -> tuple[str, ...]:
    return tuple(item.name for item in fields(BlockCopyConfig))


def _unknown(name: str, place: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(name).lower(), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{place} has no option {str(name)!r}.{hint} Options are {', '.join(known)}."
