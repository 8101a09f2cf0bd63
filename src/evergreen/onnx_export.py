"""From a torch model to ONNX whose bytes depend on the model alone."""

import logging
import warnings
from typing import Any

import onnx
import torch
from torch import Tensor, nn


def export_onnx(
    model: nn.Module, example: tuple[Tensor, ...], dynamic_shapes: Any, inputs: list[str], outputs: list[str]
) -> onnx.ModelProto:
    """Trace a model with example inputs; `dynamic_shapes` names the dimensions of each that may vary."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # warns of every absent torchvision operator
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.eval(),
            example,
            dynamo=True,
            dynamic_shapes=dynamic_shapes,
            input_names=inputs,
            output_names=outputs,
            verbose=False,
        )
    return _strip_origin(program.model_proto)


def _strip_origin(program: onnx.ModelProto) -> onnx.ModelProto:
    """Remove paths and stack traces of the machine that exported, which would make the bytes its own."""
    graphs = [program.graph, *program.functions]
    for item in [program, *graphs, *(node for graph in graphs for node in graph.node)]:
        del item.metadata_props[:]
        item.doc_string = ""
    del program.graph.value_info[:]
    return program
