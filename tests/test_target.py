import platform
from pathlib import Path

import pytest

from edgedet import recipe, target
from edgedet.errors import ExportError, RecipeError, RecipeNotFound

MINIMAL = """
name = "{name}"
device = "a box"
runtime = "onnxruntime"
opset = 20
precisions = ["fp32"]
"""


@pytest.mark.parametrize("name", recipe.names("export"))
def test_every_shipped_target_is_valid_and_named_by_its_file(name: str) -> None:
    assert target.load(name).name == name


def test_x86_takes_unsigned_asymmetric_activations() -> None:
    scheme = target.load("cpu-x86").int8
    assert scheme is not None
    assert (scheme.activations, scheme.symmetric, scheme.bias, scheme.residual) == ("uint8", False, "int32", "both")


@pytest.mark.parametrize("machine", ["x86_64", "AMD64"])
def test_host_is_this_machine(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert target.resolve("host").name == "cpu-x86"
    assert target.resolve("cpu-x86").is_this_machine


def test_a_machine_that_no_target_describes_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    with pytest.raises(RecipeNotFound, match=r"no target describes this machine \(s390x\): give one with --target"):
        target.resolve("host")


NVIDIA = ["rtx-3090", "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-agx-thor"]


@pytest.mark.parametrize("name", NVIDIA)
def test_tensorrt_takes_symmetric_int8_and_no_quantized_bias(name: str) -> None:
    found = target.resolve(name)
    assert found.int8 is not None
    assert (found.runtime, found.compiles_for, found.is_this_machine) == ("tensorrt", "86", False)
    assert (found.int8.activations, found.int8.symmetric, found.int8.bias) == ("int8", True, "float")
    assert (found.int8.residual, found.int8.outputs, found.int8.min_channels) == ("shortcut", False, 16)


@pytest.mark.parametrize("name", [name for name in NVIDIA if "jetson" in name])
def test_jetsons_name_their_tensorrt_and_power_modes(name: str) -> None:
    found = target.load(name)
    # FP32 around the INT8 at opset 18 is the one form documented for TensorRT 10.3 and 11 both.
    assert found.opset == 18
    assert set(found.tensorrt.values()) <= {"10.3", "10.13", "10.16", "11.4"}
    assert any(mode.startswith("MAXN") for mode in found.power_modes)


@pytest.mark.parametrize(
    ("name", "reason"), [("jetson-nano", "Maxwell has no INT8 kernels"), ("jetson-xavier-nx", "its last JetPack is 5")]
)
def test_devices_that_are_too_old_are_listed_and_refused_with_the_reason(name: str, reason: str) -> None:
    assert name in recipe.names("export")
    with pytest.raises(ExportError, match=f"is no target: {reason}"):
        target.resolve(name)


def test_an_unknown_target_has_a_hint() -> None:
    with pytest.raises(RecipeNotFound, match="did you mean 'cpu-x86'"):
        target.resolve("cpu-x68")


def test_a_new_device_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "box.toml"
    path.write_text(MINIMAL.format(name="box"))
    assert target.resolve(str(path)).device == "a box"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL.format(name="other"), "must be the file's own, 'box'"),
        (MINIMAL.format(name="box") + "speed = 3\n", "unknown key 'speed'"),
        (MINIMAL.format(name="box").replace('["fp32"]', '["fp32", "int8"]'), r"int8 exactly when there is an \[int8\] table"),
        (MINIMAL.format(name="box").replace("20", "13"), "opset"),
    ],
)
def test_a_wrong_target_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "box.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        target.load(str(path))


def test_unsigned_activations_cannot_be_symmetric() -> None:
    with pytest.raises(RecipeError, match="must be `int8`"):
        recipe.load("export", "cpu-x86", target.Target, ["int8.symmetric=true"])


@pytest.mark.parametrize(("flags", "expected"), [("sse avx512_vnni", True), ("avx2 avx_vnni", True), ("avx2 avx512f", False)])
def test_vnni_is_read_from_the_cpu_flags(flags: str, expected: bool, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags\t\t: fpu {flags}\n")
    assert target.has_vnni(cpuinfo) is expected
    assert not target.has_vnni(tmp_path / "missing")
