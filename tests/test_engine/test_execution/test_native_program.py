"""Programs that run natively do what the same steps do from Python, and what torch does."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from blockcopy_plugins.engine.execution import native_program, program
from blockcopy_plugins.engine.execution.block_numbers import Multiple
from blockcopy_plugins.engine.execution.native_program import native_run
from blockcopy_plugins.engine.execution.python_program import python_run
from blockcopy_plugins.engine.execution.trace import Given, Kept, Register, Root, Step
from blockcopy_plugins.ops.library import has_extension
from tests.test_engine.test_execution.test_frame_programs import COUNTS, Net, pair, programs, run

aten = torch.ops.aten
needs_extension = pytest.mark.skipif(not has_extension(), reason="the kernels are not built")
BLOCKS = (2, 3)
X, KEPT = Root(0), Root(1)


def out_of(func, args, kwargs=None, x=None, kept=None, size=0):
    """What one op gives natively, on a given tensor, a kept one and a number of blocks."""
    roots = [Given("pixels"), Kept(kept if kept is not None else torch.arange(6.0))]
    steps = [Step(func, args, kwargs or {}, Register(0))]
    found = native_run(steps, roots, [Register(0)], [BLOCKS])
    return found({"pixels": x if x is not None else torch.arange(6.0)}, size)[0]


@needs_extension
@pytest.mark.parametrize(
    ("func", "args", "kwargs", "wanted"),
    [
        (aten.mul.Tensor, (X, 2.5), {}, lambda x, kept: x * 2.5),
        (aten.mul.Tensor, (X, 2), {}, lambda x, kept: x * 2),
        (aten.add.Tensor, (X, KEPT), {"alpha": 3}, lambda x, kept: x + 3 * kept),
        (aten.leaky_relu.default, (X, 1), {}, lambda x, kept: x),
        (aten.cat.default, ([X, KEPT, X],), {}, lambda x, kept: torch.cat([x, kept, x])),
        (aten.index.Tensor, (X, [KEPT]), {}, lambda x, kept: x[kept]),
        (aten.sum.dim_IntList, (X, [0], True), {}, lambda x, kept: x.sum(0, True)),
        (aten.sum.dim_IntList, (X, []), {}, lambda x, kept: x.sum()),
        (aten._to_copy.default, (X,), {"dtype": torch.float64}, lambda x, kept: x.double()),
        (aten.clamp.default, (X, None, 2.0), {}, lambda x, kept: x.clamp(max=2.0)),
        (aten.gelu.default, (X,), {"approximate": "tanh"}, lambda x, kept: gelu(x)),
    ],
)
def test_arguments_arrive_as_from_python(func, args, kwargs, wanted):
    x = torch.linspace(-2, 4, 6)
    kept = torch.tensor([3, 1, 0, 2, 5, 4])
    found = out_of(func, args, kwargs, x, kept)
    torch.testing.assert_close(found, wanted(x, kept), rtol=0.0, atol=0.0)


def gelu(x):
    return torch.nn.functional.gelu(x, approximate="tanh")


@needs_extension
def test_memory_formats_arrive():
    x = torch.randn(2, 3, 4, 5)
    found = out_of(aten.clone.default, (X,), {"memory_format": torch.channels_last}, x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, x)


@needs_extension
@pytest.mark.parametrize("blocks", [1, 2, 6])
def test_numbers_follow_the_executed_blocks(blocks):
    x = torch.arange(12.0)
    shape = [Multiple(BLOCKS, 2), -1]
    found = out_of(aten.view.default, (X, shape), x=x, size=blocks)
    assert torch.equal(found, x.view(2 * blocks, -1))
    found = out_of(aten.narrow.default, (X, 0, 0, Multiple(BLOCKS, 1)), x=x, size=blocks)
    assert torch.equal(found, x[:blocks])


@needs_extension
def test_several_results_and_results_that_nobody_reads():
    x, kept = torch.arange(12.0), torch.ones(4)
    steps = [
        Step(aten.split.Tensor, (X, 4), {}, [Register(0), None, Register(1)]),
        Step(aten.add_.Tensor, (KEPT, Register(1)), {}, KEPT),
        Step(aten.max.dim, (X, 0), {}, [Register(2), None]),
    ]
    results = [Register(0), None, KEPT, X, Register(2)]
    found = native_run(steps, [Given("pixels"), Kept(kept)], results, [BLOCKS])
    first, nothing, written, given, largest = found({"pixels": x}, 1)
    assert torch.equal(first, x[:4]) and nothing is None
    assert written is kept and torch.equal(kept, 1 + x[8:])
    assert given is x and largest == 11


@needs_extension
def test_results_of_steps_are_let_go_after_their_last_use():
    """A chain of a hundred maps takes the memory of two or three."""
    x = torch.zeros(1 << 20)
    steps = [
        Step(aten.add.Tensor, (Register(i - 1) if i else X, 1.0), {}, Register(i))
        for i in range(100)
    ]
    chain = native_run(steps, [Given("pixels")], [Register(99)], [BLOCKS])
    with torch.profiler.profile(profile_memory=True) as profile:
        (found,) = chain({"pixels": x}, 1)
    assert found[0] == 100
    now = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    assert x.nbytes <= most <= 3 * x.nbytes


@needs_extension
def test_what_cannot_be_handed_over_is_left_to_python():
    steps = [Step(aten.bernoulli.default, (X,), {"generator": torch.Generator()}, Register(0))]
    assert native_run(steps, [Given("pixels")], [Register(0)], [BLOCKS]) is None
    steps = [Step(aten.mul.Tensor, (X, "two"), {}, Register(0))]
    assert native_run(steps, [Given("pixels")], [Register(0)], [BLOCKS]) is None


def test_without_kernels_there_are_none(monkeypatch):
    monkeypatch.setattr(native_program, "_NATIVE", None)
    steps = [Step(aten.relu.default, (X,), {}, Register(0))]
    assert native_run(steps, [Given("pixels")], [Register(0)], [BLOCKS]) is None


@needs_extension
@pytest.mark.parametrize("images", [1, 2])
def test_frames_are_those_of_the_steps_from_python(monkeypatch, images):
    made = []

    def both(*parts):
        natively, from_python = native_run(*parts), python_run(*parts)
        made.append(natively)

        def one_after_the_other(given, *sizes):
            found = natively(given, *sizes)
            for a, b in zip(found, from_python(given, *sizes), strict=True):
                # Not bit for bit: torch's grouped convolution rounds by where its memory lies.
                torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
            return found

        return one_after_the_other

    monkeypatch.setattr(program, "native_run", both)
    torch.manual_seed(0)
    nets = pair(Net())
    run(nets, COUNTS, torch.Generator().manual_seed(1), images)
    assert programs(nets[0]).replayed >= 5
    assert made and None not in made


def gathering(x, side=2):
    """A program of two of the package's own kernels, and what it gives, by torch alone.

    Its blocks are those of a map of ``2 * side`` columns, the left of each pair; the second kernel
    writes them into the right ones.
    """
    rows = torch.arange(side, dtype=torch.int32).view(1, -1)
    cols = torch.stack((rows[0], rows[0] + side))
    blocks = torch.tensor([[n, 0, 0] for n in range(len(x))], dtype=torch.int32)
    right = blocks + torch.tensor([0, 0, 1], dtype=torch.int32)
    roots = [Given("pixels"), Kept(rows), Kept(cols), Kept(right), Given("blocks")]
    gather = (X, Root(4), Root(1), Root(2), 0.0)
    steps = [
        Step(torch.ops.blockcopy.gather.default, gather, {}, Register(0)),
        Step(torch.ops.blockcopy.scatter_.default, (X, Register(0), Root(3)), {}, None),
    ]
    found = native_run(steps, roots, [Register(0)], [BLOCKS])
    return found, {"pixels": x, "blocks": blocks}


def columns_of(images, side=2, channels=3):
    x = torch.randn(images, channels, side, 2 * side, generator=torch.Generator().manual_seed(3))
    return x.contiguous(memory_format=torch.channels_last)


@needs_extension
def test_own_kernels_are_called_directly_unless_a_profiler_looks():
    x = columns_of(4)
    run_it, given = gathering(x)
    with torch.profiler.profile() as profile:
        (seen,) = run_it(given, 4)
    names = {event.name for event in profile.events()}
    assert {"blockcopy::gather", "blockcopy::scatter_"} <= names
    assert torch.equal(seen, x[..., :2]) and torch.equal(x[..., 2:], seen)
    x[..., :2] += 1
    (found,) = run_it(given, 4)
    assert torch.equal(found, seen + 1) and torch.equal(x[..., 2:], seen + 1)


@needs_extension
def test_a_direct_call_holds_nothing_of_the_frame():
    run_it, given = gathering(columns_of(2))
    watches = [weakref.ref(value.untyped_storage()) for value in given.values()]
    (found,) = run_it(given, 2)
    watches.append(weakref.ref(found.untyped_storage()))
    del found, given
    gc.collect()
    assert [watch() for watch in watches] == [None] * 3

    given = gathering(columns_of(2))[1] | {"blocks": torch.tensor([[7, 0, 0]], dtype=torch.int32)}
    watches = [weakref.ref(value.untyped_storage()) for value in given.values()]
    with pytest.raises(IndexError, match="out of range"):
        run_it(given, 1)
    del given
    gc.collect()
    assert [watch() for watch in watches] == [None] * 2


@needs_extension
def test_threads_may_run_one_program_at_once():
    run_it, _ = gathering(columns_of(8))
    maps = [columns_of(8, channels=64) + i for i in range(4)]
    given = [gathering(x)[1] for x in maps]
    wanted = [x[..., :2].clone() for x in maps]

    def often(i):
        return all(torch.equal(run_it(given[i], 8)[0], wanted[i]) for _ in range(300))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(often, range(4)))


@needs_extension
def test_results_are_ordinary_tensors_in_inference_mode():
    x = columns_of(2)
    run_it, given = gathering(x)
    with torch.inference_mode():
        (found,) = run_it(given, 2)
        grad = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    assert not found.is_inference() and not found.requires_grad and grad == (False, True)
    assert torch.is_grad_enabled()


@needs_extension
def test_a_wrong_number_of_tensors_is_refused():
    native = native_program._NATIVE
    made = torch.classes.blockcopy.Program(2, 2)
    with pytest.raises(ValueError, match="expected 2 tensors, got 1"):
        native.run_program(made.address(), [torch.zeros(1)], ())
    with pytest.raises(TypeError, match="expected a tensor, got int"):
        native.run_program(made.address(), [1, 2], ())
    with pytest.raises(TypeError, match="expected 3 arguments"):
        native.run_program(made.address())


@needs_extension
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_numbers_for_kernels_of_the_package_follow_the_executed_blocks(blocks):
    """Rings of two pixels of a column of as many blocks of six as are executed are kept."""
    x = columns_of(1, side=6, channels=4)[..., :6].contiguous(memory_format=torch.channels_last)
    size = Multiple(BLOCKS, 6), 6
    op = torch.ops.blockcopy.scatter_rings_.default
    steps = [Step(op, (KEPT, X, Root(2), size, 2), {}, None)]
    kept = torch.zeros(1, 4, blocks, 32).contiguous(memory_format=torch.channels_last)
    places = torch.zeros(1, 3, dtype=torch.int32)
    roots = [Given("pixels"), Kept(kept), Kept(places)]
    native_run(steps, roots, [None], [BLOCKS])({"pixels": x}, blocks)
    outside = torch.ones(6, 6, dtype=torch.bool)
    outside[2:4, 2:4] = False
    expected = torch.zeros_like(kept)
    expected[0, :, 0] = x[0][:, outside]
    assert torch.equal(kept, expected)
