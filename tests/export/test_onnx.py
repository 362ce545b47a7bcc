import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgedet.errors import ExportError  # noqa: E402
from edgedet.export.onnx import check, export_onnx  # noqa: E402
from edgedet.models.pixels import PixelModel  # noqa: E402
from edgedet.preprocess import Preprocess  # noqa: E402

PREPROCESS = Preprocess(height=16, width=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))


class Small(nn.Module):
    """Two convolutions with BatchNorm (with statistics that matter), pooling, one logit."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 1)
        for norm in (self.features[1], self.features[4]):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        return self.head(self.pool(self.features(x)).flatten(1))


@pytest.fixture(scope="module")
def module() -> PixelModel:
    torch.manual_seed(0)
    return PixelModel(Small(), PREPROCESS).eval()


@pytest.fixture(scope="module")
def exported(module: PixelModel) -> onnx.ModelProto:
    return export_onnx(module, PREPROCESS, opset=20, parent="a1b2")


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_the_graph_gives_the_networks_logits_at_any_batch_size(module: PixelModel, exported, batch: int) -> None:
    pixels = np.random.default_rng(batch).integers(0, 256, (batch, 16, 16, 3), dtype=np.uint8)
    session = ort.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"pixels": pixels})
    with torch.inference_mode():
        expected = module(torch.from_numpy(pixels)).numpy()
    assert logits.shape == (batch,)
    assert logits == pytest.approx(expected, abs=1e-5)


def test_the_interface_is_uint8_pixels_to_a_logit(exported: onnx.ModelProto) -> None:
    (source,), (output,) = exported.graph.input, exported.graph.output
    assert (source.name, output.name) == ("pixels", "logit")
    assert source.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [side.dim_param or side.dim_value for side in source.type.tensor_type.shape.dim] == ["batch", 16, 16, 3]
    assert [entry.version for entry in exported.opset_import] == [20]


def test_normalisation_is_inside_and_the_cast_comes_first(exported: onnx.ModelProto) -> None:
    kinds = [node.op_type for node in exported.graph.node]
    assert kinds[:4] == ["Cast", "Transpose", "Sub", "Mul"]
    assert "BatchNormalization" not in kinds


def test_a_global_pool_is_one_mean(exported: onnx.ModelProto, module: PixelModel) -> None:
    kinds = [node.op_type for node in exported.graph.node]
    assert kinds.count("ReduceMean") == 1
    assert not {"Shape", "Range", "Gather", "GatherND"} & set(kinds)
    assert isinstance(module.net.pool, nn.AdaptiveAvgPool2d)  # the network itself is left as it is


class TwoForms(nn.Module):
    """Told apart by the sign, where attention's two forms would be the same."""

    fused_attn = False

    def forward(self, x):
        return x.mean((1, 2, 3)) * (1 if self.fused_attn else -1)


def test_attention_of_timm_is_exported_in_pytorchs_own_form() -> None:
    net = TwoForms()
    graph = export_onnx(PixelModel(net, PREPROCESS), PREPROCESS, opset=20)
    white = np.full((2, 16, 16, 3), 255, np.uint8)
    (logits,) = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"pixels": white})
    assert logits.min() > 0
    assert not net.fused_attn  # the network itself is left as it is


def test_the_file_says_what_it_is_and_nothing_of_the_machine_that_made_it(exported: onnx.ModelProto) -> None:
    said = {entry.key: entry.value for entry in exported.metadata_props}
    assert said["edgedet.parent"] == "a1b2"
    assert said["edgedet.labels"] == "real,fake"
    assert json.loads(said["edgedet.preprocess"])["mean"] == [0.4, 0.5, 0.6]
    assert b".py" not in exported.SerializeToString()


def test_another_opset_than_asked_for_is_refused(exported: onnx.ModelProto) -> None:
    with pytest.raises(ExportError, match="asked for opset 17, the exporter wrote 20"):
        check(exported, opset=17)


def test_a_transpose_of_uint8_pixels_is_refused(exported: onnx.ModelProto) -> None:
    wrong = onnx.ModelProto()
    wrong.CopyFrom(exported)
    wrong.graph.node[1].input[0] = "pixels"
    with pytest.raises(ExportError, match="transposes uint8 pixels, which TensorRT refuses"):
        check(wrong, opset=20)


def test_an_unfolded_batchnorm_is_refused(exported: onnx.ModelProto) -> None:
    wrong = onnx.ModelProto()
    wrong.CopyFrom(exported)
    position = next(number for number, node in enumerate(wrong.graph.node) if node.op_type == "Relu")
    node = wrong.graph.node[position]
    node.op_type = "BatchNormalization"
    node.input.extend([wrong.graph.node[position - 1].input[2]] * 4)
    with pytest.raises(ExportError, match="was not folded"):
        check(wrong, opset=20)


class Tapped(Small):
    """Something else reads the first convolution, without its norm."""

    def forward(self, x):
        first = self.features[0](x)
        return self.head(self.features[1:](first).mean((2, 3)) + first.mean((2, 3)))


def test_a_norm_stays_apart_where_its_convolution_is_read_without_it() -> None:
    module = PixelModel(Tapped(), PREPROCESS).eval()
    model = export_onnx(module, PREPROCESS, opset=20)
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == 1
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        assert session.run(None, {"pixels": pixels})[0] == pytest.approx(module(torch.from_numpy(pixels)).numpy(), abs=1e-5)


def test_a_network_that_cannot_be_captured_is_refused_with_the_reason() -> None:
    class Branching(nn.Module):
        def forward(self, pixels):
            return pixels.float().mean((1, 2, 3)) if pixels.sum().item() > 3 else pixels.float().amax((1, 2, 3))

    with pytest.raises(ExportError, match="torch cannot capture this network"):
        export_onnx(Branching(), PREPROCESS, opset=20)


class WithFrontEnd(nn.Module):
    """A front-end that subtracts a fixed blur."""

    def __init__(self) -> None:
        super().__init__()
        self.front_end = nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False)
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))


def test_the_nodes_of_a_front_end_say_so_in_their_names() -> None:
    torch.manual_seed(0)
    model = export_onnx(PixelModel(WithFrontEnd(), PREPROCESS), PREPROCESS, opset=20)
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    assert [name.startswith("front_end/") for name in convolutions] == [True, False]
