"""Methods of single objects in place of their class's, and methods that call other functions.

After a detector's heads, methods of many classes call functions of the framework. In a converted
model, kernels of this package replace some of these functions, but in other models they must not.
So the model's modules get their own methods: the same code, which finds another function under
the same name.

Inside ``bc.dense`` the class's own methods run: what is compared with is the user's own model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from inspect import getattr_static
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from ...engine.convert import runs_dense

Others = Mapping[FunctionType, Callable]
"""The function to call in place of each of some functions."""


class NamedOthers(dict):
    """Such functions as a pickle refers to them: by where they stand, as they have no names.

    Args:
        module: ``__name__`` of the module in which they stand.
        name: Under which name.
        others: The functions.
    """

    def __init__(self, module: str, name: str, others: Others) -> None:
        super().__init__(others)
        self.__module__, self._name = module, name

    def __reduce__(self) -> str:
        return self._name


@dataclass(eq=False)
class StandIn:
    """Base class of replacements for a method of one object of a converted model.

    It is a class so that a deep copy of the object has its own.

    Attributes:
        model: The model.
        owner: The object: a module of the model, or part of one.
        name: Of the method.
    """

    model: nn.Module
    owner: Any
    name: str

    def __call__(self, *args, **kwargs) -> Any:
        """The replacement; where the model's calls are dense, the class's method."""
        run = self.original if runs_dense(self.model) else self.replacement
        return run(*args, **kwargs)

    def replacement(self, *args, **kwargs) -> Any:
        """What is done in place of the class's method."""
        raise NotImplementedError(f"{type(self).__name__} does not implement replacement()")

    def put(self) -> StandIn:
        """Put it in place."""
        self.owner.__dict__[self.name] = self
        return self

    def remove(self) -> None:
        """Restore the method of the object's class."""
        if self.owner.__dict__.get(self.name) is self:
            del self.owner.__dict__[self.name]

    def original(self, *args, **kwargs) -> Any:
        """The class's method."""
        return getattr(type(self.owner), self.name)(self.owner, *args, **kwargs)


def stand_in_for(
    model: nn.Module, name: str, method: Callable, kind: type[StandIn]
) -> Iterator[StandIn]:
    """Put stand-ins in place of a method of a model's modules.

    Args:
        model: The model.
        name: Of the method.
        method: The method of the classes to change. Classes with a different method, and modules
            with their own, keep it.
        kind: Class of the stand-ins.

    Yields:
        Objects whose ``remove()`` undoes it.
    """
    for module in nn.Module.modules(model):
        if getattr(type(module), name, None) is method and name not in module.__dict__:
            yield kind(model, module, name).put()


class ReboundMethod(StandIn):
    """A method that calls other functions than that of its class.

    Args:
        model: See :class:`StandIn`.
        owner: See :class:`StandIn`.
        name: See :class:`StandIn`.
        others: What it calls in place of which functions.
    """

    def __init__(self, model: nn.Module, owner: Any, name: str, others: Others) -> None:
        super().__init__(model, owner, name)
        self._others = others
        self._function = rebound(getattr(type(owner), name), others)

    def __reduce__(self):
        return ReboundMethod, (self.model, self.owner, self.name, self._others)

    def replacement(self, *args, **kwargs) -> Any:
        """The method with the other functions."""
        return self._function(self.owner, *args, **kwargs)


def calls(function: Any, others: Others) -> dict[str, Callable]:
    """The replacements for what a function calls, by the names under which it calls them.

    Args:
        function: Anything; what is not a Python function calls nothing.
        others: What is to be called in place of which functions.
    """
    if not isinstance(function, FunctionType):
        return {}
    known = function.__globals__
    found = {name: known.get(name) for name in _names_in(function.__code__)}
    return {n: others[f] for n, f in found.items() if isinstance(f, FunctionType) and f in others}


def _names_in(code: CodeType) -> Iterator[str]:
    """The global names in a function, comprehensions and functions within it included."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names_in(inner)


def rebound(function: FunctionType, others: Others) -> FunctionType:
    """The same code, with other functions in place of some that it calls."""
    return with_names(function, calls(function, others))


def with_names(function: FunctionType, names: Mapping[str, Any]) -> FunctionType:
    """The same code, with other meanings for some global names."""
    made = FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def rebind_methods(model: nn.Module, others: Others) -> Iterator[StandIn]:
    """Let the methods of a model's modules call other functions.

    Args:
        model: The model. Methods that a module has of its own stay as they are, and so do static
            methods.
        others: What is to be called in place of which functions.

    Yields:
        Objects whose ``remove()`` undoes it.
    """
    for module in nn.Module.modules(model):
        kind = type(module)
        for name in dir(kind):
            is_changed = name not in module.__dict__ and calls(getattr(kind, name, None), others)
            if is_changed and not isinstance(getattr_static(kind, name), staticmethod):
                yield ReboundMethod(model, module, name, others).put()
