"""``edgedet estimate``."""

import json

from command import assert_one_line


def test_a_checkpoint_is_estimated_in_every_precision_that_the_device_takes(edgedet, demo):
    done = edgedet("estimate", demo.student, "--target", "rtx-3090", "--json", "-")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    kinds = ["latency, batch 1, fp32", "latency, batch 1, fp16", "latency, batch 1, int8", "throughput, amp"]
    assert list(said["estimates"]) == kinds
    assert all(each["kind"] == "estimated" and each["p90_error"] > 0 for each in said["estimates"].values())


def test_people_see_the_mark_the_error_and_what_weakens_it(edgedet, demo):
    done = edgedet("estimate", demo.int8, "--target", "jetson-orin-nano")
    assert done.code == 0, done.err
    assert "estimated, not measured" in " ".join(done.out.split())
    assert "ms‡" in done.out
    assert "latency, batch 1, int8: extrapolated" in done.out
    assert "throughput, amp: no throughputs to estimate from" in done.out


def test_a_device_without_rows_is_an_error_of_one_line(edgedet, demo):
    done = edgedet("estimate", demo.student, "--target", "jetson-agx-thor")
    assert done.code == 1
    assert_one_line(done.err, "no estimate for a dense network on Jetson AGX Thor", "measure on the device")
