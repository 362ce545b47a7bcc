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

CEILING = """
[[ceilings]]
figure = "bandwidth"
value = 10
unit = "GB/s"
kind = "published"
source = "hearsay"
"""


@pytest.mark.parametrize("name", recipe.names("export"))
def test_every_shipped_target_is_valid_and_named_by_its_file(name: str) -> None:
    assert target.load(name).name == name


def test_every_ceiling_says_who_stated_it_and_how_it_was_derived() -> None:
    ceilings = [(name, each) for name in recipe.names("export") for each in target.load(name).ceilings]
    assert {"rtx-3090", "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-agx-thor"} <= {n for n, _ in ceilings}
    for name, each in ceilings:
        unit = {"int8": "TOPS", "bandwidth": "GB/s"}.get(each.figure.split()[0], "TFLOPS")
        assert each.unit == unit, (name, each)
        assert len(each.source) > 10, (name, each)


def test_x86_takes_unsigned_asymmetric_activations() -> None:
    scheme = target.load("cpu-x86").int8
    assert scheme is not None
    assert (scheme.activations, scheme.symmetric, scheme.bias, scheme.residual) == ("uint8", False, "int32", "both")


def test_arm_takes_signed_symmetric_activations_and_an_int32_bias() -> None:
    found = target.load("cpu-arm")
    scheme = found.int8
    assert scheme is not None
    assert (scheme.activations, scheme.symmetric, scheme.per_channel) == ("int8", True, True)
    assert (scheme.bias, scheme.residual, found.runtime) == ("int32", "both", "onnxruntime")


@pytest.mark.parametrize(
    ("machine", "name"), [("x86_64", "cpu-x86"), ("AMD64", "cpu-x86"), ("aarch64", "cpu-arm"), ("arm64", "cpu-arm")]
)
def test_host_is_this_machine(machine: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert target.resolve("host").name == name
    assert target.resolve(name).is_this_machine


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "jetson-orin-nano"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "jetson-orin-nx"),
        ("NVIDIA Jetson AGX Orin Developer Kit", "jetson-agx-orin"),
        ("NVIDIA Jetson AGX Thor Developer Kit", "jetson-agx-thor"),
        ("Raspberry Pi 5 Model B Rev 1.0", "cpu-arm"),
    ],
)
def test_a_board_is_the_host_before_its_processor_is(model: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(target, "board_model", lambda: model)
    assert target.resolve("host").name == name


def test_the_board_is_read_from_the_device_tree(tmp_path: Path) -> None:
    tree = tmp_path / "model"
    tree.write_bytes(b"NVIDIA Jetson AGX Orin Developer Kit\0")
    assert target.board_model(tree) == "NVIDIA Jetson AGX Orin Developer Kit"
    assert target.board_model(tmp_path / "none") == ""


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
    assert set(found.tensorrt.values()) <= {"10.3", "10.13", "10.16", "11.4"}
    assert any(mode.startswith("MAXN") for mode in found.power_modes)
    assert all(system.python in ("3.10", "3.12") for system in found.systems.values())
    # The opset of the file is that of the system that it names.
    assert found.opset == found.systems[found.system].build.opset


@pytest.mark.parametrize("version", ["10.3", "10.3.0.30", "10.7", "10.11.0.33"])
def test_up_to_tensorrt_10_11_precision_is_given_by_flags(version: str) -> None:
    flags = target.build_flags(version)
    assert (flags.strongly_typed, flags.opset, flags.network) == (False, 18, ())
    assert flags.builder == {"fp16": ("FP16",), "int8": ("FP16", "INT8")}


@pytest.mark.parametrize(
    ("version", "network"), [("10.12", ("STRONGLY_TYPED",)), ("10.16.1.11", ("STRONGLY_TYPED",)), ("11.0", ()), ("11.4", ())]
)
def test_from_tensorrt_10_12_on_precision_is_in_the_graph(version: str, network: tuple[str, ...]) -> None:
    flags = target.build_flags(version)
    assert (flags.strongly_typed, flags.opset, flags.network, flags.builder) == (True, 20, network, {})


@pytest.mark.parametrize(
    ("version", "message"), [("8.5.2", "too old: edgedet builds with 10.3"), ("ten", "expected a TensorRT version like 10.3")]
)
def test_other_versions_are_refused(version: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        target.build_flags(version)


def test_a_device_under_another_release_takes_the_graph_of_that_tensorrt() -> None:
    usual, newer = target.resolve("jetson-orin-nano"), target.resolve("jetson-orin-nano@7.2")
    assert (usual.system, usual.opset, usual.strongly_typed) == ("JetPack 6.2", 18, False)
    assert (newer.system, newer.opset, newer.strongly_typed) == ("JetPack 7.2", 20, True)
    assert target.resolve("rtx-3090").strongly_typed
    assert not target.resolve("cpu-x86").strongly_typed


@pytest.mark.parametrize("name", ["jetson-orin-nano@8.0", "cpu-x86@6.2"])
def test_an_unknown_release_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match="has no release"):
        target.resolve(name)


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
    folder = tmp_path / "of@home"
    folder.mkdir()
    path = folder / "box.toml"
    path.write_text(MINIMAL.format(name="box"))
    assert target.resolve(str(path)).device == "a box"


def test_a_new_jetson_is_one_file_with_its_releases(tmp_path: Path) -> None:
    path = tmp_path / "jetson-orin-nano-4gb.toml"
    orin = recipe.find("export", "jetson-orin-nano").read_text(encoding="utf-8")
    path.write_text(orin.replace('"jetson-orin-nano"', '"jetson-orin-nano-4gb"').replace("memory_gb = 8", "memory_gb = 4"))
    found = target.resolve(f"{path}@7.2")
    assert (found.name, found.memory_gb, found.strongly_typed) == ("jetson-orin-nano-4gb", 4, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL.format(name="other"), "must be the file's own, 'box'"),
        (MINIMAL.format(name="box") + "speed = 3\n", "unknown key 'speed'"),
        (MINIMAL.format(name="box").replace('["fp32"]', '["fp32", "int8"]'), r"int8 exactly when there is an \[int8\] table"),
        (MINIMAL.format(name="box").replace("20", "13"), "opset"),
        (MINIMAL.format(name="box") + 'system = "JetPack 9"\n', r"`system` must be one of the \[systems\]"),
        (MINIMAL.format(name="box").replace("onnxruntime", "tensorrt"), r"says in \[systems\] which version"),
        (MINIMAL.format(name="box") + '[systems.old]\ntensorrt = "8.6"\n', r"systems.*too old: edgedet builds with 10\.3"),
        (MINIMAL.format(name="box") + CEILING.replace("published", "derived"), "a `derived` ceiling has a `formula`"),
        (MINIMAL.format(name="box") + CEILING.replace('"hearsay"', '""'), "source"),
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
