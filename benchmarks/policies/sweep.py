"""Which policies run, and at which rates."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from blockcopy_plugins.errors import ConfigError
from blockcopy_plugins.policy import known_policies

ORACLES = {
    "oracle": {"type": "oracle"},
    "oracle with neighbours": {"type": "oracle", "neighbours": 0.5},
}
# What a rate is called by policies that are told one, the first that they have.
_RATE_ARGUMENTS = ("target", "rate")
_PERIOD_ARGUMENT = "n"


@dataclass(frozen=True)
class Entry:
    """One run: a policy at one rate.

    Attributes:
        policy: Its name in tables and pictures, the same at all rates.
        config: What :func:`~blockcopy_plugins.policy.build_policy` makes it of.
        propagation: Options of a conversion: what becomes of the outputs of blocks that did not run
            (``propagate``), and where the motion comes from (``motion``).
    """

    policy: str
    config: Mapping[str, Any]
    propagation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def described(self) -> dict[str, Any]:
        """What tells it from other entries of the policy."""
        return {**self.config, **self.propagation}

    @property
    def is_oracle(self) -> bool:
        """Whether it knows the dense outputs."""
        return self.config["type"] == "oracle"


def sweep(
    policies: Iterable[str | Mapping[str, Any]] | None,
    targets: Sequence[float],
    periods: Sequence[int],
) -> list[Entry]:
    """Each policy at each rate.

    Args:
        policies: Names, or configs with a ``type`` and perhaps a ``label`` to be called by; one
            that sets its own rate runs at that alone. None is every registered policy that can be
            told a rate or a period and needs to be told nothing else, and the oracles.
        targets: Executed rates.
        periods: Periods in frames.

    Raises:
        ConfigError: If a policy is not known or has no rate, or a rate or period is out of range.
    """
    wrong = [t for t in targets if isinstance(t, bool) or not 0 < t <= 1]
    wrong += [n for n in periods if isinstance(n, bool) or not isinstance(n, int) or n < 1]
    if wrong:
        raise ConfigError(
            f"targets {list(targets)} and periods {list(periods)}: {wrong[0]!r} is out of range; "
            "rates are above 0 and at most 1, periods whole frames"
        )
    if policies is None:
        policies = [*_runnable(), *ORACLES]
    entries: list[Entry] = []
    for given in policies:
        entries += _at_each_rate(given, targets, periods)
    return list({(e.policy, repr(sorted(e.config.items()))): e for e in entries}.values())


def propagated(entries: Sequence[Entry], ways: Sequence[str], motion: Any = None) -> list[Entry]:
    """Each entry with each way to propagate outputs.

    Args:
        entries: Of :func:`sweep`.
        ways: ``'copy'``, ``'move'``, ``'auto'``.
        motion: Where the motion comes from, ``None`` for the defaults.
    """
    found = []
    for way in ways:
        options = {} if way == "copy" else {"propagate": way}
        if options and motion is not None:
            options["motion"] = motion
        label = "" if way == "copy" else ", moved" if way == "move" else ", moved if it pays"
        found += [
            replace(entry, policy=f"{entry.policy}{label}", propagation=options)
            for entry in entries
            # An oracle of what is copied.
            if not (options and entry.is_oracle)
        ]
    return found


def _runnable() -> list[str]:
    classes = dict.fromkeys(known_policies().values())
    found = []
    for kind in classes:
        parameters = _parameters(kind)
        needed = {name for name, p in parameters.items() if p.default is p.empty}
        rate = _rate_argument(parameters)
        if rate is not None and needed <= {rate}:
            found.append(kind.__name__)
    return found


def _at_each_rate(
    given: str | Mapping[str, Any], targets: Sequence[float], periods: Sequence[int]
) -> list[Entry]:
    config = {"type": given} if isinstance(given, str) else dict(given)
    label = config.pop("label", None)
    if not isinstance(config.get("type"), str):
        raise ConfigError(f"the policy {given!r} has no type; write a name or dict(type=NAME, ...)")
    if config["type"] in ORACLES:
        options = {**ORACLES[config["type"]], **{k: v for k, v in config.items() if k != "type"}}
        label = label or (config["type"] if len(config) == 1 else _label(config["type"], config))
        if "target" in options:
            return [Entry(label, options)]
        return [Entry(label, {**options, "target": target}) for target in targets]
    kind = _class_of(config["type"])
    parameters = _parameters(kind)
    label = label or _label(kind.__name__, config)
    config["type"] = kind.__name__ if kind.__name__ in known_policies() else config["type"]
    if "seed" in parameters:
        config.setdefault("seed", 0)
    rate = _rate_argument(parameters)
    if rate is None:
        raise ConfigError(
            f"the policy {config['type']!r} can be told no rate (an argument "
            f"{', '.join(_RATE_ARGUMENTS)} or {_PERIOD_ARGUMENT}), so that it has no curve"
        )
    if rate in config or set(config) & {"target_ms", "target_fps", "target_fidelity"}:
        return [Entry(label, config)]
    return [
        Entry(label, {**config, rate: value})
        for value in (periods if rate == _PERIOD_ARGUMENT else targets)
    ]


def _label(name: str, config: Mapping[str, Any]) -> str:
    """The name, and what is out of the ordinary about it."""
    extra = [f"{k}={v}" for k, v in config.items() if k not in ("type", "seed")]
    return f"{name} ({', '.join(extra)})" if extra else name


def _class_of(name: str) -> type:
    known = known_policies()
    found = known.get(name.removeprefix("blockcopy_plugins."))
    if found is None:
        from blockcopy_plugins.registry import POLICIES

        found = POLICIES.get(name)
    if found is None:
        names = [*dict.fromkeys(kind.__name__ for kind in known.values()), *ORACLES]
        raise ConfigError(f"there is no policy {name!r}; names known: {', '.join(names)}")
    return found


def _parameters(kind: type) -> Mapping[str, inspect.Parameter]:
    parameters = inspect.signature(kind).parameters
    return {
        name: p for name, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }


def _rate_argument(parameters: Iterable[str]) -> str | None:
    names = (*_RATE_ARGUMENTS, _PERIOD_ARGUMENT)
    return next((name for name in names if name in parameters), None)
