"""Each operator against ONNX Runtime on random input."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper, numpy_helper

from edgedet.compress.operators import OPERATORS
from edgedet.errors import QuantizeError

X = np.random.default_rng(0).normal(0, 1, (2, 4, 6, 6)).astype(np.float32)
W = np.random.default_rng(1).normal(0, 1, (4, 2, 3, 3)).astype(np.float32)
ROWS = np.random.default_rng(2).normal(0, 1, (3, 4)).astype(np.float32)
COLUMNS = np.random.default_rng(3).normal(0, 1, (4, 5)).astype(np.float32)
ONES = np.ones(4, np.float32)
CASES: list[tuple[str, list[Any], dict[str, Any]]] = [
    *((name, [X], {}) for name in ("Abs", "Erf", "Exp", "HardSwish", "Identity", "Neg", "Relu", "Sigmoid", "Tanh")),
    *((name, [X], {}) for name in ("GlobalAveragePool", "GlobalMaxPool", "Flatten", "Gelu", "HardSigmoid", "Shape", "Softmax")),
    *((name, [X, X[:, :1]], {}) for name in ("Add", "Sub", "Mul", "Div")),
    *((name, [X, np.array([2, 3])], {"keepdims": 0}) for name in ("ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum")),
    ("Sqrt", [np.abs(X)], {}),
    ("Pow", [np.abs(X), np.float32(2.0)], {}),
    ("Clip", [X, np.float32(-0.5), np.float32(0.5)], {}),
    ("Conv", [X, W, ONES], {"group": 2, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("Conv", [X, W], {"group": 2, "pads": [0, 1, 2, 1]}),
    ("Gemm", [ROWS, COLUMNS, COLUMNS[0]], {}),
    ("Gemm", [ROWS, COLUMNS.T.copy()], {"transB": 1, "alpha": 0.5}),
    ("MatMul", [ROWS, COLUMNS], {}),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [X], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("BatchNormalization", [X, ONES, ONES, ONES, 2 * ONES], {}),
    ("LayerNormalization", [ROWS, ONES, ONES], {}),
    ("Concat", [X, X], {"axis": 1}),
    ("Transpose", [X], {"perm": [0, 2, 3, 1]}),
    ("Reshape", [X, np.array([0, -1])], {}),
    ("Squeeze", [X[:, :1], np.array([1])], {}),
    ("Unsqueeze", [ROWS, np.array([0, 3])], {}),
    ("Slice", [X, np.array([1]), np.array([5]), np.array([2]), np.array([2])], {}),
    ("Slice", [X, np.array([-2]), np.array([np.iinfo(np.int64).max]), np.array([2])], {}),
    ("Slice", [X, np.array([np.iinfo(np.int64).min]), np.array([-1]), np.array([2])], {}),
    ("Gather", [X, np.array([2, 0])], {"axis": 1}),
    ("Expand", [ROWS[:, None], np.array([3, 2, 4])], {}),
    ("Pad", [X, np.array([0, 0, 1, 2, 0, 0, 0, 1])], {}),
]


@pytest.mark.parametrize(("op", "inputs", "given"), CASES, ids=[case[0] for case in CASES])
def test_it_computes_what_the_runtime_computes(op, inputs, given):
    names = [f"input_{position}" for position in range(len(inputs))]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in zip(names[1:], inputs[1:], strict=True)]
    source = helper.make_tensor_value_info("input_0", onnx.TensorProto.FLOAT, inputs[0].shape)
    node, out = helper.make_node(op, names, ["out"], **given), helper.make_empty_tensor_value_info("out")
    graph = helper.make_graph([node], "one", [source], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    expected = ort.InferenceSession(model.SerializeToString()).run(None, {"input_0": inputs[0]})[0]
    found = OPERATORS[op](given, *(torch.from_numpy(np.asarray(value)) for value in inputs))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_padding_by_reflection_is_refused():
    with pytest.raises(QuantizeError, match="reflect"):
        OPERATORS["Pad"]({"mode": b"reflect"}, torch.from_numpy(X), torch.tensor([0, 0, 1, 1, 0, 0, 1, 1]))
