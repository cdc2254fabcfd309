"""Writes a network as a file of ONNX or of ``torch.export``, and opens such files to run them."""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import Dim, ExportedProgram

from igan_fast.cores import usable_cores
from igan_fast.errors import PackageMissing
from igan_fast.export.networks import Network
from igan_fast.files import FileDamaged, read_file, write_durably

__all__ = [
    "PACKAGES",
    "SUFFIXES",
    "WEIGHTS",
    "Format",
    "Run",
    "check_packages",
    "open_onnx",
    "open_torch",
    "program",
    "write_onnx",
    "write_torch",
]

Format: TypeAlias = Literal["onnx", "torch"]
#: Runs a network: arrays by name in, arrays by name out.
Run: TypeAlias = Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]

#: What has to be installed to write ONNX and to check it; together the extra ``export``.
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
#: The suffix of each format's files.
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}

#: What follows the name of an ONNX file whose weights are in a second file.
WEIGHTS = ".data"
#: The versions of ONNX's operators and of its format: those of ONNX 1.13 (2022), so that older runtimes read them.
_OPSET, _IR_VERSION = 18, 8
#: Weights beyond this size get a file of their own: an ONNX file is limited to 2 GiB.
_ONE_FILE = 2**30
_LARGEST = 2**31


def check_packages() -> None:
    """Check that the packages of the extra ``export`` are there. Raises ``PackageMissing``."""
    for package in PACKAGES:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise PackageMissing(
                f"export: ONNX files cannot be written ({error}); pip install {' '.join(PACKAGES)}"
            ) from error


def program(network: Network) -> ExportedProgram:
    """The network as a graph of ``torch.export``, for batches of any size."""
    batch = Dim("batch", min=1)
    # Not one image: torch.export would take a size of 1 as the only one.
    arguments = tuple(torch.zeros(network.shape(value, 2), dtype=value.dtype) for value in network.INPUTS)
    with torch.no_grad(), _silent():
        graph = torch.export.export(network, arguments, dynamic_shapes=tuple({0: batch} for _ in arguments))
    for node in graph.graph.nodes:
        node.meta.pop("stack_trace", None)  # it holds the paths of files on this machine
    return graph


def write_torch(graph: ExportedProgram, path: Path, extra: Mapping[str, str]) -> None:
    """Write a ``.pt2`` file, which ``torch.export.load`` reads.

    Args:
        graph: the network.
        path: the new file.
        extra: texts that are stored with it (``extra_files``), by name.
    """
    buffer = io.BytesIO()
    with _silent():
        torch.export.save(graph, buffer, extra_files=dict(extra))
    write_durably(path, buffer.getvalue())


def write_onnx(graph: ExportedProgram, network: Network, path: Path, metadata: Mapping[str, str]) -> None:
    """Write an ONNX file. Weights of more than 1 GiB go into a second file, ``path`` with ``.data`` at its end.

    Args:
        graph: ``program(network)``.
        network: names the inputs and outputs.
        path: the new file.
        metadata: texts that the file holds, by name.
    """
    onnx = importlib.import_module("onnx")
    with torch.no_grad(), _silent():
        exported = torch.onnx.export(
            graph,
            dynamo=True,
            opset_version=_OPSET,
            input_names=[value.name for value in network.INPUTS],
            output_names=[value.name for value in network.OUTPUTS],
            verbose=False,
        )
    model: Any = exported.model_proto  # type: ignore[union-attr]
    _tidy(model, network)
    model.ir_version = _IR_VERSION
    model.doc_string = network.MEANING
    onnx.helper.set_model_props(model, dict(metadata))
    weights = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict.values())
    if weights <= _ONE_FILE:
        onnx.checker.check_model(model)
        write_durably(path, model.SerializeToString())
    else:
        onnx.save_model(model, str(path), save_as_external_data=True, location=path.name + WEIGHTS)


def open_onnx(path: Path) -> Run:
    """Open an ONNX file in ONNX Runtime, on the CPU.

    Raises:
        PackageMissing: ONNX Runtime is not installed.
        FileMissing, FileUnreadable, FileDamaged: there is no such file, or it cannot be read.
    """
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise PackageMissing(f"{path}: ONNX Runtime cannot be loaded ({error}); pip install onnxruntime") from error
    options = runtime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave their core
    # Opened by its path a file finds its weights in another one, but ONNX Runtime takes only paths that are text.
    beside = path.with_name(path.name + WEIGHTS).exists()
    source = str(path) if beside else read_file(path, limit=_LARGEST)
    try:
        session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has error types of its own
        raise FileDamaged(f"{path}: ONNX Runtime cannot read it ({error})") from error
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        return dict(zip(names, session.run(names, arrays), strict=True))

    return run


def open_torch(path: Path, outputs: Sequence[str]) -> Run:
    """Open a ``.pt2`` file, to run it on the CPU.

    Args:
        outputs: the names of its outputs.
    """
    with _silent():
        module = torch.export.load(io.BytesIO(path.read_bytes())).module()

    def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with torch.inference_mode():
            results = module(*(torch.from_numpy(np.ascontiguousarray(array)) for array in inputs.values()))
        return {name: result.numpy() for name, result in zip(outputs, results, strict=True)}

    return run


def _tidy(model: Any, network: Network) -> None:
    """Describe the inputs and outputs, name the batch's axis, and remove the exporter's notes: they hold the paths of
    files on this machine."""
    for values, shown in ((network.INPUTS, model.graph.input), (network.OUTPUTS, model.graph.output)):
        for value, info in zip(values, shown, strict=True):
            info.doc_string = value.meaning
            info.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]  # shapes between the nodes, with the exporter's name for the batch
    del model.graph.metadata_props[:]
    parts = [*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output]
    for part in parts:
        del part.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""


@contextmanager
def _silent() -> Iterator[None]:
    """No warnings and no log messages of the exporters, which tell of their own code."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
