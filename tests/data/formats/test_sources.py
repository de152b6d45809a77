"""The files of a download, in folders and archives; what archives must not be able to do."""

import io
import os
import stat
import unicodedata
import zipfile
from pathlib import Path

import pytest

from anomaly_detection.data.formats import archives
from anomaly_detection.data.formats.sources import list_inputs, list_source, natural, unique_names
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


@pytest.mark.parametrize("name", [".a.png", ".thumbs/a.png", "p/.thumbs/q/a.png"])
def test_what_is_hidden_is_so_in_archives_too(tmp_path, name):
    for path in (tmp_path / "n" / "b.png", tmp_path / "n" / name):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
    with zipfile.ZipFile(tmp_path / "n.zip", "w") as archive:
        archive.writestr("./b.png", b"1")
        archive.writestr(name, b"1")
    assert [file.name for file in list_source(tmp_path / "n")] == [file.name for file in list_source(tmp_path / "n.zip")] == ["b.png"]


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


def test_an_archive_may_name_itself(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("./", "./a/", "./a/b.png"):
            archive.writestr(name, b"")
    assert [file.name for file in list_source(tmp_path / "x.zip")] == ["a/b.png"]


def test_links_bombs_and_encryption_are_refused(tmp_path, monkeypatch):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="holds a link"):
        list_source(tmp_path)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big.png", b"0" * 5000)
    monkeypatch.setattr(archives, "MAX_MEMBER", 4999)
    with pytest.raises(UserError, match=r"'big\.png' would unpack to"):
        list_source(tmp_path)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 0)
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


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def listed(root):
    """name -> content"""
    contents = {}
    for file in list_source(root):
        assert file.name not in contents
        with file.on_disk() as path:
            contents[file.name] = path.read_text()
    return contents


def links_to_a_folder(root):
    touch(root, "in/1.png", "pool/p1/2.png", "pool/p1/deep/3.png")
    (root / "in/p1").symlink_to(root / "pool/p1")
    return {"1.png": "in/1.png", "p1/2.png": "pool/p1/2.png", "p1/deep/3.png": "pool/p1/deep/3.png"}, []


def links_to_files(root):
    touch(root, "in/1.png", "pool/2.png")
    (root / "in/x.png").symlink_to(root / "pool/2.png")
    return {"1.png": "in/1.png", "x.png": "pool/2.png"}, []


def a_circle(root):
    touch(root, "in/a/1.png")
    (root / "in/a/up").symlink_to(root / "in")
    (root / "in/a/self").symlink_to("self")
    return {"a/1.png": "in/a/1.png"}, ["1 links lead to what is there already", "1 links lead nowhere"]


def one_file_by_three_ways(root):
    touch(root, "in/b/1.png")
    (root / "in/a").symlink_to("b")
    (root / "in/c.png").symlink_to("b/1.png")
    return {"b/1.png": "in/b/1.png"}, ["in: 2 links lead to what is there already, which is taken once; the first: "]


def two_links_to_one_file(root):
    touch(root, "pool/1.png", "in/2.png")
    (root / "in/a.png").symlink_to(root / "pool/1.png")
    (root / "in/pool").symlink_to(root / "pool")
    return {"2.png": "in/2.png", "a.png": "pool/1.png"}, ["1 links lead to what is there already"]


def links_that_lead_nowhere(root):
    touch(root, "in/1.png")
    for name in ("gone0.png", "gone1.png", "gone"):
        (root / "in" / name).symlink_to(root / ".git/annex" / name)
    return {"1.png": "in/1.png"}, ["3 links lead nowhere and are left out, the first: "]


@pytest.mark.skipif(os.name == "nt", reason="needs links")
@pytest.mark.parametrize(
    "make", [links_to_a_folder, links_to_files, a_circle, one_file_by_three_ways, two_links_to_one_file, links_that_lead_nowhere]
)
def test_links_are_followed_once_and_what_is_left_out_is_told(tmp_path, caplog, make):
    contents, lines = make(tmp_path)
    assert listed(tmp_path / "in") == contents
    assert len(caplog.messages) == len(lines)
    assert all(any(line in message for message in caplog.messages) for line in lines)


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_predict_is_told_of_links_that_lead_nowhere_as_prepare_is(tmp_path, caplog):
    links_that_lead_nowhere(tmp_path)
    assert [name for name, _ in list_inputs([tmp_path / "in"])] == ["1.png"]
    assert "3 links lead nowhere" in caplog.text
    with pytest.raises(UserError, match=r"gone: a link that leads nowhere"):
        list_inputs([tmp_path / "in/gone"])


def archive_of(*members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


def test_archives_in_an_archive_are_read(tmp_path):
    deepest = archive_of(("x.png", "x"))
    inner = archive_of(("CT/1%0.png", "one"), ("12:30.png", "time"), ("deep.zip", deepest))
    (tmp_path / "all.zip").write_bytes(archive_of(("master/CT.zip", inner), ("master/CT.txt", "a list")))
    files = {file.name: file for file in list_source(tmp_path / "all.zip")}
    assert list(files) == ["master/CT.txt", "master/CT/12:30.png", "master/CT/CT/1%0.png", "master/CT/deep.zip"]
    assert str(files["master/CT/CT/1%0.png"]) == f"{tmp_path / 'all.zip'}: master/CT.zip: CT/1%0.png"
    with files["master/CT/CT/1%0.png"].on_disk() as path:
        assert path.read_text() == "one"
    assert [file.name for file in list_source(tmp_path)][1] == "all/master/CT/12:30.png"
    (tmp_path / "all.zip").write_bytes(archive_of(("master/CT.zip", inner[:-30])))
    with pytest.raises(UserError, match=r"all\.zip: master/CT\.zip: a damaged zip archive"):
        list_source(tmp_path)
    (tmp_path / "all.zip").write_bytes(archive_of(("in.zip", archive_of(("../evil.png", "x")))))
    with pytest.raises(UserError, match=r"all\.zip: in\.zip: unsafe archive"):
        list_source(tmp_path)


@pytest.mark.parametrize(
    ("method", "flag", "message"),
    [
        (9, 0, r"'h\.png' is packed by Deflate64, which is not read here; unpack the archive and give the folder"),
        (98, 0, "packed by PPMd"),
        (200, 0, "packed by method 200"),
        (8, 1, r"'h\.png' is encrypted; unpack the archive with its password and give the folder"),
    ],
)
def test_what_python_cannot_unpack_is_to_be_unpacked(tmp_path, method, flag, message):
    raw = bytearray(archive_of(("h.png", bytes(300))))
    for start, offset in ((0, 6), (raw.find(b"PK\x01\x02"), 8)):
        raw[start + offset], raw[start + offset + 2] = flag, method
    (tmp_path / "x.zip").write_bytes(raw)
    with pytest.raises(UserError, match=message) as caught:
        list_source(tmp_path)
    assert "download it again" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_an_archive_holds_twice_is_told(tmp_path):
    (tmp_path / "x.zip").write_bytes(archive_of(("a/1.png", "one"), ("a\\1.png", "other")))
    with pytest.raises(UserError, match="twice; unpack the archive"):
        list_source(tmp_path)


@pytest.mark.parametrize(
    ("one", "other"), [("a.png", "A.PNG"), ("stra\u00dfe", "STRASSE"), ("\u00e9", "e\u0301"), ("\u00c9", "e\u0301"), ("\u0390", "\u03aa\u0301")]
)
def test_names_that_a_file_system_takes_for_one_are_told_apart(one, other):
    names = unique_names([(one, f"{one}_1"), (other, f"{other}_2")])
    folded = {unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold()) for name in names}
    assert len(folded) == 2


def test_natural_order():
    assert sorted(["a10.png", "a9.png", "a9 b.png", "10.png", "9.png"], key=natural) == ["9.png", "10.png", "a9 b.png", "a9.png", "a10.png"]
