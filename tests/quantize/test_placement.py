import numpy as np
import onnx
import pytest
from onnx import helper

from edgedet import target
from edgedet.quantize.gates import gate_nodes
from edgedet.quantize.graph import GraphView
from edgedet.quantize.placement import Plan, place
from edgedet.target import Scheme


@pytest.fixture
def x86() -> Scheme:
    scheme = target.load("cpu-x86").int8
    assert scheme is not None
    return scheme


def left(plan: Plan) -> dict[str, str]:
    return {each.node: each.reason for each in plan.left}


def test_a_residual_network_is_quantized_whole_but_for_its_head(residual_net: onnx.ModelProto, x86: Scheme) -> None:
    plan = place(GraphView(residual_net), x86)
    assert len(plan.weights) == 6
    assert left(plan) == {"head": "last linear layer"}
    # Behind an absorbed ReLU only its output has a scale; both inputs of each addition have one.
    assert set(plan.tensors) == {"stem", "one", "two", "shortcut", "block", "three", "four", "block2"}
    assert plan.readers["block"] == {"three_conv", "sum2"}
    assert plan.notes() == ("1 Gemm left in float: last linear layer",)


def test_gates_stay_in_float_and_the_additions_behind_them(make_net, x86: Scheme) -> None:
    net = make_net()
    stem = net.conv("x", 3, 16, "stem")
    gated = net.gate(net.conv(stem, 16, 16, "body", relu=False), 16, "gated")
    joined = net.op("Relu", net.op("Add", gated, stem, name="sum"), name="joined")
    view = GraphView(net.finish(net.conv(joined, 16, 16, "after"), 16))
    assert gate_nodes(view) >= {"gated_mean", "gated_reduce_conv", "gated_expand", "gated_sigmoid"}
    plan = place(view, x86)
    assert set(plan.weights) == {"stem_conv", "body", "after_conv"}
    assert left(plan) == {
        "gated_reduce_conv": "gate that multiplies features",
        "gated_expand": "gate that multiplies features",
        "head": "last linear layer",
    }
    assert "sum" not in plan.tensors
    assert plan.readers["joined"] == {"after_conv"}


def test_a_spatial_gate_times_a_channel_gate_is_a_gate(make_net, x86: Scheme) -> None:
    net = make_net()
    stem = net.conv("x", 3, 16, "stem")
    means = net.op("ReduceMean", stem, net.constant([1]), name="means", keepdims=1)
    peaks = net.op("ReduceMax", stem, net.constant([1]), name="peaks", keepdims=1)
    where = net.conv(net.op("Concat", means, peaks, name="both", axis=1), 2, 1, "where", kernel=7, relu=False)
    mean = net.op("GlobalAveragePool", stem, name="mean")
    which = net.conv(mean, 16, 16, "which", kernel=1, relu=False)
    product = net.op("Mul", net.op("Sigmoid", where, name="s1"), net.op("Sigmoid", which, name="s2"), name="product")
    view = GraphView(net.finish(net.op("Mul", stem, product, name="gated"), 16))
    assert gate_nodes(view) == {"means", "peaks", "both", "where", "mean", "which", "s1", "s2"}
    assert set(place(view, x86).weights) == {"stem_conv"}


def test_a_sum_of_the_sigmoids_of_means_and_of_maxima_is_a_gate(make_net, x86: Scheme) -> None:
    net = make_net()
    stem, sigmoids = net.conv("x", 3, 16, "stem"), []
    for pool in ("Mean", "Max"):
        reduced = net.op(f"Reduce{pool}", stem, net.constant([2, 3]), name=pool, keepdims=1)
        wide = net.conv(net.conv(reduced, 16, 4, f"{pool}_reduce", kernel=1), 4, 16, f"{pool}_expand", kernel=1, relu=False)
        sigmoids.append(net.op("Sigmoid", wide, name=f"{pool}_sigmoid"))
    gated = net.op("Mul", stem, net.op("Add", *sigmoids, name="sum"), name="gated")
    view = GraphView(net.finish(net.conv(gated, 16, 16, "after"), 16))
    found, parts = gate_nodes(view), ("", "_reduce_conv", "_expand", "_sigmoid")
    assert found >= {f"{pool}{part}" for pool in ("Mean", "Max") for part in parts}
    plan = place(view, x86)
    assert set(plan.weights) == {"stem_conv", "after_conv"}
    assert set(plan.tensors) == {"stem", "gated", "after"}


def test_a_silu_is_an_activation_and_no_gate(make_net, x86: Scheme) -> None:
    net = make_net()
    stem = net.conv("x", 3, 16, "stem", relu=False)
    silu = net.op("Mul", stem, net.op("Sigmoid", stem, name="sigmoid"), name="silu")
    view = GraphView(net.finish(net.conv(silu, 16, 16, "next"), 16))
    assert gate_nodes(view) == set()
    assert set(place(view, x86).weights) == {"stem", "next_conv"}


def test_a_residual_front_end_keeps_its_subtraction_in_float(make_net, x86: Scheme) -> None:
    net = make_net()
    shifted = net.op("Gather", "x", net.constant([0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14]), name="near", axis=2)
    residual = net.op("Sub", "x", shifted, name="residual")
    plan = place(GraphView(net.finish(net.conv(residual, 3, 16, "stem"), 16)), x86)
    assert set(plan.tensors) == {"residual", "stem"}
    assert plan.readers["residual"] == {"stem_conv"}
    assert not plan.pixels


def test_pooling_and_reshapes_take_the_range_of_their_input(make_net, x86: Scheme) -> None:
    net = make_net()
    pooled = net.op("MaxPool", net.conv("x", 3, 8, "stem"), name="max", kernel_shape=[4, 4], strides=[4, 4])
    flat = net.op("Flatten", pooled, name="flat")
    hidden = net.op("Relu", net.linear(flat, 128, 16, "hidden"), name="active")
    net.op("Reshape", net.linear(hidden, 16, 1, "head"), net.constant([-1]), name="logit")
    plan = place(GraphView(net.model("logit")), x86)
    assert plan.tensors["flat"] == "stem"
    assert "active" not in plan.observed or plan.tensors["active"] == "active"
    assert left(plan) == {"head": "last linear layer"}


def test_attention_without_constant_weights_stays_in_float(make_net, x86: Scheme) -> None:
    net = make_net()
    stem = net.conv("x", 3, 16, "stem", stride=2)
    tokens = net.op("Reshape", stem, net.constant([0, 16, 64]), name="tokens")
    scores = net.op("MatMul", tokens, net.op("Transpose", tokens, name="turned", perm=[0, 2, 1]), name="scores")
    mixed = net.op("MatMul", net.op("Softmax", scores, name="share", axis=-1), tokens, name="mixed")
    back = net.op("Reshape", mixed, net.constant([0, 16, 8, 8]), name="back")
    reasons = left(place(GraphView(net.finish(back, 16)), x86))
    assert reasons["scores"] == reasons["mixed"] == "no constant weights (attention, Gram matrices)"


def test_what_pools_a_sequence_stays_in_float(make_net, x86: Scheme, tensorrt: Scheme) -> None:
    net = make_net()
    flat = net.op("Reshape", net.conv("x", 3, 32, "stem", stride=2), net.constant([0, 32, 64]), name="flat")
    tokens = net.op("Transpose", flat, name="tokens", perm=[0, 2, 1])
    mixed = net.op("MatMul", tokens, net.constant(net.random.normal(0, 0.2, (32, 32))), name="mixed")
    product = net.op("MatMul", mixed, net.constant(net.random.normal(0, 0.2, (32, 1))), name="product")
    scores = net.op("Add", product, net.constant([0.1]), name="scores")
    shares = net.op("Transpose", net.op("Softmax", scores, name="share", axis=1), name="shares", perm=[0, 2, 1])
    pooled = net.op("Squeeze", net.op("MatMul", shares, mixed, name="pool"), net.constant([1]), name="pooled")
    net.op("Reshape", net.linear(pooled, 32, 1, "head"), net.constant([-1]), name="logit")
    view = GraphView(net.model("logit"))
    assert gate_nodes(view) == {"product"}
    for scheme in (x86, tensorrt):
        plan = place(view, scheme)
        assert set(plan.weights) == {"stem_conv", "mixed"}
        assert left(plan)["product"] == "gate that multiplies features"
        assert left(plan)["pool"] == "no constant weights (attention, Gram matrices)"


def test_a_gram_matrix_stays_in_float(make_net, x86: Scheme, tensorrt: Scheme) -> None:
    net = make_net()
    flat = net.op("Reshape", net.conv("x", 3, 32, "stem"), net.constant([0, 32, 256]), name="flat")
    scaled = net.op("Div", flat, net.constant(90.5), name="scaled")
    gram = net.op("MatMul", scaled, net.op("Transpose", scaled, name="turned", perm=[0, 2, 1]), name="gram")
    image = net.op("Unsqueeze", gram, net.constant([1]), name="image")
    view = GraphView(net.finish(net.conv(net.conv(image, 1, 16, "narrow", stride=2), 16, 32, "wide"), 32))
    for scheme in (x86, tensorrt):
        plan = place(view, scheme)
        assert set(plan.weights) == {"stem_conv", "narrow_conv", "wide_conv"}
        assert left(plan)["gram"] == "no constant weights (attention, Gram matrices)"
        assert not {"scaled", "turned", "gram"} & set(plan.tensors)


@pytest.mark.parametrize("target_name", ["cpu-x86", "rtx-3090"])
def test_of_a_transformer_block_the_linear_layers_alone_read_integers(make_net, target_name: str) -> None:
    scheme = target.load(target_name).int8
    assert scheme is not None
    net = make_net()
    width, tokens = 32, 64

    def linear(x: str, outputs: int, name: str) -> str:
        inputs = 4 * width if name == "shrink" else width
        weight = net.constant(net.random.normal(0, 0.1, (inputs, outputs)))
        return net.op("Add", net.op("MatMul", x, weight, name=name), net.constant(np.zeros(outputs)), name=f"{name}_biased")

    def normed(x: str, name: str) -> str:
        scale, shift = (net.constant(value * np.ones(width)) for value in (1.0, 0.0))
        return net.op("LayerNormalization", x, scale, shift, name=name, axis=-1)

    patches = net.conv("x", 3, width, "patches", kernel=1, stride=2, relu=False)
    flat = net.op("Reshape", patches, net.constant([0, width, tokens]), name="flat")
    x = net.op("Transpose", flat, name="tokens", perm=[0, 2, 1])
    first = normed(x, "norm1")
    q, k, v = (linear(first, width, name) for name in ("query", "key", "value"))
    scores = net.op("MatMul", q, net.op("Transpose", k, name="turned", perm=[0, 2, 1]), name="scores")
    mixed = net.op("MatMul", net.op("Softmax", scores, name="share", axis=-1), v, name="mixed")
    x = net.op("Add", x, linear(mixed, width, "project"), name="attended")
    hidden = net.op("Gelu", linear(normed(x, "norm2"), 4 * width, "grow"), name="gelu")
    x = net.op("Add", x, linear(hidden, width, "shrink"), name="out")
    back = net.op("Reshape", net.op("Transpose", x, name="back", perm=[0, 2, 1]), net.constant([0, width, 8, 8]), name="map")
    plan = place(GraphView(net.finish(back, width)), scheme)
    layers = {"query": "norm1", "key": "norm1", "value": "norm1", "project": "mixed", "grow": "norm2", "shrink": "gelu"}
    assert set(plan.weights) == {"patches", *layers}
    assert {tensor: readers & layers.keys() for tensor, readers in plan.readers.items() if readers & layers.keys()} == {
        tensor: {layer for layer, reads in layers.items() if reads == tensor} for tensor in layers.values()
    }
    # Scores, shares, biases, norms and sums have no scale.
    assert set(plan.tensors) <= {"x", "patches", *layers.values()}
    reasons = left(plan)
    assert reasons.pop("head") == "last linear layer"
    assert reasons == dict.fromkeys(("scores", "mixed"), "no constant weights (attention, Gram matrices)")


def test_a_scheme_can_leave_narrow_convolutions_but_not_the_first(make_net) -> None:
    signed = {"activations": "int8", "symmetric": True, "bias": "float", "residual": "both", "outputs": True}
    scheme = Scheme(**signed, ops=("Conv",), min_channels=16)
    net = make_net()
    narrow = net.conv(net.conv("x", 3, 8, "stem"), 8, 8, "narrow")
    plan = place(GraphView(net.finish(net.conv(net.conv(narrow, 8, 32, "wider"), 32, 32, "wide"), 32)), scheme)
    assert set(plan.weights) == {"stem_conv", "wider_conv", "wide_conv"}
    assert left(plan)["narrow_conv"] == "fewer than 16 channels"
    assert left(plan)["head"] == "the target has no INT8 kernel for it"


@pytest.fixture
def tensorrt() -> Scheme:
    scheme = target.load("rtx-3090").int8
    assert scheme is not None
    return scheme


def test_only_the_shortcut_of_a_residual_addition_is_quantized(residual_net: onnx.ModelProto, tensorrt: Scheme) -> None:
    plan = place(GraphView(residual_net), tensorrt)
    assert len(plan.weights) == 6
    # The convolution's side of each addition stays in float: it fuses with the addition.
    assert set(plan.tensors) == {"x", "stem", "one", "shortcut", "block", "three"}
    assert plan.readers["shortcut"] == {"sum"}
    assert plan.readers["block"] == {"three_conv", "sum2"}


def test_no_shortcut_is_quantized_for_an_addition_behind_a_gate(make_net, tensorrt: Scheme) -> None:
    net = make_net()
    stem = net.conv("x", 3, 16, "stem")
    gated = net.gate(net.conv(stem, 16, 16, "body", relu=False), 16, "gated")
    joined = net.op("Relu", net.op("Add", gated, stem, name="sum"), name="joined")
    plan = place(GraphView(net.finish(net.conv(joined, 16, 16, "after"), 16)), tensorrt)
    assert plan.readers == {"x": {"stem_conv"}, "stem": {"body"}, "joined": {"after_conv"}}


def test_a_node_that_is_kept_in_float_takes_its_addition_along(residual_net: onnx.ModelProto, x86: Scheme) -> None:
    plan = place(GraphView(residual_net), x86, keep={"shortcut"})
    assert set(plan.weights) == {"stem_conv", "one_conv", "two", "three_conv", "four"}
    assert left(plan)["shortcut"] == "INT8 would cost too much there (mixed precision)"
    # The first addition has a float input now, and the second one its result: both stay in float.
    assert plan.readers["two"] == {"sum"}
    assert plan.readers["block"] == {"three_conv"}
    assert "block2" not in plan.tensors


def test_nothing_is_quantized_that_was_not_without_anything_kept(
    residual_net: onnx.ModelProto, x86: Scheme, tensorrt: Scheme
) -> None:
    view = GraphView(residual_net)
    for scheme in (x86, tensorrt):
        whole = place(view, scheme)
        for node in whole.weights:
            assert set(place(view, scheme, keep={node}).tensors) <= set(whole.tensors)
        assert not place(view, scheme, keep=whole.weights).tensors


def test_the_fused_side_of_an_addition_is_a_convolution_even_with_fewer_layers_before_it(make_net, tensorrt: Scheme) -> None:
    """Xception: the branch ends in a pool, the shortcut in a convolution."""
    net = make_net()
    stem = net.conv("x", 3, 16, "stem")
    branch = net.conv(net.conv(stem, 16, 32, "one"), 32, 32, "two", relu=False)
    pooled = net.op("MaxPool", branch, name="pooled_branch", kernel_shape=[2, 2], strides=[2, 2])
    shortcut = net.conv(stem, 16, 32, "shortcut", kernel=1, stride=2, relu=False)
    joined = net.op("Add", pooled, shortcut, name="sum")
    plan = place(GraphView(net.finish(joined, 32)), tensorrt)
    assert plan.readers["pooled_branch"] == {"sum"}
    assert "shortcut" not in plan.tensors


@pytest.mark.parametrize(("channels", "kernel", "kept"), [(32, 3, False), (32, 1, True), (20, 3, True)])
def test_depthwise_convolutions_are_quantized_where_there_is_a_kernel(
    channels: int, kernel: int, kept: bool, make_net, tensorrt: Scheme
) -> None:
    net = make_net()
    stem = net.conv("x", 3, channels, "stem")
    deep = net.conv(stem, 1, channels, "deep", kernel=kernel)
    next(node for node in net.nodes if node.name == "deep_conv").attribute.append(helper.make_attribute("group", channels))
    reasons = left(place(GraphView(net.finish(deep, channels)), tensorrt))
    assert reasons.get("deep_conv") == ("fewer than 16 channels" if kept else None)


def test_a_product_with_one_row_an_image_stays_in_float(make_net, tensorrt: Scheme) -> None:
    net = make_net()
    stem = net.conv("x", 3, 32, "stem")
    tokens = net.op("Reshape", stem, net.constant([0, 32, 256]), name="tokens")
    weights = [net.constant(net.random.normal(0, 0.1, shape)) for shape in ((256, 64), (256, 8), (256, 64))]
    net.op("MatMul", tokens, weights[0], name="many")
    net.op("MatMul", tokens, weights[1], name="thin")
    net.op("MatMul", net.op("ReduceMean", tokens, net.constant([1]), name="one", keepdims=0), weights[2], name="single")
    for name in ("many", "thin", "single"):
        net.op("ReduceMax", name, name=f"{name}_max", keepdims=0)
    first = net.op("Add", net.op("Add", "many_max", "thin_max", name="both"), "single_max", name="all")
    reasons = left(place(GraphView(net.finish(net.op("Add", stem, first, name="stem2"), 32)), tensorrt))
    assert "many" not in reasons
    assert reasons["thin"] == "fewer than 16 channels"
    assert reasons["single"] == "one row an image (GEMV)"


def test_the_filters_of_a_front_end_stay_in_float(make_net, tensorrt: Scheme) -> None:
    net = make_net()
    bank = net.conv("x", 3, 16, "front_end/bank", relu=False)
    reasons = left(place(GraphView(net.finish(net.conv(bank, 16, 16, "stem"), 16)), tensorrt))
    assert reasons["front_end/bank"] == "residual front-end"


def test_features_are_no_logit_so_no_layer_is_the_last(make_net, x86: Scheme) -> None:
    net = make_net()
    pooled = net.pool(net.conv("x", 3, 16, "stem"))
    column = net.linear(net.linear(pooled, 16, 16, "hidden"), 16, 24, "out")
    plan = place(GraphView(net.model(net.op("Reshape", column, net.constant([-1]), name="features"))), x86)
    assert set(plan.weights) == {"stem_conv", "hidden", "out"}
    assert left(plan) == {}


def test_hard_swish_is_left_whole(make_net, tensorrt: Scheme) -> None:
    net = make_net()
    stem = net.conv("x", 3, 16, "stem", relu=False)
    swish = net.op("Mul", stem, net.op("HardSigmoid", stem, name="hard"), name="swish")
    plan = place(GraphView(net.finish(net.conv(swish, 16, 16, "next"), 16)), tensorrt)
    assert set(plan.tensors) == {"x", "swish"}
