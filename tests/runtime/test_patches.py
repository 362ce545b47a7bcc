"""An encoder and an aggregator as one runtime, on graphs whose logit can be worked out by hand."""

import numpy as np
import pytest
from PIL import Image

onnx = pytest.importorskip("onnx")

from edgedet import artifact as artifacts  # noqa: E402
from edgedet.artifact import Artifact, DetectorSpec, Graph, Manifest  # noqa: E402
from edgedet.errors import ArtifactError, ImageError, RuntimeUnavailable  # noqa: E402
from edgedet.patches import windows  # noqa: E402
from edgedet.preprocess import Preprocess  # noqa: E402
from edgedet.runtime import base  # noqa: E402
from edgedet.runtime.detector import Detector  # noqa: E402

SIDE = 8
FLOAT, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8


def graph(path, nodes, takes, gives, **constants):
    """Write a graph; `takes` and `gives` are (name, type, shape)."""
    values = [onnx.numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    made = onnx.helper.make_graph(
        [onnx.helper.make_node(kind, inputs, outputs, **more) for kind, inputs, outputs, more in nodes],
        "tiny",
        [onnx.helper.make_tensor_value_info(*takes)],
        [onnx.helper.make_tensor_value_info(*gives)],
        values,
    )
    onnx.save(onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10), path)


def encoder(path, gives="features"):
    """Each patch's mean red, green and blue."""
    graph(
        path,
        [
            ("Cast", ["pixels"], ["float"], {"to": FLOAT}),
            ("ReduceMean", ["float", "axes"], [gives], {"keepdims": 0}),
        ],
        ("pixels", UINT8, ["patches", SIDE, SIDE, 3]),
        (gives, FLOAT, ["patches", 3]),
        axes=[1, 2],
    )


def aggregator(path):
    """The largest mean red of all patches."""
    graph(
        path,
        [
            ("ReduceMax", ["features", "patches"], ["most"], {"keepdims": 0}),
            ("Slice", ["most", "zero", "one", "one"], ["red"], {}),
            ("Squeeze", ["red", "one"], ["logit"], {}),
        ],
        ("features", FLOAT, [1, "patches", 3]),
        ("logit", FLOAT, [1]),
        patches=[1],
        zero=[0],
        one=[1],
    )


@pytest.fixture
def make(tmp_path):
    def made(name="two", *, gives="features", roles=("encoder", "aggregator")) -> Artifact:
        with artifacts.writing(tmp_path / name) as draft:
            encoder(draft.path / "encoder.onnx", gives)
            aggregator(draft.path / "aggregator.onnx")
            files = ("encoder.onnx", "aggregator.onnx")
            shapes = ({"pixels": ["patches", SIDE, SIDE, 3]}, {"features": [1, "patches", 3]})
            draft.manifest = Manifest(
                kind="onnx",
                stage="export",
                detector=DetectorSpec(name="tiny"),
                preprocess=Preprocess(geometry="native", patch=SIDE, fill="pad"),
                graphs=tuple(
                    Graph(file=file, role=role, inputs=inputs, outputs=["?"])
                    for file, role, inputs in zip(files, roles, shapes, strict=True)
                ),
            )
        return Artifact.load(tmp_path / name)

    return made


def by_hand(image):
    """The logit that the two graphs must give of one image (H, W, 3)."""
    patches = [image[top : top + SIDE, left : left + SIDE] for top, left in windows(*image.shape[:2], SIDE)]
    return max(patch[..., 0].mean() for patch in patches)


@pytest.mark.parametrize("batch", [1, 2, 7, 16])
@pytest.mark.parametrize("size", [(16, 16), (8, 8), (50, 41), (9, 12)])
def test_every_image_has_the_logit_of_its_own_patches(make, batch, size):
    pixels = np.random.default_rng(batch).integers(0, 256, (batch, *size, 3), dtype=np.uint8)
    runtime = base.load(make(), threads=1)
    logits = runtime.run(pixels)["logit"]
    assert logits.shape == (batch,)
    np.testing.assert_allclose(logits, [by_hand(image) for image in pixels], rtol=1e-5)
    about = runtime.describe()
    assert (about["runtime"], about["patch"], about["patches_at_once"]) == ("onnxruntime", SIDE, 16)
    runtime.close()


def test_a_detector_takes_images_of_all_sizes_and_fills_up_small_ones(make, tmp_path):
    rng, paths, expected = np.random.default_rng(0), [], []
    for number, size in enumerate([(16, 24), (16, 24), (8, 30), (5, 9), (3, 40)]):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        paths.append(tmp_path / f"{number}.png")
        missing = max(0, SIDE - size[0])
        filled = np.pad(pixels, ((missing // 2, missing - missing // 2), (0, 0), (0, 0)), mode="symmetric")
        expected.append(by_hand(filled))
    with Detector.load(make(), threads=1) as detector:
        found = [prediction.logit for prediction in detector.predict(paths)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_pixels_smaller_than_a_patch_are_refused(make):
    with pytest.raises(ImageError, match="an image of 20x7 is smaller than a patch of 8x8"):
        base.load(make(), threads=1).run(np.zeros((1, 7, 20, 3), np.uint8))


def test_an_encoder_that_gives_something_else_is_refused(make):
    with pytest.raises(ArtifactError, match=r"encoder.onnx: expected `features`, float \(patches, features\)"):
        base.load(make(gives="logit"), threads=1)


def test_two_graphs_that_are_no_encoder_and_aggregator_are_refused(make):
    with pytest.raises(RuntimeUnavailable, match="has 2 graphs, this runtime runs one, or an encoder and an aggregator"):
        base.load(make(roles=("whole", "aggregator")), threads=1)


def test_it_has_no_one_graph(make):
    artifact = make()
    assert artifact.is_patchwise
    with pytest.raises(ArtifactError, match="its graphs are aggregator and encoder, expected whole"):
        _ = artifact.graph
    assert artifact.graph_of("aggregator").name == "aggregator.onnx"
    assert artifact.model_bytes == sum(artifact.file(name).stat().st_size for name in ("encoder.onnx", "aggregator.onnx"))
