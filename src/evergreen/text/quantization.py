"""Int8 whose answer to a text does not depend on its neighbors: the range of every input is a constant.

Ranges are observed on calibration texts. A few channels of an input are far larger than the rest; they are divided
down and their weights multiplied up (Xiao et al., SmoothQuant, ICML 2023), where that makes the range at least twice
as fine. Weights have 7 bits, one scale per column: AVX2 adds two products of 8 bits in 16, and 2 * 255 * 64 < 2**15
cannot saturate.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

CONTRIB = "com.microsoft"
Floats = NDArray[np.float32]
_PLAIN_GEMM = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
_TINIEST = 1e-9  # no scale is zero
_LARGE_CHANNEL = 0.95
"""Channels above this quantile are divided down to it."""
_LARGE_TABLE = 1_000_000
"""Embeddings of more values are stored as int8, one scale per row."""


@dataclass(frozen=True)
class Range:
    """Least and greatest value of each channel of a tensor, both of shape [channels]."""

    low: Floats
    high: Floats

    def widen(self, values: Floats) -> "Range":
        """Take in more values, [..., channels]."""
        rows = values.reshape(-1, values.shape[-1])
        return Range(np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0)))

    def divide(self, divisor: Floats) -> "Range":
        """The range of the channels after a division."""
        return Range(self.low / divisor, self.high / divisor)

    @property
    def width(self) -> float:
        """Of all channels together, zero included."""
        return float(max(self.high.max(), 0) - min(self.low.min(), 0))


def quantize(model: ModelProto, feeds: Iterable[dict[str, NDArray[np.int64]]]) -> ModelProto:
    """Return an int8 copy of a float model; the same model and feeds give the same bytes.

    Args:
        feeds: calibration texts, one each, so that no padding widens a range.
    """
    split = _split_gemm(model)
    return _Quantizer(split, calibrate(split, feeds)).run()


def _split_gemm(model: ModelProto) -> ModelProto:
    """Write each product with a bias whose weights are [inputs, outputs], as GPT-2's are, as `MatMul` and `Add`."""
    split = ModelProto()
    split.CopyFrom(model)
    del split.graph.node[:]
    for node in model.graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        plain = all(attributes.get(name, value) == value for name, value in _PLAIN_GEMM.items())
        if node.op_type != "Gemm" or not plain or len(node.input) != 3:
            split.graph.node.append(node)
            continue
        product = f"{node.output[0]}_product"
        split.graph.node.append(helper.make_node("MatMul", node.input[:2], [product]))
        split.graph.node.append(helper.make_node("Add", [product, node.input[2]], node.output))
    return split


def calibrate(model: ModelProto, feeds: Iterable[dict[str, NDArray[np.int64]]]) -> dict[str, Range]:
    """Observe the input of each `MatMul` with constant weights, channel by channel."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    names = list(dict.fromkeys(node.input[0] for node in model.graph.node if _is_quantizable(node, constants)))
    if not names:
        return {}
    observed = ModelProto()
    observed.CopyFrom(model)
    observed.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(observed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    ranges: dict[str, Range] = {}
    for feed in feeds:
        for name, values in zip(names, session.run(names, feed), strict=True):
            channels = np.zeros(values.shape[-1], np.float32)
            ranges[name] = ranges.get(name, Range(channels, channels)).widen(values)
    return ranges


def _is_quantizable(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    return (
        node.op_type == "MatMul"
        and node.input[0] not in constants
        and node.input[1] in constants
        and len(constants[node.input[1]].dims) == 2
    )


class _Quantizer:
    """Rewrites a graph node by node: `MatMul` and the bias behind it, and large embeddings."""

    def __init__(self, model: ModelProto, ranges: dict[str, Range]) -> None:
        self._model = model
        self._ranges = ranges
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._reader = {name: node for node in model.graph.node for name in node.input}
        self._uses = Counter(name for node in model.graph.node for name in node.input)
        self._uses.update(output.name for output in model.graph.output)
        self._nodes: list[NodeProto] = []
        self._added: dict[str, NDArray[Any]] = {}
        self._divisors: dict[str, Floats] = {}  # of each input that is quantized already
        self._folded: set[str] = set()  # outputs of additions that became the bias of a product

    def run(self) -> ModelProto:
        for node in self._model.graph.node:
            if node.output[0] in self._folded:
                continue
            if _is_quantizable(node, self._constants):
                self._add_product(node)
            elif self._is_large_embedding(node):
                self._add_embedding(node)
            else:
                self._nodes.append(node)
        return self._build()

    def _build(self) -> ModelProto:
        model = ModelProto()
        model.CopyFrom(self._model)
        graph = model.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        used = {name for node in self._nodes for name in node.input}
        graph.initializer.extend(tensor for name, tensor in self._constants.items() if name in used)
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in self._added.items())
        if CONTRIB not in {entry.domain for entry in model.opset_import}:
            model.opset_import.append(helper.make_opsetid(CONTRIB, 1))
        return model

    def _add_node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))

    def _add_input(self, name: str) -> Floats:
        """Quantize an input once; return what its channels were divided by."""
        if name in self._divisors:
            return self._divisors[name]
        original = self._ranges[name]
        size = np.maximum(-original.low, original.high)
        divisor = np.maximum(1, size / max(float(np.quantile(size, _LARGE_CHANNEL)), _TINIEST)).astype(np.float32)
        source = name
        if original.width < 2 * original.divide(divisor).width:
            divisor = np.ones_like(divisor)
        else:
            source = f"{name}_divided"
            self._added[f"{name}_factor"] = 1 / divisor
            self._add_node("Mul", [name, f"{name}_factor"], source)
        divided = original.divide(divisor)
        scale = max(divided.width / 255, _TINIEST)
        self._added[f"{name}_scale"] = np.array(scale, np.float32)
        self._added[f"{name}_zero"] = np.array(round(-min(float(divided.low.min()), 0) / scale), np.uint8)
        self._add_node("QuantizeLinear", [source, f"{name}_scale", f"{name}_zero"], f"{name}_int8")
        self._divisors[name] = divisor
        return divisor

    def _add_product(self, node: NodeProto) -> None:
        name, weight, output = node.input[0], node.input[1], node.output[0]
        divisor = self._add_input(name)
        values = numpy_helper.to_array(self._constants[weight]) * divisor[:, None]
        scale = np.maximum(np.abs(values).max(0) / 64, _TINIEST).astype(np.float32)
        key = f"{weight}_of_{name}"
        self._added[f"{key}_int8"] = np.round(values / scale).astype(np.int8)
        self._added[f"{key}_scale"] = scale
        self._added[f"{key}_zero"] = np.zeros(len(scale), np.int8)
        inputs = [f"{name}_int8", f"{key}_int8", f"{name}_scale", f"{key}_scale", f"{name}_zero", f"{key}_zero"]
        if bias := self._find_bias(output, len(scale)):
            inputs.append(bias)
            output = self._reader[output].output[0]
            self._folded.add(output)
        self._add_node("MatMulIntegerToFloat", inputs, output, domain=CONTRIB)

    def _find_bias(self, product: str, width: int) -> str | None:
        """Name the constant that is added to a product and to nothing else, if there is one."""
        addition = self._reader.get(product)
        if addition is None or addition.op_type != "Add" or self._uses[product] != 1:
            return None
        vectors = [n for n in addition.input if n in self._constants and list(self._constants[n].dims) == [width]]
        return vectors[0] if vectors else None

    def _is_large_embedding(self, node: NodeProto) -> bool:
        if node.op_type != "Gather" or node.input[0] not in self._constants:
            return False
        table = self._constants[node.input[0]]
        return len(table.dims) == 2 and table.dims[0] * table.dims[1] > _LARGE_TABLE

    def _add_embedding(self, node: NodeProto) -> None:
        table, ids, output = node.input[0], node.input[1], node.output[0]
        values = numpy_helper.to_array(self._constants[table])
        scale = np.maximum(np.abs(values).max(-1, keepdims=True) / 127, _TINIEST).astype(np.float32)
        self._added[f"{table}_int8"] = np.round(values / scale).astype(np.int8)
        self._added[f"{table}_scale"] = scale
        self._add_node("Gather", [f"{table}_int8", ids], f"{output}_int8")
        self._add_node("Gather", [f"{table}_scale", ids], f"{output}_scale")
        self._add_node("Cast", [f"{output}_int8"], f"{output}_float", to=TensorProto.FLOAT)
        self._add_node("Mul", [f"{output}_float", f"{output}_scale"], output)
