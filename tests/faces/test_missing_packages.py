"""Without the packages of the extra ``faces`` there is one line that says what to install."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from igan_fast.errors import PackageMissing
from igan_fast.faces.mtcnn import Mtcnn


def test_without_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PackageMissing, match=r"cannot be loaded \(.*onnxruntime.*\); pip install mtcnn-runtime onnx"):
        Mtcnn()


def test_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PackageMissing, match=r"cannot be loaded \(No module named 'mtcnnruntime'\); pip install"):
        Mtcnn()
