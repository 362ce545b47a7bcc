"""Archives are unpacked once, and nothing in them reaches outside; `open_data` takes whatever `--data` may be."""

from __future__ import annotations

import io
import logging
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgedet.data import archive as archives
from edgedet.data.archive import open_data, scan_data, unpack
from edgedet.errors import DataError


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4), value).save(file, "PNG")
    return file.getvalue()


FILES = {"train/real/a.png": png(1), "train/fake/b.png": png(2), "test/real/c.png": png(3), "test/fake/d.png": png(4)}


def pack(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, data in files.items():
                zipped.writestr(name, data)
        return path
    with tarfile.open(path, {"gz": "w:gz", "xz": "w:xz", "z2": "w:bz2"}.get(path.name[-2:], "w")) as packed:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["set.tar", "set.tar.gz", "set.tar.xz", "SET.ZIP"])
def test_an_archive_is_the_folder_it_holds(tmp_path: Path, name: str) -> None:
    index = open_data(pack(tmp_path / name, FILES), cache=tmp_path / "cache", shares={})
    assert {(row.path, row.label, row.split) for row in index.rows} == {
        ("train/real/a.png", 0, "train"), ("train/fake/b.png", 1, "train"),
        ("test/real/c.png", 0, "test"), ("test/fake/d.png", 1, "test"),
    }  # fmt: skip
    assert {index.read(position) for position in range(4)} == set(FILES.values())


def test_it_is_unpacked_once_wherever_it_lies(tmp_path: Path) -> None:
    archive = pack(tmp_path / "set.tar", FILES)
    first = unpack(archive, tmp_path / "cache")
    (first / "mark").touch()
    moved = archive.rename(tmp_path / "other.tar")
    assert unpack(moved, tmp_path / "cache") == first
    assert (first / "mark").exists()


def test_a_folder_on_top_and_a_table_in_it(tmp_path: Path) -> None:
    table = b"path,label,generator\nx/a.png,0,phone\nx/b.png,1,flux\n"
    archive = pack(tmp_path / "set.tar", {"set/manifest.csv": table, "set/x/a.png": png(1), "set/x/b.png": png(2)})
    assert sorted(row.generator for row in open_data(archive, cache=tmp_path / "cache").rows) == ["flux", "phone"]


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "real/../../evil.png", "real\\..\\evil.png", "C:/evil.png"])
def test_nothing_is_written_outside(tmp_path: Path, kind: str, name: str) -> None:
    archive = pack(tmp_path / f"set.{kind}", {"real/a.png": png(1), name: png(2)})
    with pytest.raises(DataError, match="outside"):
        unpack(archive, tmp_path / "cache")
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {f"set.{kind}"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as packed:
        member = tarfile.TarInfo("real/a.png")
        member.type, member.linkname = kind, "/etc/passwd"
        packed.addfile(member)
    with pytest.raises(DataError, match=r"'real/a\.png' is a link or a device"):
        unpack(tmp_path / "set.tar", tmp_path / "cache")


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as zipped:
        info = zipfile.ZipInfo("real/a.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="is a link"):
        unpack(tmp_path / "set.zip", tmp_path / "cache")


@pytest.mark.parametrize("kind", ["tar.xz", "zip"])
def test_a_bomb_stops_before_it_fills_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(archives, "_LEAST_LIMIT", 100_000)
    archive = pack(tmp_path / f"set.{kind}", {"real/a.png": bytes(5_000_000)})
    with pytest.raises(DataError, match="more than 50 times its size"):
        unpack(archive, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["set.tar", "set.tar.gz", "set.tar.xz", "set.zip"])
def test_a_damaged_archive_is_one_clear_error(tmp_path: Path, name: str) -> None:
    archive = pack(tmp_path / name, {"real/a.png": png(1) * 50, "fake/b.png": bytes(range(256)) * 40})
    archive.write_bytes(archive.read_bytes()[:-1200] if name == "set.tar" else archive.read_bytes()[: -len(png(1))])
    if name == "set.tar":
        archive.write_bytes(archive.read_bytes()[:3000])
    with pytest.raises(DataError, match=r"set\.[a-z.]+: cannot be unpacked"):
        unpack(archive, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("archives/*"))


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_flipped_bit_is_never_taken_for_another_image_or_a_full_disk(tmp_path: Path, kind: str) -> None:
    """A compressed stream has its checksum behind what tar reads."""
    noise = np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    whole = pack(tmp_path / f"set.tar.{kind}", {"real/a.png": noise}).read_bytes()
    for position in range(100, len(whole) - 40, len(whole) // 12):
        damaged = bytearray(whole)
        damaged[position] ^= 16
        archive = tmp_path / f"{position}.tar.{kind}"
        archive.write_bytes(damaged)
        with pytest.raises(DataError, match=r"cannot be unpacked.*get it again"):
            unpack(archive, tmp_path / "cache")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_file_without_a_name_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match="outside"):
        unpack(pack(tmp_path / f"set.{kind}", {".": png(1)}), tmp_path / "cache")


def test_what_was_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = {"test/fake/e.png": png(2), "test/fake/f.png": b"no image"}
    archive = pack(tmp_path / "set.zip", {**FILES, **copy})
    with caplog.at_level(logging.WARNING):
        index = open_data(archive, cache=tmp_path / "cache")
    assert len(index) == 4
    assert "1 images left out, the first: test/fake/f.png: not an image" in caplog.text
    assert "also stand in an earlier split" in caplog.text
    result = scan_data(archive, cache=tmp_path / "cache")
    assert [leak.path for leak in result.leaks] == ["test/fake/e.png"]


def test_an_index_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = open_data(pack(tmp_path / "set.tar", FILES), cache=tmp_path / "cache")
    index.save(tmp_path / "index.csv")
    monkeypatch.setattr("edgedet.data.scan.facts_of", None)
    assert open_data(tmp_path / "index.csv") == index


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDET_CACHE", str(tmp_path / "elsewhere"))
    index = open_data(pack(tmp_path / "set.tar", FILES), shares={})
    assert (tmp_path / "elsewhere") in index.root.parents
