import onnx

from edgedet.quantize.front import PREFIX, front_end_nodes
from edgedet.quantize.graph import GraphView

PIXELS = {"float", "nchw", "centred", "x"}


def test_a_front_end_ends_before_the_first_layer(make_net) -> None:
    net = make_net()
    near = net.op("Gather", "x", net.constant([0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14]), name="near", axis=2)
    residual = net.op("Sub", "x", near, name="residual")
    model = net.finish(net.conv(residual, 3, 16, "stem"), 16)
    assert front_end_nodes(GraphView(model)) == PIXELS | {"near", "residual"}


def test_a_filter_bank_of_a_front_end_is_no_layer(make_net) -> None:
    net = make_net()
    bank = net.conv("x", 3, 3, f"{PREFIX}bank", relu=False)
    model = net.finish(net.conv(bank, 3, 16, "stem"), 16)
    assert front_end_nodes(GraphView(model)) == PIXELS | {f"{PREFIX}bank"}


def test_what_depends_on_the_number_of_images_only_computes_with_no_pixels(make_net) -> None:
    net = make_net()
    size = net.op("Shape", "x", name="size")
    net.op("Expand", net.constant([[[1.0]]]), size, name="token")
    stem = net.conv("x", 3, 3, "stem")
    model: onnx.ModelProto = net.finish(net.op("Add", stem, "token", name="with_token"), 3)
    assert front_end_nodes(GraphView(model)) == PIXELS
