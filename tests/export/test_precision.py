"""The whole of it is in test_export_stage; here is what becomes of the linter's findings."""

import onnx
import pytest
from onnx import TensorProto, helper

from edgedet import target
from edgedet.errors import ExportError
from edgedet.export.precision import linted


def graph(*nodes: onnx.NodeProto, side: int | str = 8) -> onnx.ModelProto:
    first = helper.make_node("Cast", ["pixels"], ["x"], name="cast", to=TensorProto.FLOAT)
    made = helper.make_graph(
        [first, *nodes],
        "g",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", side, side, 3])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_warning_becomes_a_note_that_says_how_to_mend_it() -> None:
    (note,) = linted(graph(helper.make_node("Relu", ["x"], ["y"]), side="height"), target.load("rtx-3090"))
    assert note == (
        "lint, dynamic-size: pixels: height or width is open: every size needs its own profile; "
        "export with the size that the device runs"
    )


def test_an_error_refuses_the_graph_and_names_the_first_nodes() -> None:
    nodes = [helper.make_node("Det", ["x"], [f"y{n}"], name=f"det{n}") for n in range(5)]
    with pytest.raises(ExportError, match=r"would refuse the graph for rtx-3090, 5 findings: det0: .*; det1: .*; det2: [^;]*$"):
        linted(graph(*nodes), target.load("rtx-3090"))


def test_the_rules_are_tensorrts_only() -> None:
    assert linted(graph(helper.make_node("Det", ["x"], ["y"], name="det")), target.load("cpu-x86")) == ()
