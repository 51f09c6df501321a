"""Other engines that run the same dense region: what a user would pick instead of us."""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .deviation import deviation

if TYPE_CHECKING:
    from .quantised import Quantiser

# Largest deviation from torch's outputs, relative to their largest value.
_TOLERANCE = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.2}
# Of 8 bits the deviation is a result, told beside the time; above this it is another network.
_INEXACT_TOLERANCE = 1.0


class PeerUnavailable(Exception):
    """An engine is not installed, cannot do what is asked, or gives other outputs."""


@dataclass
class Peer:
    """An engine with the region loaded.

    Attributes:
        name: One of ``efficiency_figures.PEERS``.
        version: Of the engine.
        setting: How it runs, for the record.
        run: Runs the frame that it was made for and gives the outputs in the order of
            ``tree_leaves``.
        expected: Outputs of an engine of lower precision are compared with these, which are dense
            in float32; None for an engine whose outputs should be torch's for the frame given.
        deviation: Of its outputs from those, relative to their largest value.
    """

    name: str
    version: str
    setting: str
    run: Callable[[], Sequence]
    expected: Sequence[Tensor] | None = None
    deviation: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether its outputs are those of torch in the same dtype, but for rounding."""
        return self.expected is None


class FlatRegion(nn.Module):
    """A region whose outputs are one flat tuple, for exporters.

    Args:
        region: The region.
    """

    def __init__(self, region: nn.Module) -> None:
        super().__init__()
        self.region = region

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        """All output tensors of a frame ``(N, 3, H, W)``."""
        return tuple(tree_leaves(self.region(frame)))


def make_peer(
    name: str,
    region: nn.Module,
    frame: Tensor,
    threads: int,
    network: str = "",
    quantiser: Quantiser | None = None,
) -> Peer:
    """Load the region into an engine and compare its outputs with torch's.

    Args:
        name: One of ``efficiency_figures.PEERS``.
        region: The dense region, eval mode.
        frame: ``(1, 3, H, W)``, the frame that it will run; an engine of 8 bits runs one of its
            clip in its place, of the same size.
        threads: Of the engine.
        network: Name of the region's network, by which the quantiser knows it again.
        quantiser: For engines of 8 bits; by default a new one.

    Returns:
        The engine, run once.

    Raises:
        PeerUnavailable: With the reason.
    """
    make = {
        "torch.compile": _torch_compile,
        "onnxruntime": _onnxruntime,
        "openvino": _openvino,
        "openvino-int8": partial(_openvino_int8, network=network, quantiser=quantiser),
    }[name]
    try:
        with _quiet():
            peer = make(region, frame, threads)
            got = [torch.as_tensor(value) for value in peer.run()]
            got = [value.detach().clone() for value in got]
    except PeerUnavailable:
        raise
    # Whatever an engine that is not ours fails with, the others and we are still to be measured.
    except Exception as error:
        raise PeerUnavailable(f"{type(error).__name__}: {_first_lines(error)}") from error
    if peer.exact:
        with torch.no_grad():
            wanted = tree_leaves(region(frame))
        tolerance = _TOLERANCE[str(frame.dtype).removeprefix("torch.")]
    else:
        wanted, tolerance = list(peer.expected), _INEXACT_TOLERANCE
    try:
        peer.deviation = deviation(got, wanted)
    except ValueError as error:
        raise PeerUnavailable(f"its outputs are not those of torch: {error}") from error
    if not peer.deviation <= tolerance:
        raise PeerUnavailable(f"its outputs deviate from torch's by {peer.deviation:.2g}")
    return peer


def _first_lines(error: Exception, length: int = 300) -> str:
    text = " ".join(str(error).split())
    text = re.sub(r"\S*/region\.onnx", "region.onnx", text)  # a folder that is gone says nothing
    return text if len(text) <= length else text[:length] + " ..."


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters and engines talk a lot; what matters of it is in their exceptions."""
    with (
        warnings.catch_warnings(),
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def import_engine(name: str):
    """The module of an engine.

    Raises:
        PeerUnavailable: If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PeerUnavailable(
            f"{name} is not installed: pip install 'blockcopy_plugins[peers]'"
        ) from error


# -- torch.compile ---------------------------------------------------------------------------------


def _torch_compile(region: nn.Module, frame: Tensor, threads: int) -> Peer:
    import torch._inductor.config

    # What was compiled before may have been for other threads.
    torch._dynamo.reset()
    shared = {id(t): t for t in (*region.parameters(), *region.buffers())}
    flat = FlatRegion(copy.deepcopy(region, shared)).eval()
    if frame.device.type == "cuda":
        compiled = torch.compile(flat, mode="max-autotune")
        setting = "mode='max-autotune'"
    else:
        # Freezing packs the weights beforehand. It happens in the first call.
        compiled = torch.compile(flat)
        setting = "freezing"

    def run():
        with (
            torch.no_grad(),
            torch._inductor.config.patch(freezing=frame.device.type != "cuda"),
        ):
            return compiled(frame)

    run()
    return Peer("torch.compile", torch.__version__, setting, run)


# -- engines that read ONNX ------------------------------------------------------------------------


def export_onnx(region: nn.Module, frame: Tensor, path: Path) -> str:
    """Write the region as ONNX.

    Args:
        region: The dense region.
        frame: ``(1, 3, H, W)``, the only size that the file is for.
        path: The file.

    Returns:
        Which of torch's exporters could do it.

    Raises:
        PeerUnavailable: If none could.
    """
    import_engine("onnx")
    flat = FlatRegion(region).eval()
    failures = []
    for exporter, options in (
        ("torch.export", dict(dynamo=True, verbose=False)),
        ("TorchScript", dict(dynamo=False)),
    ):
        try:
            with torch.no_grad():
                torch.onnx.export(flat, (frame.contiguous(),), str(path), **options)
            return exporter
        # The exporters raise what they like; the other one may still work.
        except Exception as error:
            failures.append(f"{exporter}: {type(error).__name__}: {_first_lines(error, 150)}")
    raise PeerUnavailable("torch.onnx cannot export the region: " + "; ".join(failures))


def _onnxruntime(region: nn.Module, frame: Tensor, threads: int) -> Peer:
    ort = import_engine("onnxruntime")
    providers = ["CPUExecutionProvider"]
    if frame.device.type == "cuda":
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise PeerUnavailable(
                "this onnxruntime has no CUDAExecutionProvider: pip install onnxruntime-gpu"
            )
        providers = ["CUDAExecutionProvider"]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    # Its threads would wait for more work at full load while another engine is timed.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "region.onnx"
        exporter = export_onnx(region, frame, path)
        session = ort.InferenceSession(str(path), options, providers=providers)
    name = session.get_inputs()[0].name
    if frame.device.type == "cuda":
        run = _bound_run(ort, session, name, frame)
    else:
        if frame.dtype == torch.bfloat16:
            raise PeerUnavailable("onnxruntime takes no bfloat16 arrays on CPUs")
        given = {name: frame.contiguous().numpy()}

        def run():
            return session.run(None, given)

    setting = f"{session.get_providers()[0]}, exported by {exporter}"
    return Peer("onnxruntime", ort.__version__, setting, run)


def _bound_run(ort, session, name: str, frame: Tensor) -> Callable:
    """Runs on a frame that lies on the GPU and leaves the outputs there."""
    kinds = {torch.float32: 1, torch.float16: 10, torch.bfloat16: 16}  # of onnx.TensorProto
    frame = frame.contiguous()
    binding = session.io_binding()
    binding.bind_input(name, "cuda", 0, kinds[frame.dtype], list(frame.shape), frame.data_ptr())
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda")

    class Later:
        """Outputs on the GPU, copied to the host by who looks at them."""

        source = frame  # its memory is bound, so it must live as long

        def __iter__(self):
            return iter(binding.copy_outputs_to_cpu())

    def run():
        session.run_with_iobinding(binding)
        return Later()

    return run


def _openvino(region: nn.Module, frame: Tensor, threads: int) -> Peer:
    import_engine("openvino")
    _refuse_cuda(frame)
    shared = copy.deepcopy(region).float() if frame.dtype != torch.float32 else region
    model, exporter = read_into_openvino(shared, frame.float())
    run, _ = _compile_openvino(model, frame.float(), frame.dtype, threads)
    version = importlib.metadata.version("openvino")
    return Peer("openvino", version, f"latency, exported by {exporter}", run)


def _openvino_int8(
    region: nn.Module, frame: Tensor, threads: int, network: str, quantiser: Quantiser | None
) -> Peer:
    from .quantised import Quantiser

    _refuse_cuda(frame)
    quantiser = Quantiser() if quantiser is None else quantiser
    found = quantiser.quantise(network, region, tuple(frame.shape[2:]))
    run, compiled = _compile_openvino(found.model, found.frame, frame.dtype, threads)
    if not _convolutions_in_8_bits(compiled):
        raise PeerUnavailable("OpenVINO runs no convolution in 8 bits on this processor")
    setting = (
        f"latency, nncf {found.version} on {found.calibrated} frames, exported by {found.exporter}"
    )
    version = importlib.metadata.version("openvino")
    return Peer("openvino-int8", version, setting, run, found.expected)


def _refuse_cuda(frame: Tensor) -> None:
    if frame.device.type == "cuda":
        raise PeerUnavailable("OpenVINO has no CUDA device")


def read_into_openvino(region: nn.Module, frame: Tensor) -> tuple[Any, str]:
    """A region as a model of OpenVINO, not compiled.

    Args:
        region: The dense region, float32.
        frame: float32 ``(1, 3, H, W)``, the only size that the model is for.

    Returns:
        The model, and which of torch's exporters wrote it.

    Raises:
        PeerUnavailable: If none could.
    """
    openvino = import_engine("openvino")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "region.onnx"
        exporter = export_onnx(region, frame, path)
        return openvino.Core().read_model(path), exporter


def _compile_openvino(
    model, frame: Tensor, dtype: torch.dtype, threads: int
) -> tuple[Callable[[], Sequence], Any]:
    """What runs the float32 frame, computing in a dtype, and the compiled model."""
    openvino = import_engine("openvino")
    precision = {
        torch.float32: openvino.Type.f32,
        torch.bfloat16: openvino.Type.bf16,
        torch.float16: openvino.Type.f16,
    }[dtype]
    compiled = openvino.Core().compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": precision,
        },
    )
    found = compiled.get_property("INFERENCE_PRECISION_HINT")
    if found != precision:
        raise PeerUnavailable(
            f"OpenVINO computes in {found.get_type_name()} on this processor when asked for "
            f"{precision.get_type_name()}"
        )
    request = compiled.create_infer_request()
    # A copy of its own: OpenVINO would not keep shared memory alive.
    request.set_input_tensor(openvino.Tensor(frame.contiguous().numpy()))

    def run():
        request.infer()
        return [tensor.data for tensor in request.output_tensors]

    return run, compiled


def _convolutions_in_8_bits(compiled) -> int:
    """Convolutions that a compiled model runs in 8 bits."""
    infos = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    return sum(
        "convolution" in str(info["layerType"].value).lower()
        and str(info["runtimePrecision"].value) in ("i8", "u8")
        for info in infos
    )
