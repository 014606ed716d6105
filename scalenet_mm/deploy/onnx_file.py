"""ONNX files in which each shared tensor stands once."""
import importlib.util
import json
import logging
import math
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Optional, Union

import torch
import torch.nn as nn

from ..checkpoints.files import write_whole
from ..errors import ConfigError, ExportError
from ..version import __version__
from .parts import class_names, describe_preprocessing
from .program import (
    DYNAMIC,
    ExportedPart,
    export_program,
    in_eval_mode,
)

#: The largest difference, over the largest value of an output, that counts as equal.
TOLERANCE = 1e-4
#: Versions of ONNX's operators that torch's exporter writes.
OPSETS = range(18, 24)
# a protobuf message, which an ONNX file is, ends there
_LARGEST = 2**31 - 2**24
_INSTALL = 'pip install onnx onnxruntime onnxscript'


@dataclass
class OnnxReport:
    """What was written.

    Args:
        path (str): The file.
        size (int): Its bytes.
        part (str): What of the model it holds.
        outputs (list[str]): Names of the outputs.
        differences (dict): What :func:`compare_with_onnx` gave; empty if it was not checked.
    """
    path: str
    size: int
    part: str
    outputs: list
    differences: dict = field(default_factory=dict)

    def __str__(self):
        text = (f'{self.path}: {self.part}, {self.size / 2**20:.1f} MiB, image -> '
                f'{", ".join(self.outputs)}')
        if not self.differences:
            why = 'as asked' if _has('onnxruntime') else 'onnxruntime is not installed'
            return f'{text}\nnot checked against the model: {why}'
        lines = [f'  {" x ".join(map(str, shape))}: {difference:.1e}'
                 for shape, difference in self.differences.items()]
        return '\n'.join([f'{text}\nlargest difference from the model, of the largest value:',
                          *lines])


def export_onnx(model: nn.Module,
                path: str,
                part: Optional[str] = None,
                size: Union[int, Sequence, str, None] = None,
                batch: Union[int, str] = DYNAMIC,
                opset: Optional[int] = None,
                check: Optional[bool] = None,
                metadata: Optional[dict] = None) -> OnnxReport:
    """Write part of a model to an ONNX file.

    The input is ``image``, normalised images; the output ``logits``, or ``feat0``, ``feat1``, ...
    in the order of the backbone's ``out_indices``. Weights that several blocks share stand in the
    file once. Its metadata says what made it and, where the model knows, what images must have
    gone through ('preprocessing', see :func:`describe_preprocessing`) and the names of the
    'classes', both in JSON.

    Args:
        model (nn.Module): A classifier, detector or segmentor, or a backbone.
        path (str): The file.
        part (str, optional): See :func:`export_program`. Defaults to None.
        size (int | Sequence[int] | str, optional): See :func:`export_program`. Defaults to None.
        batch (int | str): See :func:`export_program`. Defaults to 'dynamic'.
        opset (int, optional): Version of the operators; torch's choice if None. Defaults to None.
        check (bool, optional): Whether to compare the file with the model by onnxruntime before
            it is written; where onnxruntime is installed if None. Defaults to None.
        metadata (dict, optional): Further metadata. Defaults to None.

    Returns:
        OnnxReport: What was written.

    Raises:
        ConfigError: If an option does not fit or a package is missing.
        ExportError: If the model cannot be exported, or the file's outputs would differ.
        CheckpointError: If the file cannot be written.
    """
    for package in ('onnx', 'onnxscript'):
        _require(package)
    if check is None:
        check = _has('onnxruntime')
    elif check:
        _require('onnxruntime')
    if opset is not None and opset not in OPSETS:
        raise ConfigError(f'opset must be from {OPSETS[0]} to {OPSETS[-1]}, got {opset!r}')
    for parameter in model.parameters():
        if parameter.dtype != torch.float32:
            raise ConfigError(f'the model is of {parameter.dtype}; make it model.float() before '
                              'the export, and convert the file afterwards')
    exported = export_program(model, part, size, batch)
    tensors = exported.program.state_dict.values()
    count = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if count > _LARGEST:
        raise ConfigError(f'the weights are {count / 2**30:.1f} GiB, and one ONNX file holds 2 at '
                          'most; export a smaller model, or use export_program')

    about = dict(
        part=exported.part.name,
        scalenet_mm=__version__,
        preprocessing=describe_preprocessing(model),
        classes=class_names(model) if exported.part.name == 'classifier' else None,
        **(metadata or {}))
    content = _make_proto(exported, opset, about).SerializeToString()
    differences = compare_with_onnx(exported, content) if check else {}
    different = {shape: value for shape, value in differences.items() if not value <= TOLERANCE}
    if different:
        shape, value = max(different.items(), key=lambda item: item[1])
        raise ExportError(
            f'{path} was not written: its outputs would differ from those of '
            f'{type(exported.part.model).__name__} by {value:.1e} of the largest value, for images '
            f'of the shape {shape}; at most {TOLERANCE:.0e} is rounding')
    write_whole(path, lambda file: file.write(content))
    return OnnxReport(str(path), len(content), exported.part.name, exported.output_names,
                      differences)


def _has(package):
    return importlib.util.find_spec(package) is not None


def _require(package):
    if not _has(package):
        raise ConfigError(f'{package} is not installed, and ONNX files need it: {_INSTALL}')


def _make_proto(exported, opset, about):
    """onnx.ModelProto: The program in ONNX's operators."""
    import onnx
    import onnx_ir
    from onnx_ir.passes import common
    try:
        # with gradients attention is converted in another layout of memory than it was traced in
        with _quiet(), torch.no_grad():
            made = torch.onnx.export(
                exported.program, dynamo=True, opset_version=opset, input_names=['image'],
                output_names=exported.output_names, verbose=False)
    except Exception as error:  # an operator that is not in its tables, say
        reason = error.__cause__ or error  # its own message is advice to its developers
        raise ExportError(f'torch cannot write {type(exported.part.model).__name__} in the '
                          f'operators of ONNX: {reason}') from error
    model = made.model
    for simplify in (
            # the lines of source that each operator came from, 6 % of a small file
            common.ClearMetadataAndDocStringPass(),
            # the exporter leaves large ones, such as the masks of Swin's blocks
            common.DeduplicateInitializersPass(size_limit=_LARGEST)):
        simplify(model)
    for value in list(model.graph.initializers.values()):
        value.name = value.name.removeprefix('model.')
    proto = onnx_ir.to_proto(model)
    del proto.graph.value_info[:]
    _name_dimensions(proto.graph)
    if exported.size == DYNAMIC:
        _explain_size(proto.graph, exported.part.unit)
    for key, value in about.items():
        if value is not None:
            entry = proto.metadata_props.add()
            entry.key = key
            entry.value = value if isinstance(value, str) else json.dumps(value)
    onnx.checker.check_model(proto)
    return proto


def _name_dimensions(graph):
    """Call what is left open of the images by its meaning, and by nothing in other places."""
    dims = graph.input[0].type.tensor_type.shape.dim
    named = {dim.dim_param: name
             for dim, name in zip(dims, ('batch', 'channels', 'height', 'width')) if dim.dim_param}
    for value in (*graph.input, *graph.output):
        del value.metadata_props[:]
        for dim in value.type.tensor_type.shape.dim:
            if not dim.dim_param:
                continue
            if dim.dim_param in named:
                dim.dim_param = named[dim.dim_param]
            else:
                dim.Clear()


def _explain_size(graph, unit):
    """Let a runtime's error for an image of the wrong size, which names the node, tell why."""
    tensor = graph.input[0].name
    for i, node in enumerate(graph.node):
        if node.op_type == 'Reshape' and node.input[0] == tensor:
            node.name = f'image_size_must_be_a_multiple_of_{unit}_{i}'
            tensor = node.output[0]


def compare_with_onnx(exported: ExportedPart, content: bytes) -> dict:
    """Compare an ONNX model with what it was made from, on random images.

    Args:
        exported (ExportedPart): What it was made from.
        content (bytes): The ONNX model.

    Returns:
        dict[tuple, float]: For each shape of images the largest difference of an output, over the
        output's largest value if that is not 0.

    Raises:
        ExportError: If onnxruntime cannot run it.
    """
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it prints errors beside raising them
    weight = next(exported.part.parameters())
    generator = torch.Generator().manual_seed(0)
    images = {shape: torch.randn(shape, generator=generator) for shape in exported.sample_shapes()}
    try:
        session = onnxruntime.InferenceSession(
            content, options, providers=['CPUExecutionProvider'])
        outputs = {shape: session.run(exported.output_names, {'image': image.numpy()})
                   for shape, image in images.items()}
    except Exception as error:  # its exceptions have no common class
        raise ExportError(f'onnxruntime cannot run the exported '
                          f'{type(exported.part.model).__name__}: {error}') from error
    return {shape: _largest_difference(exported.part, image.to(weight), outputs[shape])
            for shape, image in images.items()}


def _largest_difference(part, image, outputs):
    with in_eval_mode(part), torch.no_grad():
        expected = part(image)
    if [got.shape for got in outputs] != [tuple(wanted.shape) for wanted in expected]:
        return math.inf
    differences = []
    for got, wanted in zip(outputs, expected):
        wanted = wanted.cpu()
        difference, largest = (torch.from_numpy(got) - wanted).abs().max(), wanted.abs().max()
        # a head that has not been trained gives zeros alone
        differences.append(difference / largest if largest else difference)
    return float(torch.stack(differences).max())  # a NaN stays one


@contextmanager
def _quiet():
    """Keep the exporter's advice to its own developers from the user."""
    loggers = [logging.getLogger(name) for name in ('torch.onnx', 'onnxscript', 'onnx_ir')]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
