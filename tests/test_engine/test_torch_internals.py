"""What the engine takes from torch beyond its public API does what the engine takes it for."""

from __future__ import annotations

import collections

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from blockcopy_plugins.engine import torch_internals as internals

aten = torch.ops.aten


class Ops(internals.TorchDispatchMode):
    """Writes down which ops it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class Wrapper(torch.Tensor):
    """Sends its ops to ``ops``, and runs them on the tensor ``plain``."""

    __torch_function__ = internals.no_torch_function_of_subclass

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        (self,) = [arg for arg in args if isinstance(arg, Wrapper)]
        self.ops.append(func)
        args = [self.plain if arg is self else arg for arg in args]
        return func(*args, **(kwargs or {}))


def test_a_wrapper_has_sizes_and_strides_and_no_memory():
    cpu = torch.device("cpu")
    x = internals.wrapper_of(Wrapper, (2, 3), strides=(1, 2), dtype=torch.float16, device=cpu)
    assert x.shape == (2, 3) and x.stride() == (1, 2) and x.dtype == torch.float16
    x.ops, x.plain = [], torch.full((2, 3), -1.0)
    assert torch.equal(torch.relu(x), torch.zeros(2, 3)) and x.ops == [aten.relu.default]
    y = internals.wrapper_of(Wrapper, (2, 3), dtype=torch.float32, device=cpu)
    assert y.is_contiguous()


def test_a_marked_tensor_is_on_the_memory_of_its_own():
    plain = torch.zeros(3)
    x = internals.marked_as(Wrapper, plain)
    x.ops, x.plain = [], plain
    torch.relu(x)
    assert x.ops == [aten.relu.default] and x.data_ptr() == plain.data_ptr()
    with internals.no_torch_dispatch():
        x.add_(5)
    assert plain.tolist() == [5, 5, 5] and x.ops == [aten.relu.default]


def test_versions_count_writes():
    x = torch.zeros(2)
    before = internals.version_of(x)
    x.add_(1)
    assert internals.version_of(x) == before + 1


def test_no_mode_sees_what_runs_inside():
    with Ops() as ops:
        torch.ones(2)
        with internals.no_modes():
            torch.ones(2).relu()
            assert internals.dispatch_modes() == []
        assert internals.dispatch_modes() == [ops]
    assert aten.relu.default not in ops.seen and len(ops.seen) == 1


def test_function_modes_are_told_but_that_of_a_default_device():
    with torch.device("cpu"):
        assert internals.function_modes() == []
        with Functions() as functions:
            assert internals.function_modes() == [functions]
            torch.ones(2).relu()
            count = len(functions.seen)
            with internals.no_torch_function():
                torch.ones(2).relu()
            assert len(functions.seen) == count > 0


@pytest.mark.parametrize("counts", [True, False])
def test_views_made_below_dispatch_share_versions_where_they_are_to(counts):
    base, views = torch.zeros(3), []

    class Viewed(Wrapper):
        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            with internals.versions_are_counted(counts):
                views.append(base[1:])
            return torch.zeros(3)

    cpu = torch.device("cpu")
    x = internals.wrapper_of(Viewed, (3,), dtype=torch.float32, device=cpu)
    before = internals.version_of(base)
    with torch.inference_mode():
        torch.relu(x)
        views[0].add_(1)
    assert base.tolist() == [0, 1, 1]
    assert (internals.version_of(base) > before) == counts


def test_schemas():
    add_ = aten.add_.Tensor
    assert internals.is_mutable(add_) and not internals.is_mutable(aten.add.Tensor)
    assert internals.packet_of(add_) is aten.add_
    assert [a.name for a in internals.schema_of(add_).arguments] == ["self", "other", "alpha"]
    assert isinstance(add_, internals.OpOverload)
    x, y = torch.ones(2), torch.full((2,), 2.0)
    assert internals.kernels_of(aten.add.Tensor)(x, y).tolist() == [3, 3]
    assert internals.written_argument(add_, (x, y), {}) is x
    assert internals.written_argument(aten.add.Tensor, (x, y), {}) is None
    out = torch.empty(2)
    assert internals.written_argument(aten.add.out, (x, y), {"out": out}) is out
    named = internals.named_arguments(aten.add.Tensor, (x,), {"other": y})
    assert list(named) == ["self", "other", "alpha"]
    assert named["self"] is x and named["other"] is y and named["alpha"] == 1


def test_composite_ops_are_taken_apart_by_torchs_own_kernel():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    with Ops() as ops:
        out = internals.run_composite(aten.conv2d.default, (x, torch.ones(1, 1, 1, 1)), {})
    assert torch.equal(out, x) and aten.convolution.default in ops.seen
    assert internals.run_composite(aten.relu.default, (x,), {}) is NotImplemented


def test_hooks_of_modules():
    module = nn.ReLU()
    assert [len(hooks) for hooks in internals.forward_hooks(module)] == [0, 0]
    module.register_forward_pre_hook(print)
    module.register_forward_hook(print)
    module.register_forward_hook(print)
    assert [len(hooks) for hooks in internals.forward_hooks(module)] == [1, 2]
    assert not internals.has_global_forward_hooks()
    for register in (
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
    ):
        handle = register(lambda *args: None)
        assert internals.has_global_forward_hooks()
        handle.remove()
    assert not internals.has_global_forward_hooks()


def test_modules_that_torch_compile_was_given():
    module = nn.ReLU()
    assert not internals.any_is_compiled([module])
    assert internals.any_is_compiled([nn.Tanh(), torch.compile(module, backend="eager")])
    module.compile(backend="eager")
    assert internals.any_is_compiled([module])


def test_nothing_is_exported_here():
    assert internals.is_exporting() is False

    class Asks(nn.Module):
        def forward(self, x):
            return x + 1 if internals.is_exporting() else x + 2

    if hasattr(torch.compiler, "is_exporting"):
        exported = torch.export.export(Asks(), (torch.zeros(2),)).module()
        assert exported(torch.zeros(2)).tolist() == [1, 1]


def test_trees():
    x = {"a": [torch.ones(1), 2], "b": (3,)}
    leaves, spec = internals.tree_flatten(x)
    assert internals.tree_leaves(x) == leaves and len(leaves) == 3
    assert internals.tree_unflatten([1, 2, 3], spec) == {"a": [1, 2], "b": (3,)}
    assert internals.tree_map(type, x) == {"a": [torch.Tensor, int], "b": (int,)}
    assert isinstance(spec, internals.TreeSpec)


def test_modes_of_any_kind_are_told():
    assert not internals.any_mode()
    for mode in (Ops(), Functions(), torch.device("cpu")):
        with mode:
            assert internals.any_mode()
    assert not internals.any_mode()


def test_tracing_is_told():
    told = []

    def looked_at(x):
        told.append(internals.is_tracing())
        return x + 1

    looked_at(torch.ones(1))
    torch.jit.trace(looked_at, torch.ones(1), check_trace=False)
    assert told == [False, True]


Pair = collections.namedtuple("Pair", "one other")


@pytest.mark.parametrize(
    "tree",
    [
        1,
        (1, [2, {"b": 3, "a": None}], ()),
        {"b": [1], "a": (2,)},
        [Pair(1, (2, 3)), 4],
        (collections.OrderedDict(b=1, a=2), {}),
    ],
)
def test_a_builder_does_what_unflatten_does(tree):
    leaves, spec = internals.tree_flatten(tree)
    other = [("leaf", i) for i in range(len(leaves))]
    build = internals.tree_builder(spec)
    for given in (leaves, other):
        found, wanted = build(given), internals.tree_unflatten(given, spec)
        assert found == wanted and type(found) is type(wanted)
        assert repr(found) == repr(wanted)
