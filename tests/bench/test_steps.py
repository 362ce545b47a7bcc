"""Which artifact a compression step is compared with, and what is said of one that did not pay."""

from pathlib import Path

from edgedet.artifact import Ancestor, Artifact, DetectorSpec, Graph, Manifest
from edgedet.bench import steps
from edgedet.bench.statistics import Ratio
from edgedet.preprocess import Preprocess


def checkpoint(name: str) -> Ancestor:
    return Ancestor(digest=f"{name}-digest", stage=name, kind="checkpoint", name=name)


def graph(name: str, precision: str, *lineage: str) -> Artifact:
    made = Manifest(
        kind="onnx",
        stage="export",
        detector=DetectorSpec(name="tiny"),
        preprocess=Preprocess(),
        lineage=tuple(checkpoint(each) for each in lineage),
        graphs=(Graph(file="model.onnx", inputs={}, outputs=["logit"], precision=precision),),
    )
    return Artifact(Path(name), made, f"{name}-digest")


TEACHER = graph("teacher-fp32", "fp32", "teacher")
STUDENT = graph("student-fp32", "fp32", "teacher", "student")
PRUNED = graph("pruned-fp32", "fp32", "teacher", "student", "pruned")
INT8 = graph("int8", "int8", "teacher", "student", "pruned")
ALL = [TEACHER, STUDENT, PRUNED, INT8]


def test_quantization_is_compared_with_the_full_precision_graph_of_the_same_checkpoint():
    assert steps.before(INT8, ALL) is PRUNED


def test_pruning_and_distillation_are_compared_with_the_checkpoint_before():
    assert steps.before(PRUNED, ALL) is STUDENT
    assert steps.before(STUDENT, ALL) is TEACHER


def test_the_first_of_the_line_has_nothing_before_it():
    assert steps.before(TEACHER, ALL) is None


def test_what_is_not_in_the_run_is_not_compared():
    assert steps.before(INT8, [TEACHER, STUDENT, INT8]) is None


def test_an_int8_graph_made_from_an_fp32_graph_finds_it():
    lineage = (*PRUNED.manifest.lineage, PRUNED.as_ancestor())
    manifest = Manifest(
        kind="onnx",
        stage="export",
        detector=DetectorSpec(name="tiny"),
        preprocess=Preprocess(),
        lineage=lineage,
        graphs=(Graph(file="model.onnx", inputs={}, outputs=["logit"], precision="int8"),),
    )
    assert steps.before(Artifact(Path("again"), manifest, "again"), ALL) is PRUNED


def test_a_step_that_did_not_pay_is_named_with_its_measurement():
    slow = Ratio(baseline="pruned-fp32", value=1.04, low=0.98, high=1.1, rounds=20)
    said = steps.verdict("int8", "quantization", slow)
    assert said is not None
    assert "quantization did not pay" in said
    assert "1.04 times" in said
    assert steps.verdict("int8", "quantization", Ratio(baseline="x", value=1.9, low=1.8, high=2.0, rounds=20)) is None
