"""Law 4: bad input gets an error that says what to do, and leaves the state as it was."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import blockcopy_plugins as bc
from blockcopy_plugins.engine.oracle.masked_reference import MaskedReference
from blockcopy_plugins.errors import ConfigError, FrameError, GridError, StateError
from blockcopy_plugins.policy import Policy
from blockcopy_plugins.policy.guards import Guard

SHAPE = (1, 3, 4)


class Net(nn.Module):
    """Three layers, with a fuse between the second and the third."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, 1, 1)
        self.norm = nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 6, 3, 1, 1)
        self.c = nn.Conv2d(6, 2, 3, 1, 1)
        self.fuse = False

    def forward(self, x):
        x = F.relu(self.b(F.relu_(self.norm(self.a(x)))))
        if self.fuse:
            raise ZeroDivisionError("the fuse")
        return self.c(x)


class Stream:
    """A converted network in mid-stream beside its oracle; ``check`` runs both for one frame."""

    def __init__(self, images=1, **options) -> None:
        self.net = Net().eval()
        self.reference = MaskedReference(self.net, 16)
        self.shape = (images, 3, 4)
        self.answers: list = []
        self.contexts: list = []
        bc.blockcopy_(self.net, bc.BlockCopyConfig(block_size=16, policy=self.answer, **options))
        self.check(torch.ones(self.shape, dtype=torch.bool))
        self.check()

    def answer(self, frame, context):
        self.contexts.append(context)
        grid = self.answers.pop()
        if isinstance(grid, Exception):
            raise grid
        return grid

    def frame(self):
        return torch.randn(self.shape[0], 3, 40, 50)

    def check(self, grid=None) -> None:
        grid = torch.rand(self.shape) < 0.4 if grid is None else grid
        frame = self.frame()
        self.answers.append(grid)
        found = self.net(frame)
        with bc.dense(self.net):
            wanted = self.reference(grid, frame)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)

    def refused(self, frame, grid, error, match):
        self.answers[:] = [grid]
        executed, frames = bc.handle(self.net).last.grid.clone(), bc.report(self.net).frames
        with pytest.raises(error, match=match):
            self.net(frame)
        self.answers.clear()
        assert torch.equal(bc.handle(self.net).last.grid, executed)
        assert bc.report(self.net).frames == frames
        self.check()  # The next frame meets the state of the one before.
        self.check()


ONES = torch.ones(SHAPE, dtype=torch.bool)
BAD_GRIDS = {
    "other shape": (torch.ones(1, 3, 5, dtype=torch.bool), r"\(1, 3, 4\)"),
    "no batch": (torch.ones(3, 4, dtype=torch.bool), r"\(1, 3, 4\)"),
    "float": (torch.ones(SHAPE), "torch.float32"),
    "None": (None, "NoneType"),
    "list": (ONES.tolist(), "list"),
}


@pytest.mark.parametrize("name", BAD_GRIDS)
def test_bad_grid(name):
    grid, match = BAD_GRIDS[name]
    stream = Stream()
    stream.refused(stream.frame(), grid, GridError, match)


@pytest.mark.parametrize("name", BAD_GRIDS)
def test_bad_grid_of_a_policy_object(name):
    class Bad(Policy):
        def select(self, frame, context):
            return BAD_GRIDS[name][0]

    net = bc.blockcopy_(Net().eval(), bc.BlockCopyConfig(block_size=16, policy=Bad()))
    with pytest.raises(GridError, match="the policy returned"):
        net(torch.randn(1, 3, 40, 50))
    assert bc.handle(net).states.ids() == [] and bc.handle(net).last is None


def test_policy_that_fails():
    stream = Stream()
    stream.refused(stream.frame(), KeyError("lost"), KeyError, "lost")


class Forgetful(Policy):
    """Executes half of the blocks; ``failure`` is raised once it is told what has run."""

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self.firsts: list[bool] = []

    def select(self, frame, context):
        self.firsts.append(bool(context.first.any()))
        return torch.rand(context.grid_shape) < 0.5

    def feedback(self, frame, grid, outputs, context):
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        return super().feedback(frame, grid, outputs, context)


class ForgetfulGuard(Guard):
    """Demands nothing, and fails as a policy does."""

    failure: Exception | None = None

    def commit(self, grid, context):
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure


@pytest.mark.parametrize("whose", ["policy", "guard"])
def test_a_failure_to_learn_costs_no_output_and_no_state(whose):
    net, policy = Net().eval(), Forgetful()
    reference = MaskedReference(net, 16)
    config = bc.BlockCopyConfig(block_size=16, policy=policy, guards=[ForgetfulGuard()])
    bc.blockcopy_(net, config)
    (guard,) = bc.handle(net).guards.guards  # a copy

    def check():
        frame = torch.randn(1, 3, 40, 50)
        found = net(frame)
        with bc.dense(net):
            wanted = reference(bc.handle(net).last.grid, frame)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)

    check()
    check()
    (policy if whose == "policy" else guard).failure = KeyError("lost")
    with pytest.warns(UserWarning, match="KeyError: 'lost'.*next call raises"):
        check()
    assert bc.report(net).frames == 3
    for frame in (torch.randn(1, 3, 40, 50), torch.zeros(1, 3, 9, 9)):  # a bad frame as well
        asked = len(policy.firsts)
        if frame.shape[-1] == 9:
            with pytest.raises(FrameError, match="stream 0"):
                net(frame)
        else:
            with pytest.raises(KeyError, match="lost"):
                net(frame)
        assert len(policy.firsts) == asked and bc.report(net).frames == 3
    check()
    assert bc.handle(net).last.grid.all() and policy.firsts == [True, False, False, True]
    check()
    assert policy.firsts[-1] is False and not bc.handle(net).last.grid.all()


def test_an_interrupt_of_a_policy_that_learns_is_not_put_off():
    net, policy = Net().eval(), Forgetful()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=policy))
    net(torch.randn(1, 3, 40, 50))
    policy.failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        net(torch.randn(1, 3, 40, 50))
    net(torch.randn(1, 3, 40, 50))
    assert bc.handle(net).last.grid.all()


BAD_FRAMES = {
    "other size": (torch.zeros(1, 3, 40, 51), r"stream 0 has frames of .*reset_\(model"),
    "other channels": (torch.zeros(1, 4, 40, 50), "stream 0 has frames of"),
    "other dtype": (torch.zeros(1, 3, 40, 50, dtype=torch.float64), "stream 0 has frames of"),
    "NaN": (torch.zeros(1, 3, 40, 50), "nan"),
    "infinity": (torch.full((1, 3, 40, 50), float("inf")), "inf"),
    "uint8": (torch.zeros(1, 3, 40, 50, dtype=torch.uint8), "torch.uint8"),
    "no batch": (torch.zeros(3, 40, 50), r"\(3, 40, 50\)"),
    "empty batch": (torch.zeros(0, 3, 40, 50), r"\(0, 3, 40, 50\)"),
    "text": ("frame", "str"),
    "sparse": (torch.zeros(1, 3, 40, 50).to_sparse(), r"layout sparse_coo.*to_dense\(\)"),
    "nested": (torch.nested.nested_tensor([torch.zeros(3, 40, 50)]), "layout nested"),
}
BAD_FRAMES["NaN"][0][0, 1, 7, 9] = float("nan")


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_bad_frame(name):
    frame, match = BAD_FRAMES[name]
    Stream().refused(frame, ONES, FrameError, match)


def test_a_frame_without_a_batch_given_by_name():
    stream = Stream()
    with pytest.raises(FrameError, match=r"called with \(x=Tensor \(3, 40, 50\)\), expected"):
        stream.net(x=torch.zeros(3, 40, 50))
    stream.check()


def test_non_finite_frames_pass_where_they_are_allowed():
    net = bc.blockcopy_(
        Net().eval(), bc.BlockCopyConfig(block_size=16, policy="all", check_finite=False)
    )
    assert net(torch.full((1, 3, 40, 50), float("nan"))).isnan().any()


@pytest.mark.parametrize("path", ["", "norm"])
def test_training_mode(path):
    stream = Stream()
    stream.net.get_submodule(path).train()
    before = stream.net.norm.running_mean.clone()
    name = path or r"\(root\)"
    with pytest.raises(FrameError, match=rf"'?{name}'? is in training mode.*model.eval\(\)"):
        stream.net(stream.frame())
    assert torch.equal(stream.net.norm.running_mean, before)
    stream.net.eval()
    stream.check()


def test_too_many_streams():
    stream = Stream(max_streams=2)
    stream.answers.append(torch.ones(2, 3, 4, dtype=torch.bool))
    with bc.streams(stream.net, ["a", "b"]), pytest.raises(StateError, match="max_streams=2"):
        stream.net(torch.randn(2, 3, 40, 50))
    assert bc.handle(stream.net).states.ids() == [0]
    stream.answers.clear()
    stream.check()


@pytest.mark.parametrize("ids", [["a", "a"], ["a"], ["a", "b", "c"]])
def test_streams_that_do_not_fit_the_batch(ids):
    stream = Stream(images=2)
    with bc.streams(stream.net, ids), pytest.raises(StateError, match="batch of 2 images"):
        stream.net(stream.frame())
    stream.check()


@pytest.mark.parametrize(
    "ids", [torch.tensor([0, 1]), [float("nan"), 1], [[0], 1], [("camera", [0]), 1]]
)
def test_streams_that_would_not_be_found_again(ids):
    stream = Stream(images=2)
    for use in (bc.streams, bc.reset_):
        with pytest.raises(StateError, match="expected an id that is found again"):
            use(stream.net, ids)
    assert bc.handle(stream.net).states.ids() == [0, 1]
    stream.check()


def test_reset_of_unknown_streams_forgets_none():
    stream = Stream(images=2)
    with pytest.raises(StateError, match="no live stream 'zebra'"):
        bc.reset_(stream.net, [0, "zebra"])
    assert bc.handle(stream.net).states.ids() == [0, 1]
    stream.check()


@pytest.mark.parametrize("rate", [0.0, 0.5, 2.0])
def test_failure_half_way_has_the_next_frame_executed_fully(rate):
    stream = Stream(images=2)
    stream.net.fuse = True
    stream.answers[:] = [torch.rand(stream.shape) < rate]
    with pytest.raises(ZeroDivisionError, match="the fuse"):
        stream.net(stream.frame())
    stream.net.fuse = False
    frame = stream.frame()
    stream.answers[:] = [torch.rand(stream.shape) < 0.4]
    found = stream.net(frame)
    record, context = bc.handle(stream.net).last, stream.contexts[-1]
    # Nothing was written where nothing was executed, so that stream goes on as if unasked.
    if rate > 0:
        assert record.executed_rate == 1 and context.first.all()
        assert not context.last_grid.any()
        with bc.dense(stream.net):
            torch.testing.assert_close(found, stream.net(frame), rtol=1e-4, atol=1e-5)
            stream.reference(torch.ones(stream.shape, dtype=torch.bool), frame)
        stream.check()
    else:
        assert record.executed_rate < 1 and not context.first.any()


def test_failure_on_the_first_frame_leaves_no_stream():
    net = Net().eval()
    net.fuse = True
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy="none"))
    with pytest.raises(ZeroDivisionError):
        net(torch.randn(1, 3, 40, 50))
    assert bc.handle(net).states.ids() == [] and bc.report(net).state_bytes == 0
    net.fuse = False
    frame = torch.randn(1, 3, 40, 50)
    found = net(frame)
    with bc.dense(net):
        torch.testing.assert_close(found, net(frame), rtol=1e-4, atol=1e-5)


def test_frame_size_may_change_after_a_reset():
    stream = Stream()
    bc.reset_(stream.net, [0])
    stream.answers.append(torch.zeros(1, 2, 2, dtype=torch.bool))
    frame = torch.randn(1, 3, 30, 20)
    found = stream.net(frame)
    with bc.dense(stream.net):
        torch.testing.assert_close(found, stream.net(frame), rtol=1e-4, atol=1e-5)


class Branches(Net):
    skip = False

    def forward(self, x):
        x = F.relu(self.a(x))
        if not self.skip:
            x = F.relu(self.b(x))
        return self.c(x)


class FunctionalBranches(Branches):
    def forward(self, x):
        x = F.conv2d(x, self.a.weight, padding=1)
        if not self.skip:
            x = F.conv2d(x, self.b.weight, padding=1)
        x = F.conv2d(x, self.b.weight, padding=1)
        return F.conv2d(x, self.c.weight, padding=1), x


@pytest.mark.parametrize("kind", [Branches, FunctionalBranches])
@pytest.mark.parametrize("skipped", [0, 1])
def test_data_dependent_control_flow(kind, skipped):
    """Neither another layer's features nor those of two frames ago are taken for this one's."""
    net = kind().eval()
    grids = [torch.rand(SHAPE) < 0.5 for _ in range(9)]
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy=lambda f, c: grids.pop()))
    frames = [torch.randn(1, 3, 40, 50) for _ in range(3)]
    with pytest.raises(StateError, match=r"reset_\(model\)"):
        for i, frame in enumerate(frames):
            net.skip = i == skipped
            net(frame)
    # The frame after the error is executed fully and is right.
    net.skip = False
    found = net(frames[0])
    with bc.dense(net):
        torch.testing.assert_close(found, net(frames[0]), rtol=1e-4, atol=1e-4)


def test_control_flow_may_change_on_fully_executed_frames():
    net = Branches().eval()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy="all"))
    for skip in (False, True, False):
        net.skip = skip
        frame = torch.randn(1, 3, 40, 50)
        found = net(frame)
        with bc.dense(net):
            torch.testing.assert_close(found, net(frame), rtol=1e-4, atol=1e-4)


class Memory(Net):
    """Keeps a feature map for the next frame, as recurrent models do."""

    last = None
    join = staticmethod(torch.add)

    def forward(self, x):
        x = self.a(x)
        before, self.last = (x if self.last is None else self.last), x
        return self.c(self.join(x, before))


@pytest.mark.parametrize(
    "join", [torch.add, lambda x, y: torch.cat([x, y], 1)[:, 3:9], lambda x, y: x.copy_(y)]
)
def test_block_tensors_of_the_last_frame(join):
    net = Memory().eval()
    net.join = join
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy="all"))
    net(torch.randn(1, 3, 40, 50))
    with pytest.raises(StateError, match="frame that is over.*to_dense"):
        net(torch.randn(1, 3, 40, 50))


def test_to_dense_makes_a_map_that_may_be_kept():
    class Keeps(Memory):
        def forward(self, x):
            x = self.a(x)
            before, self.last = (x if self.last is None else self.last), bc.to_dense(x)
            return self.c(x + before)

    net, frames = Keeps().eval(), torch.randn(2, 1, 3, 40, 50).unbind(0)
    with torch.no_grad():
        wanted = [net(frame) for frame in frames]
    net.last = None
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy="all"))
    for frame, want in zip(frames, wanted, strict=True):
        torch.testing.assert_close(net(frame), want, rtol=1e-4, atol=1e-5)


def test_a_block_tensor_that_escapes():
    net = Memory().eval()
    bc.blockcopy_(net, bc.BlockCopyConfig(block_size=16, policy="all"))
    net(torch.randn(1, 3, 40, 50))
    escaped = net.last
    assert isinstance(escaped, bc.BlockTensor) and "BlockTensor(shape=(1, 6, 40, 50)" in repr(
        escaped
    )
    for use in (lambda x: x + 1, bc.to_dense, torch.relu_, lambda x: x.sum()):
        with pytest.raises(StateError, match="returns dense tensors"):
            use(escaped)


def test_calls_for_what_is_not_converted():
    net = Net().eval()
    for call in (bc.restore_, bc.reset_, bc.report, bc.handle, bc.dense):
        with pytest.raises(ConfigError, match="is not converted: call blockcopy_ first"):
            call(net)
    with pytest.raises(ConfigError, match="is not converted"):
        bc.streams(net, ["a"])
    parent = nn.Sequential(bc.blockcopy_(Net().eval(), bc.BlockCopyConfig(policy="all")))
    with pytest.raises(ConfigError, match="its submodule '0' is"):
        bc.report(parent)


def test_converting_twice():
    parent = nn.Sequential(Net(), nn.ReLU()).eval()
    config = bc.BlockCopyConfig(block_size=16, policy="all")
    bc.blockcopy_(parent, config)
    for again in (parent, parent[0], parent[0].a, nn.Sequential(parent)):
        with pytest.raises(ConfigError, match="converted already"):
            bc.blockcopy_(again, config)
    bc.restore_(parent)
    bc.blockcopy_(parent[0], config)
    with pytest.raises(ConfigError, match="module '0' is converted already"):
        bc.blockcopy_(parent, config)


def test_compiled_modules_are_refused_before_anything_is_changed():
    net = Net().eval()
    net.b = torch.jit.script(net.b)
    with pytest.raises(ConfigError, match="'b'.*TorchScript"):
        bc.blockcopy_(net, bc.BlockCopyConfig(policy="all"))
    assert not net.a._forward_hooks and "forward" not in net.__dict__


def test_an_exported_module_is_refused_as_it_cannot_be_put_in_eval_mode():
    net = Net().eval()
    exported = torch.export.export(net, (torch.randn(1, 3, 40, 50),)).module()
    with pytest.raises(ConfigError, match="'0' is a GraphModule of torch.export.*before it is"):
        bc.blockcopy_(nn.Sequential(exported), bc.BlockCopyConfig(policy="all"))
    # One that is traced as a graph is an ordinary module.
    bc.blockcopy_(torch.fx.symbolic_trace(net), bc.BlockCopyConfig(policy="all"))


@pytest.mark.parametrize(
    "options",
    [dict(block_size=0), dict(block_size=1.5), dict(block_size=True), dict(max_streams=0)],
)
def test_bad_options(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        bc.BlockCopyConfig(**options)


def test_bad_arguments():
    with pytest.raises(ConfigError, match="expected a torch.nn.Module"):
        bc.blockcopy_(lambda x: x)
    with pytest.raises(ConfigError, match="expected a BlockCopyConfig"):
        bc.blockcopy_(Net(), dict(block_size=3))
    with pytest.raises(ConfigError, match="no policy"):
        bc.blockcopy_(Net(), bc.BlockCopyConfig(policy="clairvoyant"))


def test_a_module_that_uses_its_own_ops_less_often_than_before():
    """Whose state is read then is not known; the whole frame that the error asks for goes on."""

    class Repeats(nn.Module):
        times = 3

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 3, 3, 3) * 0.1)

        def forward(self, x):
            for _ in range(self.times):
                x = F.conv2d(x, self.weight, padding=1)
            return x

    repeats, grids = Repeats(), []
    net = nn.Sequential(repeats).eval()
    full, part = torch.ones(SHAPE, dtype=torch.bool), torch.eye(3, 4, dtype=torch.bool)[None]
    config = bc.BlockCopyConfig(block_size=16, policy=lambda f, c: grids.pop(0), programs=False)
    bc.blockcopy_(net, config)
    frame = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        grids += [full, part, full]
        net(frame)
        repeats.times = 2
        with pytest.raises(StateError, match="used state 2 times in this frame and 3 times"):
            net(frame)
        bc.reset_(net)
        weight = repeats.weight
        wanted = F.conv2d(F.conv2d(frame, weight, padding=1), weight, padding=1)
        torch.testing.assert_close(net(frame), wanted, rtol=1e-4, atol=1e-5)
