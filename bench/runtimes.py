"""Other runtimes for networks in use: ONNX Runtime and OpenVINO, where they are installed."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.core import Peer

__all__ = ["runtime_peers"]

#: How far the images, in [−1, 1], may be from those of the plain network in float32.
TOLERANCE = {"fp32": 1e-4, "bf16": 0.1}


def runtime_peers(
    network: nn.Module, inputs: Sequence[Tensor], threads: int, precision: str = "fp32"
) -> dict[str, Peer]:
    """The network, run by the runtimes that are installed, each on so many threads of the CPU.

    Args:
        network: a plain network in eval mode, whose ``forward`` takes ``inputs`` and returns a tensor.
        inputs: tensors of the batch size that is measured; the file is made for these shapes.
        threads: of each runtime.
        precision: "fp32", or "bf16", in which ONNX Runtime does not compute on a CPU.
    """
    if not all(map(importlib.util.find_spec, ("onnx", "onnxscript"))):
        return {}
    arrays = [t.numpy() for t in inputs]
    peers: dict[str, Peer] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            torch.onnx.export(network, tuple(inputs), path, dynamo=True, verbose=False, external_data=False)
        if importlib.util.find_spec("onnxruntime") and precision == "fp32":
            peers["ONNX Runtime"] = _onnxruntime(path, arrays, threads)
        if importlib.util.find_spec("openvino"):
            peers["OpenVINO"] = _openvino(path, arrays, threads, precision)
    with torch.no_grad():
        expected = network(*inputs).numpy()
    for name, (forward, _) in peers.items():
        np.testing.assert_allclose(forward(), expected, rtol=0, atol=TOLERANCE[precision], err_msg=name)
    return peers


def _onnxruntime(path: Path, arrays: Sequence[Any], threads: int) -> Peer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {value.name: array for value, array in zip(session.get_inputs(), arrays, strict=True)}
    return (lambda: session.run(None, feed)[0]), None


def _openvino(path: Path, arrays: Sequence[Any], threads: int, precision: str) -> Peer:
    import openvino

    hint = {"fp32": "f32", "bf16": "bf16"}[precision]
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    compiled = openvino.Core().compile_model(str(path), "CPU", options)
    request = compiled.create_infer_request()
    return (lambda: request.infer(list(arrays), share_inputs=True)[compiled.output(0)]), None
