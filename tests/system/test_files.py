import json
import os
import time
from pathlib import Path

import pytest

from anomaly_detection.system.errors import UserError
from anomaly_detection.system.files import (
    delete_partials,
    fitting_name,
    optional,
    read_json,
    read_table,
    read_text,
    whole_file,
    whole_folder,
)


def test_the_file_appears_whole_and_alone(tmp_path):
    with whole_file(tmp_path / "deep" / "a.txt") as partial:
        partial.write_text("new")
        assert not (tmp_path / "deep" / "a.txt").exists()
    assert (tmp_path / "deep" / "a.txt").read_text() == "new"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.txt"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    path, synced = tmp_path / "a.txt", []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_ino, path.exists())))
    with whole_file(path) as partial:
        partial.write_text("new")
    assert synced == [(path.stat().st_ino, False)]


def test_processes_of_the_same_number_write_the_same_file(tmp_path, monkeypatch):
    """As the first process of every container is; one that was killed there left something behind."""
    monkeypatch.setattr("os.getpid", lambda: 1)
    with whole_file(tmp_path / "a.txt") as one, whole_file(tmp_path / "a.txt") as other:
        one.write_text("last")
        other.write_text("first")
    assert (tmp_path / "a.txt").read_text() == "last"
    (tmp_path / ".b.1.partial").mkdir()
    with whole_folder(tmp_path / "b") as partial:
        (partial / "x").touch()
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["x"]


def test_what_killed_processes_left_goes_where_nobody_can_be_at_it(tmp_path):
    old, young, another = left = [tmp_path / f".{name}.partial" for name in ("a[1].csv.0123abcd", "a[1].csv.4567abcd", "b.csv.89ababcd")]
    (tmp_path / ".set.partial").mkdir()
    (tmp_path / ".partial").touch()

    def there() -> list[Path]:
        return [path for path in left if path.exists()]

    for path in left:
        path.touch()
    for path in (old, another):
        os.utime(path, (time.time() - 25 * 3600,) * 2)
    for await_disk, stays in ((False, left), (True, [young, another])):
        with whole_file(tmp_path / "a[1].csv", await_disk) as partial:
            partial.touch()
        assert there() == stays
    delete_partials(tmp_path, "a*")
    assert there() == [young, another]
    delete_partials(tmp_path, "a*", alone=True)
    assert there() == [another]
    delete_partials(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".partial", ".set.partial", "a[1].csv"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def fail() -> None:
        with whole_file(tmp_path / "a.txt") as partial:
            partial.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_is_told_of_the_file(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, whole_file(tmp_path / "a.txt"), open("/dev/full", "wb") as file:
        file.write(b"x")
    assert caught.value.filename == str(tmp_path / "a.txt")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with whole_folder(tmp_path / "deep" / "a") as partial:
        (partial / "x").touch()
        assert not (tmp_path / "deep" / "a").exists()
    assert [path.name for path in (tmp_path / "deep").rglob("*")] == ["a", "x"]

    def fail() -> None:
        with whole_folder(tmp_path / "b") as partial:
            (partial / "x").touch()
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    with pytest.raises(UserError, match="is not an empty folder"), whole_folder(tmp_path / "deep"):
        pass


@pytest.mark.parametrize("name", [".", "link", "leads nowhere yet", "empty"])
def test_an_empty_folder_stays_and_is_filled(tmp_path, monkeypatch, name):
    """The working folder, a link and a mount point cannot be replaced."""
    if name == "empty":
        monkeypatch.setattr(Path, "rmdir", lambda path: pytest.fail("a mount point"))
    for folder in ("here", "disk", "empty"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "here" if name == "." else tmp_path)
    if name in ("link", "leads nowhere yet"):
        Path(name).symlink_to(tmp_path / "disk" / name if name != "link" else tmp_path / "disk")
    with whole_folder(Path(name)) as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "x").touch()
        assert not (Path(name) / "deep").exists()
    assert [path.name for path in Path(name).iterdir()] == ["deep"]
    assert Path(name, "deep", "x").exists()


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"], ids=["Unix", "Windows", "old Mac"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (b"\xef\xbb\xbf", "utf-8"),
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
        (b"\xff\xfe\0\0", "utf-32-le"),
        (b"\0\0\xfe\xff", "utf-32-be"),
        (b"", "cp1252"),
    ],
)
def test_text_is_read_as_editors_save_it(tmp_path, mark, encoding, ends):
    (tmp_path / "a").write_bytes(mark + f"Käse{ends}{ends}b – c{ends}".encode(encoding))
    assert read_text(tmp_path / "a") == "Käse\n\nb – c\n"


NO_TEXT = {"zip": b"PK\3\4\0\0", "no mark": "a,b".encode("utf-16-le"), "no code": b"caf\xe9 \x81", "half": b"\xff\xfe\0\xd8"}


@pytest.mark.parametrize("data", NO_TEXT.values(), ids=NO_TEXT)
def test_what_is_no_text_is_told(tmp_path, data):
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.csv: not a text file; save it again as text in UTF-8"):
        read_text(tmp_path / "a.csv")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match="nothing: no such file"):
        read_text(tmp_path / "nothing")
    with pytest.raises(UserError, match=f"{tmp_path}: is a folder; name a file"):
        read_text(tmp_path)


ROWS = [{"image": "a b.png", "score": 0.25, "label": 1, "rest": "x"}, {"image": "c,d;e.png", "score": -1.5e-5, "label": None, "rest": "007"}]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ('image,score,label,rest\na b.png,0.25,1,x\n"c,d;e.png",-1.5e-05,,007\n', "utf-8"),
        ('image;score;label;rest\r\na b.png;0,25;1;x\r\n"c,d;e.png";-1,5E-05;;007\r\n', "utf-8-sig"),  # Excel where numbers have commas
        ('image;score;label;rest\r\na b.png;0.25;1;x\r\n"c,d;e.png";-1.5E-05;;007\r\n', "cp1252"),
        ("image\tscore\tlabel\trest\r\na b.png\t0,25\t1\tx\r\nc,d;e.png\t-1,5E-05\t\t007\r\n", "utf-16"),  # Excel's Unicode text
        ('"image","score","label","rest"\n"a b.png","0.25","1","x"\n"c,d;e.png","-1.5E-05",,"007"\n', "utf-8"),  # LibreOffice, all quoted
        ('image,score,label,rest,,\na b.png,0.25,1,x,,\n\n"c,d;e.png",-1.5e-05,,007\n,,,,,\n', "utf-8"),  # columns and rows that were emptied
        ('label;rest;image;score\n1;x;a b.png;,25\n;007;"c,d;e.png";-0,000015', "utf-8"),  # columns that were moved, no end
    ],
)
def test_a_table_is_read_as_spreadsheets_save_it(tmp_path, text, encoding):
    (tmp_path / "a.csv").write_bytes(text.encode(encoding))
    assert read_table(tmp_path / "a.csv", {"image": str, "score": float, "label": optional(int)}) == ROWS


def test_cells_that_a_line_lacks_are_empty(tmp_path):
    (tmp_path / "a.csv").write_text("image,score,rest\na,1\n")
    assert read_table(tmp_path / "a.csv", {"score": float}) == [{"image": "a", "score": 1.0, "rest": ""}]
    assert read_table(tmp_path / "a.csv", {"image": str}, rest=optional(float)) == [{"image": "a", "score": 1.0, "rest": None}]


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("letter", ["\v", "\f", "\x1c", "\x1e", "\x85", "\u2028", "\u2029", ""])
def test_a_line_ends_where_spreadsheets_end_it(tmp_path, end, letter):
    """Not at letters that are ends of lines to Unicode alone, nor within quotes; empty lines and lines within quotes count where one is named."""
    lines = ["image,label", f"a{letter}b,1", "", f'"c{end}{letter}{end}d",2', "e,3"]
    path = tmp_path / "a.csv"
    for last in (end, ""):
        path.write_bytes((end.join(lines) + last).encode())
        cells = [(f"a{letter}b", 1), (f"c\n{letter}\nd", 2), ("e", 3)]
        assert read_table(path, {"image": str, "label": int}) == [{"image": image, "label": label} for image, label in cells]
    path.write_bytes((end.join(lines) + "x").encode())
    with pytest.raises(UserError, match=r"a\.csv:7: label: '3x'"):
        read_table(path, {"image": str, "label": int})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["a.csv: has no columns 'image'", "is empty"]),
        ("image;score\nx;1", ["a.csv: has no columns 'label'", "image, score"]),
        ("image,label,label\n", ["a.csv: has 2 columns 'label'"]),
        ("image,label\nx,1\n\ny,one\n", ["a.csv:4: label: 'one'", "a whole number is needed"]),
        ('image,label\nx,"1,5"\n', ["a.csv:2: label: '1,5'"]),  # thousands or a fraction: that is not known
        ("image,label\nx,1,2\n", ["a.csv:2: 3 cells", "2"]),
        ('image,label\n"x,1\ny,2\n', ["a.csv:", "not a line of a table"]),
    ],
)
def test_a_table_that_does_not_hold_what_it_should_is_told(tmp_path, text, parts):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError) as error:
        read_table(tmp_path / "a.csv", {"image": str, "label": int})
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts), error.value


def test_json_is_read_with_a_mark_and_damage_is_placed(tmp_path):
    (tmp_path / "a.json").write_bytes(json.dumps({"a": "é"}, ensure_ascii=False).encode("utf-16"))
    assert read_json(tmp_path / "a.json") == {"a": "é"}
    (tmp_path / "a.json").write_text('{"a":\n 1,\n')
    with pytest.raises(UserError, match=r"a\.json: damaged \(.*line [23] column.*\); delete the file and run the same command again$"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "damage"), [("[]", "not a JSON object"), ("{}", "no a in it"), ('{"a": "1", "b": 2}', "no a in it"), ('{"a": 1}', "no b in it")]
)
def test_json_without_what_must_be_there_is_damaged(tmp_path, text, damage):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"a\.json: damaged \({damage}\); move it away and run"):
        read_json(path, {"a": int, "b": int}, "move it away")


def test_a_name_is_shortened_only_where_no_file_system_holds_it(tmp_path):
    longest = "a" * 250 + "+b.cd"
    assert fitting_name(longest) == longest
    (tmp_path / longest).mkdir()  # what was made before keeps its name
    names = [fitting_name(longest + end) for end in "ef"]
    assert names[0] != names[1]
    assert all(len(name.encode()) == 200 and name.startswith("a" * 150) for name in names)


def test_a_name_is_shortened_between_characters(tmp_path):
    for offset in range(3):
        name = fitting_name("x" * offset + "肝臓" * 60)
        assert name.removeprefix("x" * offset)[:50] == "肝臓" * 25
        (tmp_path / name).mkdir()
        assert 195 <= len(name.encode()) <= 200
