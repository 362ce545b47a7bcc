import platform
from pathlib import Path

import pytest

from edgedet import recipe, target
from edgedet.errors import RecipeError, RecipeNotFound

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
