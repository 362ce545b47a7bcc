"""Small graphs of the shapes that detectors are made of, written node by node (no torch needed)."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[np.float32]


class Net:
    """A graph from uint8 pixels (batch, 16, 16, 3) to a logit, grown one layer at a time; tensors are named by their node."""

    def __init__(self, mean: tuple[float, ...] = (0.5, 0.5, 0.5), std: tuple[float, ...] = (0.5, 0.5, 0.5)) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.op("Cast", "pixels", name="float", to=TensorProto.FLOAT)
        self.op("Transpose", "float", name="nchw", perm=[0, 3, 1, 2])
        self.op("Sub", "nchw", self.constant(255 * np.array(mean, np.float32).reshape(1, 3, 1, 1)), name="centred")
        self.op("Mul", "centred", self.constant(1 / (255 * np.array(std, np.float32).reshape(1, 3, 1, 1))), name="x")

    def constant(self, value: npt.ArrayLike) -> str:
        name = f"constant_{len(self.constants)}"
        array = np.asarray(value)
        self.constants.append(numpy_helper.from_array(array.astype(np.float32) if array.dtype.kind == "f" else array, name))
        return name

    def op(self, kind: str, *inputs: str, name: str, **given: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **given))
        return name

    def conv(self, x: str, inputs: int, outputs: int, name: str, *, kernel: int = 3, stride: int = 1, relu: bool = True) -> str:
        weight = self.random.normal(0, (2 / (inputs * kernel**2)) ** 0.5, (outputs, inputs, kernel, kernel))
        constants = [self.constant(weight), self.constant(self.random.normal(0, 0.1, outputs))]
        plain = f"{name}_conv" if relu else name
        self.op("Conv", x, *constants, name=plain, pads=[kernel // 2] * 4, strides=[stride] * 2)
        return self.op("Relu", plain, name=name) if relu else plain

    def linear(self, x: str, inputs: int, outputs: int, name: str) -> str:
        weight = self.random.normal(0, (1 / inputs) ** 0.5, (outputs, inputs))
        return self.op("Gemm", x, self.constant(weight), self.constant(np.zeros(outputs)), name=name, transB=1)

    def pool(self, x: str, name: str = "pooled") -> str:
        return self.op("ReduceMean", x, self.constant(np.array([2, 3])), name=name, keepdims=0)

    def gate(self, x: str, channels: int, name: str) -> str:
        """Squeeze and excitation: x times a sigmoid of two small convolutions of its mean."""
        mean = self.op("GlobalAveragePool", x, name=f"{name}_mean")
        small = self.conv(mean, channels, 4, f"{name}_reduce", kernel=1)
        wide = self.conv(small, 4, channels, f"{name}_expand", kernel=1, relu=False)
        return self.op("Mul", x, self.op("Sigmoid", wide, name=f"{name}_sigmoid"), name=name)

    def finish(self, x: str, channels: int) -> onnx.ModelProto:
        """Pool, last linear layer, logit (batch,)."""
        column = self.linear(self.pool(x), channels, 1, "head")
        return self.model(self.op("Reshape", column, self.constant(np.array([-1])), name="logit"))

    def model(self, output: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 16, 16, 3])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch"])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


@pytest.fixture
def make_net() -> type[Net]:
    return Net


@pytest.fixture
def residual_net() -> onnx.ModelProto:
    """Stem, a block with a projection shortcut, a block with an identity shortcut, head: six convolutions, two additions."""
    net = Net()
    stem = net.conv("x", 3, 16, "stem", stride=2)
    inner = net.conv(net.conv(stem, 16, 32, "one"), 32, 32, "two", relu=False)
    shortcut = net.conv(stem, 16, 32, "shortcut", kernel=1, relu=False)
    block = net.op("Relu", net.op("Add", inner, shortcut, name="sum"), name="block")
    inner = net.conv(net.conv(block, 32, 32, "three"), 32, 32, "four", relu=False)
    last = net.op("Relu", net.op("Add", inner, block, name="sum2"), name="block2")
    return net.finish(last, 32)


@pytest.fixture
def pixels() -> npt.NDArray[np.uint8]:
    """Sixteen images with smooth and with sharp content, (16, 16, 16, 3)."""
    random = np.random.default_rng(1)
    ramp = np.linspace(0, 255, 16)[None, :, None, None] * random.uniform(0.2, 1, (16, 1, 16, 3))
    return np.clip(ramp + random.normal(0, 25, (16, 16, 16, 3)), 0, 255).astype(np.uint8)


@pytest.fixture
def run() -> Callable[..., Array]:
    """Runs a model on pixels and gives one of its tensors, the first output by default."""

    def run(model: onnx.ModelProto, pixels: npt.NDArray[np.uint8], tensor: str | None = None) -> Array:
        wider = onnx.ModelProto()
        wider.CopyFrom(model)
        if tensor is not None:
            wider.graph.output.append(helper.make_empty_tensor_value_info(tensor))
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(wider.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return session.run([tensor] if tensor else None, {"pixels": pixels})[0]

    return run
