"""A Q/DQ graph as a torch module: it gives what the runtime gives, learns, and is written back."""

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from edgedet import models
from edgedet import target as targets
from edgedet.artifact import DetectorSpec
from edgedet.compress.graph_module import GraphModule
from edgedet.errors import QuantizeError
from edgedet.export.onnx import export_onnx
from edgedet.models.pixels import PixelModel
from edgedet.quantize.model import Quantized, quantize
from edgedet.quantize.search import QuantizeOptions

WITHOUT_TRIALS = QuantizeOptions(ranges="mse", bias_correction=False)
CLOSE = 0.05  # of logits: what training promises its export


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 32)[None, :, None, None] * random.uniform(0.2, 1, (24, 1, 32, 3))
    return np.clip(ramp + random.normal(0, 25, (24, 32, 32, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=["cpu-x86", "jetson-orin-nano"])
def quantized(request, pixels) -> Quantized:
    torch.manual_seed(0)
    preprocess = models.lookup("edge32-teacher").preprocess
    net = PixelModel(models.create(DetectorSpec(name="edge32-teacher", arguments={"width": 16})), preprocess)
    with torch.no_grad():
        for _ in range(20):
            net.train()(torch.from_numpy(pixels))
    target = targets.resolve(request.param)
    return quantize(export_onnx(net.eval(), preprocess, opset=target.opset), target, lambda: [pixels], WITHOUT_TRIALS)


def module_of(found: Quantized, **options: bool) -> GraphModule:
    return GraphModule(found.model, found.floats, weight_bits=found.weight_bits, **options)


def run(model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"pixels": pixels})[0]


def test_it_gives_the_runtimes_logits(quantized, pixels):
    with torch.inference_mode():
        ours = module_of(quantized)(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(ours, run(quantized.model, pixels), atol=CLOSE)


def test_written_before_training_it_is_the_graph_that_it_was_made_of(quantized, pixels):
    written = module_of(quantized).write(quantized.model)
    np.testing.assert_allclose(run(written, pixels), run(quantized.model, pixels), atol=1e-6)


@pytest.mark.parametrize("learn_scales", [False, True])
def test_what_it_learns_is_written_into_the_graph(quantized, pixels, learn_scales):
    module = module_of(quantized, learn_scales=learn_scales)
    batch, wanted = torch.from_numpy(pixels), torch.linspace(-1, 1, len(pixels))
    optimizer = torch.optim.Adam(module.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        loss = ((module(batch) - wanted) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with torch.inference_mode():
        learnt = module(batch).numpy()
    found = run(module.write(quantized.model), pixels)
    assert np.abs(found - run(quantized.model, pixels)).max() > 0.01
    np.testing.assert_allclose(found, learnt, atol=CLOSE)


def test_a_layer_without_a_bias_is_a_plain_product(pixels):
    torch.manual_seed(0)
    preprocess = models.lookup("spai-tiny").preprocess
    preprocess = msgspec.structs.replace(preprocess, height=32, width=32)
    spec = DetectorSpec(name="spai-tiny", arguments={"depth": 1, "side": 32, "radius": 8, "width": 32})
    net, target = PixelModel(models.create(spec), preprocess).eval(), targets.resolve("cpu-x86")
    found = quantize(export_onnx(net, preprocess, opset=target.opset), target, lambda: [pixels], WITHOUT_TRIALS)
    with torch.inference_mode():
        ours = module_of(found)(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(ours, run(found.model, pixels), atol=1e-3)


def test_an_unknown_operator_is_named():
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Det", ["pixels"], ["logit"], name="odd")],
        "net",
        [onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["batch", 2, 2])],
        [onnx.helper.make_tensor_value_info("logit", onnx.TensorProto.FLOAT, ["batch"])],
    )
    with pytest.raises(QuantizeError, match=r"odd.*Det|Det.*odd"):
        GraphModule(onnx.helper.make_model(graph))
