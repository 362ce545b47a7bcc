"""A network that reads patches, as two graphs: against the network itself, in INT8, and compiled."""

import msgspec
import numpy as np
import onnx
import pytest

pytest.importorskip("torch")

import torch

from edgedet import models
from edgedet.artifact import Artifact, DetectorSpec, Graph
from edgedet.data.index import Index
from edgedet.errors import ArtifactError, ExportError, ModelError, ParityError
from edgedet.export import compile as compiler
from edgedet.export import patchwise
from edgedet.export.anchor import as_ranges, untrained
from edgedet.export.graphs import Graphs
from edgedet.export.parity import ParityGate
from edgedet.export.stage import ExportConfig, run
from edgedet.preprocess import Preprocess
from edgedet.runtime import base

SIDE = 32
SPEC = DetectorSpec(name="spai-tiny", arguments={"depth": 1, "side": SIDE, "radius": 8, "width": 32})
PREPROCESS = msgspec.structs.replace(models.lookup("spai-tiny").preprocess, height=2 * SIDE, width=2 * SIDE)
STRESS = ParityGate(mean_relative=0.5)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Artifact:
    torch.set_num_threads(1)
    return untrained(tmp_path_factory.mktemp("artifacts") / "spai", SPEC, PREPROCESS, golden=4)


@pytest.fixture(scope="module")
def network(checkpoint):
    return models.build(checkpoint)


@pytest.fixture(scope="module")
def two(checkpoint) -> Artifact:
    return run(ExportConfig(target="cpu-x86", patches=True), checkpoint, None, checkpoint.path.with_name("two"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Index:
    return as_ranges(tmp_path_factory.mktemp("photographs"))


def test_an_encoder_and_an_aggregator_are_written(two):
    encoder, aggregator = two.manifest.graphs
    assert encoder == Graph(
        file="encoder.onnx",
        role="encoder",
        inputs={"pixels": ["patches", SIDE, SIDE, 3]},
        outputs=["features"],
        opset=20,
        target="cpu-x86",
    )
    assert (aggregator.role, aggregator.inputs, aggregator.outputs) == (
        "aggregator",
        {"features": [1, "patches", 6 + 32]},
        ["logit"],
    )
    assert two.manifest.preprocess == Preprocess(
        geometry="native", patch=SIDE, height=SIDE, width=SIDE, fill="pad", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )


def test_each_part_is_held_against_its_own(two):
    parts = two.manifest.metrics["parts"]
    assert set(parts) == {"encoder", "aggregator"}
    assert all(part["max_relative"] < 1e-5 for part in parts.values())
    assert (parts["encoder"]["patches"], parts["encoder"]["batch_sizes"]) == (16, [1, 2, 7, 16])
    assert two.manifest.metrics["parity"]["max_relative"] < 1e-5


@pytest.mark.parametrize("batch", [1, 2, 7, 16])
@pytest.mark.parametrize("size", [(64, 64), (32, 32), (40, 90), (100, 131)])
def test_two_graphs_give_what_the_network_gives(network, two, batch, size):
    pixels = np.random.default_rng(batch).integers(0, 256, (batch, *size, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = network(torch.from_numpy(pixels)).numpy()
    runtime = base.load(two, threads=1, spin=False)
    assert runtime.run(pixels)["logit"] == pytest.approx(expected, abs=1e-5)
    runtime.close()


def test_golden_files_are_what_the_parent_saw(checkpoint, two):
    before, after = checkpoint.golden, two.golden
    np.testing.assert_array_equal(after.pixels, before.pixels)
    for image, pixels in zip(after.images, after.pixels, strict=True):
        np.testing.assert_array_equal(two.manifest.preprocess(image), pixels)
    assert after.logits == pytest.approx(before.logits, abs=1e-5)


def test_the_encoder_of_two_graphs_becomes_int8(two, data, tmp_path):
    config = ExportConfig(target="cpu-x86", precision="int8", images=12, held_out=4, parity=STRESS)
    child = run(config, two, data, tmp_path / "int8", assessed=False)
    assert [graph.precision for graph in child.manifest.graphs] == ["int8", "fp32"]
    assert child.graph_of("aggregator").read_bytes() == two.graph_of("aggregator").read_bytes()
    assert child.graph_of("encoder").stat().st_size < 0.5 * two.graph_of("encoder").stat().st_size
    assert child.manifest.preprocess == two.manifest.preprocess
    assert child.manifest.metrics["quantization"]["held_out"]["n"] == 4  # judged by the logits of images, not by features
    notes = child.manifest.notes
    assert "the aggregator is in fp32: it sees an image once" in notes
    assert "4 MatMul left in float: residual front-end" in notes
    assert not [note for note in notes if "last linear layer" in note]
    # Patch embedding, four layers of the block, two of its projector, two each of the summary's and the image's.
    quantized = [node for node in onnx.load(child.graph_of("encoder")).graph.node if node.name in dequantized_readers(child)]
    assert len(quantized) == 1 + 4 + 2 + 2 + 2


def dequantized_readers(artifact):
    """The names of the layers whose data and whose weights come from a DequantizeLinear."""
    graph = onnx.load(artifact.graph_of("encoder")).graph
    given = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    return {node.name for node in layers if {node.input[0], node.input[1]} <= given}


@pytest.mark.slow
@pytest.mark.skipif(not compiler.available(), reason="TensorRT-RTX is not installed")
def test_both_graphs_compile_for_the_rtx_3090(two, data, tmp_path):
    config = ExportConfig(target="rtx-3090", precision="int8", patches=True, ranges="minmax", images=4, parity=STRESS)
    child = run(config, two, data, tmp_path / "rtx", assessed=False)
    metrics = child.manifest.metrics
    assert (metrics["compiled"]["int8_convolutions"], metrics["compiled"]["convolutions"]) == (1, 1)
    assert metrics["compiled"]["int8_products"] == 4 + 2  # the summary has one row a block, and here is one block
    assert metrics["compiled"]["kernels_in"]["Half"] > 0  # the transformer around the INT8
    assert metrics["compiled_aggregator"]["kernels"] > 0
    assert not [note for note in child.manifest.notes if note.startswith("lint")]


def test_one_graph_cannot_become_two(checkpoint, two, tmp_path):
    one = Artifact(two.path, msgspec.structs.replace(two.manifest, graphs=()), two.digest)
    with pytest.raises(ArtifactError, match="is one graph for whole images: make two of its checkpoint"):
        run(ExportConfig(target="cpu-x86", patches=True), one, None, tmp_path / "two")


def test_images_of_any_size_need_two_graphs(tmp_path):
    native = patchwise.whole_images(PREPROCESS, SIDE)
    checkpoint = untrained(tmp_path / "spai", SPEC, native, golden=2)  # photographs of one size
    with pytest.raises(ExportError, match="takes images of any size, one graph takes those of one: add patches=true"):
        run(ExportConfig(target="cpu-x86"), checkpoint, None, tmp_path / "one")


def test_a_network_of_whole_images_has_no_two_graphs(tmp_path):
    spec, preprocess = DetectorSpec(name="edge32"), models.lookup("edge32").preprocess
    checkpoint = untrained(tmp_path / "edge32", spec, preprocess, golden=2)
    with pytest.raises(ModelError, match="reads whole images, not patches"):
        run(ExportConfig(target="cpu-x86", patches=True), checkpoint, None, tmp_path / "two")


def test_a_graph_that_is_not_its_part_is_refused(network, checkpoint, two, monkeypatch):
    encoder, aggregator = (onnx.load(two.graph_of(role)) for role in ("encoder", "aggregator"))
    shift = next(tensor for tensor in encoder.graph.initializer if tensor.name.endswith("encoder.image.out.bias"))
    shift.CopyFrom(onnx.numpy_helper.from_array(np.arange(32, dtype=np.float32), shift.name))
    monkeypatch.setattr(patchwise, "export_patchwise", lambda *args, **more: (encoder, aggregator))
    with pytest.raises(ParityError, match=r"the graph of the encoder is .+ from the network's at scale"):
        patchwise.export(network, checkpoint, checkpoint.golden.pixels, 20)


def test_graphs_are_loaded_as_they_were_written(two):
    found = Graphs.load(two)
    assert found.patch == SIDE
    assert list(found.by_role) == ["encoder", "aggregator"]
    assert found.described("fp32", _Target()) == two.manifest.graphs


class _Target:
    name = "cpu-x86"
