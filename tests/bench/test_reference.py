import pytest

from edgedet.bench import reference
from edgedet.errors import BenchError

FIGURES = "model,precision,layout,img_size,batch_size,samples_per_sec,gmacs,params_m,source"
SOURCES = "source,runtime,protocol,url,licence\nhere,PyTorch 2,ten runs,https://example.org/a.csv,MIT\n"
GOOD = "resnet50,amp,nhwc,224,1024,3729.86,4.11,25.56,here"


def read(tmp_path, *lines: str, header: str = FIGURES):
    (tmp_path / "figures.csv").write_text("\n".join([header, *lines]) + "\n")
    (tmp_path / "sources.csv").write_text(SOURCES)
    return reference.read(tmp_path / "figures.csv", tmp_path / "sources.csv", device="A Card")


def test_the_anchor_has_its_published_row():
    rows = reference.find("resnet50", 224)
    assert rows[0].samples_per_sec == 3729.86
    assert [row.samples_per_sec for row in rows] == sorted((row.samples_per_sec for row in rows), reverse=True)
    for row in rows:
        assert (row.kind, row.device, row.precision, row.model) == ("published", "NVIDIA GeForce RTX 3090", "amp", "resnet50")
        assert row.source.url.startswith("https://github.com/huggingface/pytorch-image-models/blob/")


@pytest.mark.parametrize(
    ("architecture", "size"),
    [("resnet18", 224), ("mobilenetv4_conv_small", 224), ("efficientnet_lite0", 224), ("vit_small_patch16_224", 224)],
)
def test_other_architectures_are_there_too(architecture, size):
    assert reference.find(architecture, size)


def test_what_was_not_published_is_an_empty_list():
    assert reference.find("edge32", 32) == []
    assert reference.find("resnet50", 223) == []
    assert reference.find("resnet50", 224, precision="int8") == []


def test_a_device_without_figures_is_refused_with_the_nearest():
    with pytest.raises(BenchError, match=r"no published figures for 'rtx-3080'; did you mean 'rtx-3090'\?"):
        reference.find("resnet50", 224, device="rtx-3080")


def test_a_good_row_carries_its_source(tmp_path):
    (row,) = read(tmp_path, GOOD)
    assert (row.device, row.img_size, row.params_m, row.source.licence) == ("A Card", 224, 25.56, "MIT")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD.replace("3729.86", "-1"), r"figures\.csv:3: .*> 0.*samples_per_sec"),
        (GOOD.replace("3729.86", "fast"), r"figures\.csv:3: .*float.*samples_per_sec"),
        (GOOD.replace("3729.86", "inf"), r"figures\.csv:3: .*samples_per_sec"),
        (GOOD.replace("3729.86", "nan"), r"figures\.csv:3: .*samples_per_sec"),
        (GOOD.replace("224", "224.5"), r"figures\.csv:3: .*int.*img_size"),
        (GOOD.replace("amp", "bf8"), r"figures\.csv:3: .*bf8.*precision"),
        (GOOD.replace("nhwc", "hwcn"), r"figures\.csv:3: .*hwcn.*layout"),
        (GOOD.replace("resnet50", ""), r"figures\.csv:3: .*model"),
        (GOOD + ",more", r"figures\.csv:3: expected 9 fields, got 10"),
        (GOOD.replace("here", "hre"), r"figures\.csv:3: source 'hre' is not in sources\.csv; did you mean 'here'\?"),
        (GOOD.replace("3729.86", "3000"), r"figures\.csv:3: the same measurement is there twice"),
    ],
)
def test_a_bad_row_is_refused_with_file_and_line(tmp_path, line, message):
    with pytest.raises(BenchError, match=message):
        read(tmp_path, GOOD, line)


def test_other_columns_are_refused(tmp_path):
    with pytest.raises(BenchError, match=r"expected the columns model, precision.*, got name"):
        read(tmp_path, header="name")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(BenchError, match=r"none\.csv: published figures cannot be read"):
        reference.read(tmp_path / "none.csv", tmp_path / "none.csv", device="A Card")


def test_every_detector_with_a_published_trunk_is_found():
    from edgedet.models import DETECTORS

    for detector, architecture in reference._ARCHITECTURES.items():
        assert detector in DETECTORS
        assert reference.architecture_of(detector) == architecture
        assert reference.find(architecture, 224), architecture
    assert reference.architecture_of("timm/resnet18") == "resnet18"
    assert reference.architecture_of("npr") is None
