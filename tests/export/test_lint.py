"""One planted breach for each rule, on a graph that is otherwise clean."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedet import target
from edgedet.errors import ExportError
from edgedet.export.lint import lint, lint_file

RTX = target.load("rtx-3090")
ORIN = target.load("jetson-orin-nano")


class Draft:
    """A graph under construction: pixels, cast, layout change, and what a test adds; `x` is the float image."""

    def __init__(self, *, opset: int = 18, cast_first: bool = True) -> None:
        self.opset, self.kind, self.sides = opset, TensorProto.UINT8, ["batch", 8, 8, 3]
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        steps = [("Cast", {"to": TensorProto.FLOAT}), ("Transpose", {"perm": [0, 3, 1, 2]})]
        names = ["pixels", "step", "x"]
        for (kind, given), before, after in zip(steps if cast_first else steps[::-1], names, names[1:], strict=False):
            self.op(kind, before, name=after, **given)

    def op(self, kind: str, *inputs: str, name: str, **given: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **given))
        return name

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def pair(self, x: str, *, zero: Any = np.int8(0), scale: Any = np.float32(0.1), name: str = "") -> str:
        name = name or x
        given = [self.constant(f"{name}_s", scale), self.constant(f"{name}_z", zero)]
        self.op("QuantizeLinear", x, *given, name=f"{name}_q")
        return self.op("DequantizeLinear", f"{name}_q", *given, name=f"{name}_dq")

    def conv(self, x: str, inputs: int, outputs: int, name: str, *, weights: str = "int8", bias: str = "float") -> str:
        shape = (outputs, inputs, 3, 3)
        if weights == "int8":
            w = [self.constant(f"{name}_w", np.ones(shape, np.int8)), self.constant(f"{name}_ws", np.ones(outputs, np.float32))]
            weight = self.op("DequantizeLinear", *w, name=f"{name}_wdq", axis=0)
        else:
            weight = self.constant(f"{name}_w", np.ones(shape, np.float32))
        if bias == "int32":
            b = [self.constant(f"{name}_b", np.ones(outputs, np.int32)), self.constant(f"{name}_bs", np.float32(0.1))]
            extra = self.op("DequantizeLinear", *b, name=f"{name}_bdq")
        else:
            extra = self.constant(f"{name}_b", np.ones(outputs, np.float32))
        return self.op("Conv", x, weight, extra, name=name, pads=[1] * 4)

    def model(self, x: str) -> onnx.ModelProto:
        self.op("ReduceMean", x, self.constant("axes", np.array([1, 2, 3])), name="logit", keepdims=0)
        source = helper.make_tensor_value_info("pixels", self.kind, self.sides)
        output = helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["batch"])
        graph = helper.make_graph(self.nodes, "g", [source], [output], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)


def rules(model: onnx.ModelProto, where: target.Target = ORIN) -> dict[str, str]:
    return {finding.rule: finding.node for finding in lint(model, where)}


def test_a_graph_as_our_targets_have_it_is_clean() -> None:
    draft = Draft()
    stem = draft.op("Relu", draft.conv(draft.pair("x"), 3, 16, "stem"), name="r")
    shared = draft.pair(stem)
    joined = draft.op("Add", draft.conv(shared, 16, 16, "body"), shared, name="sum")
    assert lint(draft.model(joined), ORIN) == []


def test_a_quantized_bias_is_an_error() -> None:
    draft = Draft()
    assert rules(draft.model(draft.conv(draft.pair("x"), 3, 16, "c", bias="int32"))) == {"int32-bias": "c_bdq"}


@pytest.mark.parametrize("zero", [np.int8(3), np.uint8(0)])
def test_asymmetric_activations_are_an_error(zero: Any) -> None:
    draft = Draft()
    found = lint(draft.model(draft.conv(draft.pair("x", zero=zero), 3, 16, "c")), ORIN)
    assert [finding.node for finding in found] == ["x_q", "x_dq"]
    assert {(finding.rule, finding.level) for finding in found} == {("asymmetric", "error")}


def test_quantized_weights_alone_are_found() -> None:
    draft = Draft()
    assert rules(draft.model(draft.conv("x", 3, 16, "c"))) == {"missing-activation": "c"}


def test_a_quantized_input_alone_is_found() -> None:
    draft = Draft()
    assert rules(draft.model(draft.conv(draft.pair("x"), 3, 16, "c", weights="float"))) == {"missing-weight": "c"}


def test_a_pair_on_both_inputs_of_a_residual_is_found() -> None:
    draft = Draft()
    shared = draft.pair(draft.conv(draft.pair("x"), 3, 16, "stem"))
    body = draft.pair(draft.conv(shared, 16, 16, "body"))
    assert rules(draft.model(draft.op("Add", body, shared, name="sum"))) == {"doubled-residual": "sum"}


def test_a_residual_without_a_pair_is_found() -> None:
    draft = Draft()
    stem = draft.conv(draft.pair("x"), 3, 16, "stem")
    body = draft.conv(draft.pair(stem), 16, 16, "body")
    assert rules(draft.model(draft.op("Add", body, stem, name="sum"))) == {"missing-residual": "sum"}


def test_a_pair_behind_a_pair_is_found() -> None:
    draft = Draft()
    twice = draft.pair(draft.pair("x"), name="again")
    assert rules(draft.model(draft.conv(twice, 3, 16, "c"))) == {"doubled-pair": "again_q"}


def test_a_pair_before_an_operator_without_int8_is_found() -> None:
    draft = Draft()
    assert rules(draft.model(draft.op("Sigmoid", draft.pair("x"), name="s"))) == {"unfused": "x_dq"}


def test_a_quantized_constant_that_is_no_weight_is_an_error() -> None:
    draft = Draft()
    given = [draft.constant("k", np.float32(1)), draft.constant("s", np.float32(1)), draft.constant("z", np.int8(0))]
    whole = draft.op("Cast", draft.op("QuantizeLinear", *given, name="q"), name="whole", to=TensorProto.FLOAT)
    assert rules(draft.model(draft.op("Mul", "x", whole, name="m"))) == {"quantized-constant": "q"}


def test_the_opset_is_held_against_the_jetpack() -> None:
    model = Draft(opset=20).model("x")
    assert rules(model, RTX) == {}
    (finding,) = lint(model, ORIN)
    assert finding.why == (
        "opset 20, jetson-orin-nano takes up to 18 (JetPack 6.1 has TensorRT 10.3, JetPack 6.2 has TensorRT 10.3, "
        "JetPack 7.2 has TensorRT 10.16)"
    )
    assert finding.mend == "export at opset 18"


def test_half_scales_need_opset_19() -> None:
    draft = Draft()
    assert rules(draft.model(draft.conv(draft.pair("x", scale=np.float16(0.1)), 3, 16, "c")))["half-scale"] == "x_dq"


@pytest.mark.parametrize(
    ("where", "kind", "found"), [(RTX, np.float32, True), (RTX, np.float16, False), (ORIN, np.float32, False)]
)
def test_fp32_around_int8_is_found_where_no_flag_makes_fp16_of_it(where: target.Target, kind: Any, found: bool) -> None:
    draft = Draft(opset=where.opset)
    model = draft.model(draft.conv(draft.pair("x", scale=kind(0.1)), 3, 16, "c"))
    assert ("float-around" in rules(model, where)) is found


def test_shapes_that_depend_on_values_are_found() -> None:
    draft = Draft()
    places = draft.op("Cast", draft.op("NonZero", "x", name="where"), name="places", to=TensorProto.FLOAT)
    total = draft.op("ReduceSum", places, name="total", keepdims=0)
    assert rules(draft.model(draft.op("Mul", "x", total, name="scaled"))) == {"dynamic-shape": "where"}


def test_open_sizes_and_wide_inputs_are_found() -> None:
    draft = Draft()
    draft.kind, draft.sides = TensorProto.INT64, ["batch", "height", 8, 3]
    assert rules(draft.model("x")) == {"input-type": "pixels", "dynamic-size": "pixels"}


def test_as_many_features_as_there_are_patches_are_no_open_size() -> None:
    draft = Draft()
    draft.kind, draft.sides = TensorProto.FLOAT, [1, "patches", 8]
    draft.nodes.clear()
    assert rules(draft.model(draft.op("Relu", "pixels", name="x"))) == {}


def test_padding_that_is_computed_is_an_error() -> None:
    draft = Draft()
    amount = draft.op("Mul", draft.op("Shape", "x", name="shape"), draft.constant("two", np.array([2])), name="amount")
    assert rules(draft.model(draft.op("Pad", "x", amount, name="pad"))) == {"dynamic-pad": "pad"}


@pytest.mark.parametrize(("kind", "domain"), [("Det", ""), ("QLinearAdd", "com.microsoft")])
def test_operators_without_an_importer_are_errors(kind: str, domain: str) -> None:
    draft = Draft()
    assert rules(draft.model(draft.op(kind, "x", name="odd", domain=domain))) == {"operator": "odd"}


def test_a_uint8_transpose_is_an_error() -> None:
    assert rules(Draft(cast_first=False).model("x")) == {"uint8-transpose": "step"}


@pytest.mark.parametrize(("outputs", "found"), [(12, True), (8, True), (16, False), (24, False)])
def test_channels_that_int8_kernels_pad_are_found(outputs: int, found: bool) -> None:
    draft = Draft()
    assert ("padded-channels" in rules(draft.model(draft.conv(draft.pair("x"), 3, outputs, "c")))) is found


@pytest.mark.parametrize(("inputs", "found"), [(3, False), (12, True), (16, False)])
def test_input_channels_that_int8_kernels_pad_are_found_but_for_the_pixels(inputs: int, found: bool) -> None:
    draft = Draft()
    wide = "x" if inputs == 3 else draft.conv("x", 3, inputs, "wide", weights="float")
    assert ("padded-channels" in rules(draft.model(draft.conv(draft.pair(wide), inputs, 16, "c")))) is found


def test_errors_come_first_and_every_finding_says_how_to_mend() -> None:
    draft = Draft()
    found = lint(draft.model(draft.conv("x", 3, 12, "c", bias="int32")), ORIN)
    assert [finding.level for finding in found] == ["error", "warning"]
    assert all(finding.why and finding.mend for finding in found)


def test_a_target_without_tensorrt_and_a_file_that_is_no_graph_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cpu-x86 runs onnxruntime: the rules are TensorRT's"):
        lint(Draft().model("x"), target.load("cpu-x86"))
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ExportError, match="cannot be read as ONNX"):
        lint_file(tmp_path / "text.onnx", ORIN)
