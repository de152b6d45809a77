"""The files of a download, in folders and archives; what archives must not be able to do."""

import stat
import zipfile
from pathlib import Path

import pytest

from anomaly_detection.data.formats import sources
from anomaly_detection.data.formats.sources import list_inputs, list_source, unique_names
from anomaly_detection.system.errors import UserError


@pytest.fixture
def download(tmp_path):
    root = tmp_path / "download"
    (root / "a" / ".hidden").mkdir(parents=True)
    (root / "a" / "1.png").write_bytes(b"one")
    (root / "a" / ".DS_Store").write_bytes(b"x")
    (root / "a" / ".hidden" / "2.png").write_bytes(b"x")
    with zipfile.ZipFile(root / "b.zip", "w") as archive:
        archive.writestr("in/3%4.png", b"three")
        archive.writestr("__MACOSX/in/._3.png", b"x")
        archive.mkdir("empty") if hasattr(archive, "mkdir") else None
    return root


def test_folders_and_archives_are_listed_alike(download):
    files = list_source(download)
    assert [(file.name, file.size, file.folder, file.stem) for file in files] == [("a/1.png", 3, "a", "1"), ("b/in/3%4.png", 5, "b/in", "3%4")]
    contents = []
    for file in files:
        with file.on_disk() as path:
            contents.append(path.read_bytes())
    assert contents == [b"one", b"three"]
    assert not path.exists(), "the copy of a member is deleted"
    assert str(files[1]) == f"{download / 'b.zip'}: in/3%4.png"
    assert [file.name for file in list_source(download / "b.zip")] == ["in/3%4.png"]


def test_stem_of_compressed_nifti(tmp_path):
    (tmp_path / "volume-3.nii.gz").touch()
    assert list_source(tmp_path)[0].stem == "volume-3"


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "a/../../evil.png", "..\\evil.png", "C:\\evil.png"])
def test_an_archive_with_a_path_outside_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("good.png", b"1")
        archive.writestr(name, b"1")
    with pytest.raises(UserError, match=r"x\.zip: unsafe archive, it names a path outside"):
        list_source(tmp_path)


def test_links_bombs_and_encryption_are_refused(tmp_path, monkeypatch):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="holds a link"):
        list_source(tmp_path)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big.png", b"0" * 5000)
    monkeypatch.setattr(sources, "MAX_MEMBER", 4999)
    with pytest.raises(UserError, match=r"'big\.png' would unpack to"):
        list_source(tmp_path)
    monkeypatch.setattr(sources, "MAX_MEMBERS", 0)
    with pytest.raises(UserError, match="holds 1 files"):
        list_source(tmp_path)


def test_damage_is_told_in_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", b"0123456789" * 30)
    whole = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(whole.replace(b"0123456789", b"0123056789", 1))
    (file,) = list_source(tmp_path)
    with pytest.raises(UserError, match=r"x\.zip: a\.png: cannot be unpacked \(Bad CRC-32"), file.on_disk():
        pass
    (tmp_path / "x.zip").write_bytes(whole[:-30])
    with pytest.raises(UserError, match=r"x\.zip: a damaged zip archive"):
        list_source(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        list_source(Path("nowhere"))


def test_a_name_is_as_short_as_it_can_be_and_nobody_elses():
    assert unique_names([("1", "1.png", "a_1.png"), ("1", "1.jpg", "a_1.jpg"), ("2", "2.png", "a_2.png")]) == ["1.png", "1.jpg", "2"]
    assert unique_names([("1", "1.png", "a_1.png"), ("1", "1.PNG", "b_1.png")]) == ["a_1.png", "b_1.png"]
    assert unique_names([("x", "a/x"), ("y", "x"), ("x", "b/x")]) == ["a/x", "y", "b/x"]
    assert unique_names([("x",), ("x~2",), ("x",), ("X",)]) == ["x", "x~2", "x~3", "X~4"]
    assert unique_names([]) == []


def test_files_of_several_inputs_are_told_apart(tmp_path, monkeypatch):
    for name in ("2020.01/A/1.png", "2020.01/A/2.png", "2021/A/1.png", "B/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("1.png", b"")
    monkeypatch.chdir(tmp_path / "B")

    def names(*inputs):
        return [name for name, _ in list_inputs([Path(each) for each in inputs])]

    assert names("../2020.01") == ["A/1.png", "A/2.png"]
    assert names("../2020.01/A/1.png", "../2020.01/A/2.png") == ["1.png", "2.png"]
    assert names("../2020.01/A", ".", "../more.zip") == ["A/1.png", "2.png", "B/1.png", "more/1.png"]
    assert names(tmp_path / "2020.01" / "A", "../2021/A") == ["2020.01/A/1.png", "2.png", "2021/A/1.png"]
    assert names("1.png", "1.png") == ["B/1.png", "B/1.png~2"]
