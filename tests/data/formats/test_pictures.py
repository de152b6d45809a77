"""Images out of picture files: sample formats and photometric interpretations, a row each."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from anomaly_detection.data.formats.pictures import decode, is_picture, picture_shape, read_picture, write_png
from anomaly_detection.data.formats.window import Window
from anomaly_detection.system.errors import UserError

DEEP = np.array([[0, 1000], [32768, 65535]], np.uint16)


def tiff(data: bytes, bits: int, photometric: int, order="<", samples=1, size=(4, 1), **tags: list[int]) -> bytes:
    """A TIFF without compression; `tags` are tNUMBER, of 16 bits."""
    planes = samples if tags.get("t284") == [2] else 1
    numbers = {256: [size[0]], 257: [size[1]], 258: [bits] * samples, 259: [1], 262: [photometric], 277: [samples], 278: [size[1]]}
    numbers |= {int(name[1:]): values for name, values in tags.items()} | {279: [len(data) // planes] * planes, 273: [0] * planes}
    wide = {256, 257, 273, 278, 279}
    packed = {tag: struct.pack(order + ("I" if tag in wide else "H") * len(values), *values) for tag, values in numbers.items()}
    start = 8 + 2 + 12 * len(numbers) + 4
    begin = start + sum(len(content) for content in packed.values() if len(content) > 4)
    packed[273] = struct.pack(order + "I" * planes, *(begin + plane * len(data) // planes for plane in range(planes)))
    entries, rest = b"", b""
    for tag in sorted(packed):
        content = packed[tag]
        place = content.ljust(4, b"\0") if len(content) <= 4 else struct.pack(order + "I", start + len(rest))
        rest += content if len(content) > 4 else b""
        entries += struct.pack(order + "HHI", tag, 4 if tag in wide else 3, len(numbers[tag])) + place
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IH", 8, len(numbers)) + entries + bytes(4) + rest + data


def png(data: bytes, bits: int, kind: int, size=(4, 1), extra: tuple[bytes, bytes] | None = None) -> bytes:
    """A PNG of one row; kind: 0 grey, 2 colours, 3 palette, 4 grey and alpha, 6 colours and alpha. extra: name and content of one more chunk."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(12))) if kind == 3 else b""
    palette += chunk(*extra) if extra else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + chunk(b"IDAT", zlib.compress(b"\0" + data)) + chunk(b"IEND", b"")


def of(dtype: str, *values: float) -> bytes:
    return np.array(values, dtype).tobytes()


RGB = bytes([1, 2, 3, 200, 100, 50])
AS_RGB = [[1, 2, 3], [200, 100, 50]]
RAMP = [257 * index for index in range(256)]
TWO = {"samples": 3, "size": (2, 1)}
# 1: 0 is black, 0: it is white; 2 colours, 3 a palette, 5 inks, 6 YCbCr; t339: 1 unsigned, 2 signed, 3 floating point; 338: what a further sample is
TIFFS = [
    ("uint8", tiff(of("u1", 0, 1, 128, 255), 8, 1), [0, 1, 128, 255]),
    ("uint8, 0 white", tiff(of("u1", 0, 1, 128, 255), 8, 0), [255, 254, 127, 0]),
    ("uint16", tiff(of("<u2", 0, 1000, 32768, 65535), 16, 1), [0, 4, 128, 255]),
    ("uint16, 0 white", tiff(of("<u2", 0, 1000, 32768, 65535), 16, 0), [255, 251, 127, 0]),
    ("uint16, big endian", tiff(of(">u2", 0, 1000, 32768, 65535), 16, 1, ">"), [0, 4, 128, 255]),
    ("int8", tiff(of("i1", 0, 1, 100, 127), 8, 1, t339=[2]), [0, 1, 100, 127]),
    ("int16", tiff(of("<i2", 0, 1000, 16384, 32767), 16, 1, t339=[2]), [0, 4, 64, 127]),
    ("int16, big endian", tiff(of(">i2", 0, 1000, 16384, 32767), 16, 1, ">", t339=[2]), [0, 4, 64, 127]),
    ("int32", tiff(of("<i4", 0, 1000, 32768, 65535), 32, 1, t339=[2]), [0, 4, 128, 255]),
    ("uint32", tiff(of("<u4", 0, 1000, 32768, 65535), 32, 1), [0, 4, 128, 255]),
    ("float32", tiff(of("<f4", 0, 0.25, 0.5, 1), 32, 1, t339=[3]), [0, 64, 128, 255]),
    ("float32, big endian", tiff(of(">f4", 0, 0.25, 0.5, 1), 32, 1, ">", t339=[3]), [0, 64, 128, 255]),
    ("1 bit", tiff(b"\xa0", 1, 1), [255, 0, 255, 0]),
    ("1 bit, 0 white", tiff(b"\xa0", 1, 0), [0, 255, 0, 255]),
    ("2 bits", tiff(b"\x1b", 2, 1), [0, 85, 170, 255]),
    ("4 bits, 0 white", tiff(b"\x08\xf0", 4, 0), [255, 119, 0, 255]),
    ("12 bits", tiff(b"\x00\x0f\xff\x12\x38\x00", 12, 1), [0, 255, 291 / 4095 * 255, 2048 / 4095 * 255]),
    (
        "palette",
        tiff(of("u1", 0, 1, 128, 255), 8, 3, t320=[*RAMP, *RAMP[::-1], *([0] * 256)]),
        [[0, 255, 0], [1, 254, 0], [128, 127, 0], [255, 0, 0]],
    ),
    ("grey and alpha", tiff(of("u1", 10, 255, 200, 51), 8, 1, samples=2, size=(2, 1), t338=[2]), [[10] * 3, [40] * 3]),
    ("grey multiplied by alpha", tiff(of("u1", 10, 255, 40, 51), 8, 1, samples=2, size=(2, 1), t338=[1]), [[10] * 3, [40] * 3]),
    ("grey and something", tiff(of("u1", 10, 255, 200, 51), 8, 1, samples=2, size=(2, 1), t338=[0]), [10, 200]),
    ("RGB", tiff(RGB, 8, 2, **TWO), AS_RGB),
    ("RGB by plane", tiff(bytes([1, 200, 2, 100, 3, 50]), 8, 2, **TWO, t284=[2]), AS_RGB),
    ("RGB of 16 bits", tiff(of("<u2", 256, 512, 1000, 65535, 25700, 0), 16, 2, **TWO), [[1, 2, 3], [255, 100, 0]]),
    ("RGBA", tiff(bytes([100, 50, 20, 255, 200, 100, 50, 51]), 8, 2, samples=4, size=(2, 1), t338=[2]), [[100, 50, 20], [40, 20, 10]]),
    ("CMYK", tiff(bytes([0, 0, 0, 55, 255, 0, 0, 0]), 8, 5, samples=4, size=(2, 1)), [[200] * 3, [0, 255, 255]]),
    # ITU-R BT.601: R = Y + 1.402 (Cr - 128), G = Y - 0.344 (Cb - 128) - 0.714 (Cr - 128), B = Y + 1.772 (Cb - 128)
    ("YCbCr", tiff(bytes([90, 100, 140, 120, 128, 128]), 8, 6, **TWO, t530=[1, 1]), [[106.8, 91.1, 40.4], [120] * 3]),
]
PNGS = [
    ("1 bit", png(b"\xa0", 1, 0), [255, 0, 255, 0]),
    ("2 bits", png(b"\x1b", 2, 0), [0, 85, 170, 255]),
    ("4 bits", png(b"\x08\xf0", 4, 0), [0, 136, 255, 0]),
    ("8 bits", png(bytes([0, 1, 128, 255]), 8, 0), [0, 1, 128, 255]),
    ("16 bits", png(of(">u2", 0, 1000, 32768, 65535), 16, 0), [0, 4, 128, 255]),
    ("palette", png(bytes([0, 1, 2, 3]), 8, 3), [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]),
    ("palette of 2 bits", png(b"\x1b", 2, 3), [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]),
    ("RGB", png(RGB, 8, 2, (2, 1)), AS_RGB),
    ("RGB of 16 bits", png(of(">u2", 256, 512, 1000, 65535, 25700, 0), 16, 2, (2, 1)), [[1, 2, 3], [255, 100, 0]]),
    ("grey and alpha", png(bytes([10, 255, 200, 51]), 8, 4, (2, 1)), [[10] * 3, [40] * 3]),
    ("RGBA", png(bytes([100, 50, 20, 255, 200, 100, 50, 51]), 8, 6, (2, 1)), [[100, 50, 20], [40, 20, 10]]),
    ("RGBA of 16 bits", png(of(">u2", 25700, 12850, 5140, 65535), 16, 6, (1, 1)), [[100, 50, 20]]),
]
ROWS = [pytest.param(f"a.{kind}", *row[1:], id=f"{kind}: {row[0]}") for kind, rows in (("tif", TIFFS), ("png", PNGS)) for row in rows]


@pytest.mark.parametrize(("name", "content", "expected"), ROWS)
def test_sample_formats(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    pixels = read_picture(tmp_path / name, None)
    assert pixels.dtype == np.uint8
    assert pixels.shape[:2] == picture_shape(tmp_path / name)
    assert np.abs(pixels[0] - np.array(expected)).max() < 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (tiff(of("<i2", -1000, 0, 40, 240), 16, 1, t339=[2]), [0, 102, 128, 255]),
        (tiff(of("<i4", -1000, 0, 40, 240), 32, 1, t339=[2]), [0, 102, 128, 255]),
        (tiff(of("<f4", -1000, 0, 40, np.nan), 32, 1, t339=[3]), [0, 102, 128, 0]),
        (tiff(of("i1", -128, 0, 40, 127), 8, 1, t339=[2]), [20, 102, 128, 183]),
        (tiff(of("<u2", 65535, 65495, 65435, 0), 16, 0), [102, 128, 166, 255]),
        (tiff(of("u1", 0, 40, 200, 255), 8, 1), [0, 40, 200, 255]),
    ],
    ids=["int16", "int32", "float32", "int8", "uint16, 0 white", "8 bits as they are"],
)
def test_a_window_is_of_the_values(tmp_path, content, expected):
    (tmp_path / "a.tif").write_bytes(content)
    assert read_picture(tmp_path / "a.tif", Window(40, 400))[0].tolist() == expected


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.tif", tiff(of("<f8", 0, 0.25, 0.5, 1), 64, 1, t339=[3]), "a kind of samples that is not read; save it as PNG with 8 or 16 bits"),
        ("a.tif", tiff(of("<f2", 0, 0.25, 0.5, 1), 16, 1, t339=[3]), "a kind of samples that is not read; save it as PNG"),
        ("a.tif", tiff(of("<u8", 0, 1, 2, 3), 64, 1), "a kind of samples that is not read; save it as PNG"),
        ("a.tif", tiff(of(">u2", 0, 1, 2, 3), 16, 0, ">"), "a kind of samples that is not read; save it as PNG"),
        ("a.tif", tiff(b"\x00\x0f\xff\x12\x38\x00", 12, 1, ">"), "a kind of samples that is not read; save it as PNG"),
        ("a.tif", tiff(b"\x00\x0f\xff\x12\x38\x00", 12, 0), "a kind of samples that is not read; save it as PNG"),
        ("a.tif", tiff(of("<f4", 0, 0.25, 0.5, 1), 32, 0, t339=[3]), "floating point values with 0 for white.*; save it as PNG"),
        ("a.tif", tiff(of("<u2", *range(6)), 16, 2, **TWO, t284=[2]), "colours of 16 bits lie in planes of their own; save it as PNG"),
        ("a.tif", tiff(bytes(6), 8, 6, **TWO), "subsampled colours that are not compressed; save it as PNG"),
        ("a.tif", tiff(of("i1", -1, 0, 1, 2), 8, 1, t339=[2]), "its values are -1 to 2, but must lie in 0 to 255; give a window"),
        ("a.tif", tiff(of("<i2", -1, 0, 1, 2), 16, 1, t339=[2]), "its values are -1 to 2, but must lie in 0 to 65535; give a window"),
        ("a.tif", tiff(of("<u4", 1, 2**31, 3, 4), 32, 1), "its values of 32 bits reach beyond"),
        ("a.png", png(of(">u2", 1, 65535, 3, 65535), 16, 4, (2, 1)), "16 bits with transparency; save it without the alpha channel"),
        ("a.png", png(of(">u2", 1, 65535, 3, 7), 16, 0, extra=(b"tRNS", of(">u2", 3))), "16 bits with transparency; save it without the alpha"),
        ("a.png", b"\x89PNG rubbish", r"cannot be read as an image \(its content is not that of an image\); replace it"),
        ("a.jpe", b"", "cannot be read as an image"),
    ],
)
def test_what_is_not_read_is_refused_in_a_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read_picture(tmp_path / name, None)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", ["a.tif", "a.png"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation(tmp_path, dtype, name, turn):
    upright = np.arange(1, 7, dtype=dtype).reshape(2, 3) * (1 if dtype == np.uint8 else 257)
    # how EXIF's 1 to 8 lie in the file, of an image that is upright as above
    stored = [upright, np.fliplr(upright), np.rot90(upright, 2), np.flipud(upright), upright.T]
    stored += [np.rot90(upright), np.rot90(upright, 2).T, np.rot90(upright, -1)]
    exif = Image.Exif()
    exif[274] = turn
    Image.fromarray(np.ascontiguousarray(stored[turn - 1])).save(tmp_path / name, exif=exif)
    assert read_picture(tmp_path / name, None).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert picture_shape(tmp_path / name) == (2, 3)


def png_chunks(data):
    """The first with the signature before it."""
    chunks, start, place = [], 0, 8
    while place < len(data):
        place += 12 + int.from_bytes(data[place : place + 4], "big")
        chunks.append(data[start:place])
        start = place
    return chunks


@pytest.mark.parametrize("word", ["eXIf", "Raw profile type exif", "XML:com.adobe.xmp"])
def test_the_shape_of_a_png_that_lies_on_its_side(tmp_path, word):
    """Wherever it says so: also behind the pixels."""
    exif = Image.Exif()
    exif[274] = 6
    note = PngInfo()
    if word == "XML:com.adobe.xmp":
        note.add_itxt(word, '<x tiff:Orientation="6"/>')
    elif word != "eXIf":
        raw = exif.tobytes().hex()
        note.add_text(word, f"\nexif\n{len(raw) // 2:8}\n{raw}", zip=True)
    Image.new("L", (3, 2)).save(tmp_path / "a.png", pnginfo=note, **({"exif": exif} if word == "eXIf" else {}))
    head, *chunks, end = png_chunks((tmp_path / "a.png").read_bytes())
    assert sorted(chunk[4:8] == b"IDAT" for chunk in chunks) == [False, True]
    (tmp_path / "b.png").write_bytes(b"".join([head, *reversed(chunks), end]))
    for name in ("a.png", "b.png"):
        assert picture_shape(tmp_path / name) == read_picture(tmp_path / name, None).shape == (3, 2)


def test_the_shape_of_an_ordinary_png_is_told_without_its_pixels(tmp_path, monkeypatch):
    Image.new("L", (3, 2)).save(tmp_path / "a.png")
    monkeypatch.setattr(PngImageFile, "load", None)
    assert picture_shape(tmp_path / "a.png") == (2, 3)


def test_pictures(tmp_path):
    Image.fromarray(DEEP).save(tmp_path / "deep.png")
    assert read_picture(tmp_path / "deep.png", None).tolist() == [[0, 4], [128, 255]]
    assert read_picture(tmp_path / "deep.png", Window(500, 1000)).tolist() == [[0, 255], [255, 255]]
    assert read_picture(tmp_path / "deep.png", "auto")[0, 0] == 0
    Image.fromarray(DEEP).save(tmp_path / "deep.tiff")
    assert read_picture(tmp_path / "deep.tiff", None).tolist() == [[0, 4], [128, 255]]
    Image.new("CMYK", (3, 2), (0, 0, 0, 0)).save(tmp_path / "print.jpg")
    assert (read_picture(tmp_path / "print.jpg", Window(0, 1)) > 250).all(), "8 bits need no window"


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
def test_compressed_tiff(tmp_path, compression):
    pixels = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression=compression)
    assert np.abs(read_picture(tmp_path / "a.tif", None).astype(int) - pixels).max() <= (2 if compression == "jpeg" else 0)
    assert decode(tmp_path / "a.tif").lossy == (compression == "jpeg")


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.jpe", "a.jfif"])
def test_jpegs_by_all_their_names(tmp_path, name):
    Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / name, "jpeg", quality=95)
    assert is_picture(name)
    assert np.abs(read_picture(tmp_path / name, None).astype(int) - (200, 100, 50)).max() <= 3
    assert decode(tmp_path / name).lossy


def test_content_not_the_name_says_what_a_picture_is(tmp_path):
    (tmp_path / "a.jpg").write_bytes(png(bytes([0, 1, 128, 255]), 8, 0))
    assert read_picture(tmp_path / "a.jpg", None).tolist() == [[0, 1, 128, 255]]
    assert not decode(tmp_path / "a.jpg").lossy


def test_a_missing_picture(tmp_path):
    for read in (picture_shape, lambda path: read_picture(path, None)):
        with pytest.raises(UserError, match="no such image"):
            read(Path(tmp_path / "none.png"))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_what_is_written_is_read_again(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    write_png(pixels, tmp_path / "image.partial")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "image.partial", formats=["png"])), pixels)
