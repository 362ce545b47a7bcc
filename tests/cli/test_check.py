"""``edgedet lint``: a graph against TensorRT's rules."""

import json

from command import assert_one_line


def test_a_full_precision_graph_of_ours_breaks_no_rule(edgedet, demo):
    done = edgedet("lint", demo.fp32 / "model.onnx", "--target", "rtx-3090")
    assert done.code == 0, done.err
    assert "0 errors" in done.out


def test_a_graph_quantized_for_another_device_is_refused_rule_by_rule(edgedet, demo):
    """x86 takes int32 biases and unsigned activations, TensorRT takes neither."""
    done = edgedet("lint", demo.int8 / "model.onnx", "--json", "-")
    assert done.code == 1
    findings = json.loads(done.out)["findings"]
    errors = [each for each in findings if each["level"] == "error"]
    assert "int32-bias" in {each["rule"] for each in errors}
    assert all(each["node"] and each["why"] and each["mend"] for each in errors)


def test_bad_requests_are_one_line(edgedet, demo, tmp_path):
    (tmp_path / "text.onnx").write_text("no graph")
    for arguments, words in (
        ((tmp_path / "text.onnx",), "cannot be read as ONNX"),
        ((demo.fp32 / "model.onnx", "--target", "rtx-3080"), "did you mean 'rtx-3090'?"),
        ((demo.fp32 / "model.onnx", "--target", "cpu-x86"), "cpu-x86"),
    ):
        done = edgedet("lint", *arguments)
        assert done.code == 1
        assert_one_line(done.err, words)
