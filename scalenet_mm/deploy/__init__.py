"""Models for other runtimes: programs of ``torch.export`` and ONNX files."""
from .onnx_file import OnnxReport, export_onnx
from .parts import PARTS, describe_preprocessing
from .program import DYNAMIC, ExportedPart, export_program

__all__ = [
    'DYNAMIC', 'ExportedPart', 'OnnxReport', 'PARTS', 'describe_preprocessing', 'export_onnx',
    'export_program'
]
