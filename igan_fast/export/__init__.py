"""Exports a model to ONNX and ``torch.export``, for programs without igan_fast, and uses such an export.

``export_model`` writes a folder with three networks (``networks``) and ``model.json``, which describes them.
``OnnxModel`` reads one: ``FaceEditor`` takes an exported folder as it takes a run.
"""

from igan_fast.export.description import is_export
from igan_fast.export.folder import export_model
from igan_fast.export.onnx_model import OnnxModel

__all__ = ["OnnxModel", "export_model", "is_export"]
