"""The attributes of six modules of PS3.3 that say how a viewer shows a monochrome image, a row each, against the formulas of the standard.

The modules: Modality LUT (C.11.1), VOI LUT (C.11.2), General Image (C.7.6.1), Image Pixel (C.7.6.3), Pixel Value Transformation (C.7.6.16.2.9) and
Frame VOI LUT (C.7.6.16.2.10).
"""

import math
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from anomaly_detection.data.formats.dicom import read_dicom
from anomaly_detection.data.formats.window import Window
from anomaly_detection.system.errors import UserError

STORED = [0, 864, 984, 1064, 1104, 1164, 1264, 4095]
HU = [x - 1024 for x in STORED]
CT = {"RescaleSlope": 1, "RescaleIntercept": -1024}
LIVER = {"WindowCenter": 40, "WindowWidth": 400}
BEYOND = {"PixelPaddingValue": 9, "PixelPaddingRangeLimit": 65535}
WIDE = {"WindowCenter": 2048, "WindowWidth": 4096}


def item(**tags) -> pydicom.Dataset:
    data = pydicom.Dataset()
    for name, value in tags.items():
        add(data, name, value)
    return data


def add(data: pydicom.Dataset, name: str, value) -> None:
    """Set an element; "del" takes it out."""
    if isinstance(value, pydicom.DataElement):
        data.add(value)
    elif isinstance(value, str) and value == "del":
        delattr(data, name)
    else:
        setattr(data, name, value)


def lut(first: int, bits: int, entries: list[int] | bytes, **tags) -> pydicom.Dataset:
    data = item(**tags)
    data.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    data.add_new("LUTData", "OW", entries if isinstance(entries, bytes) else np.array(entries, "<u2").tobytes())
    return data


def save(path: Path, stored: list[int] | np.ndarray, kind="MONOCHROME2", dtype=np.uint16, bits=12, syntax=ExplicitVRLittleEndian, **tags) -> Path:
    """A file of one row, or of several frames of one row, of stored values; a tag of value `del` is taken out."""
    values = np.atleast_2d(np.asarray(stored, dtype))
    data = item(Rows=1, Columns=values.shape[1], SamplesPerPixel=1, PhotometricInterpretation=kind, BitsAllocated=8 * values.itemsize)
    data.SOPClassUID, data.SOPInstanceUID = EnhancedCTImageStorage, "1.2.3"
    data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, int(values.dtype.kind == "i")
    if len(values) > 1:
        data.NumberOfFrames = len(values)
    data.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)
    data["PixelData"].VR = "OB" if values.itemsize == 1 and syntax == ExplicitVRLittleEndian else "OW"
    for name, value in tags.items():
        add(data, name, value)
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.save_as(path, enforce_file_format=True)
    return path


def shown(path: Path, window=None) -> list:
    """The grey values of each frame, or of the only one."""
    frames = [frame.reshape(-1, *frame.shape[2:]).tolist() for frame in read_dicom(path, window)[1]]
    return frames[0] if len(frames) == 1 else frames


# The formulas of C.11.2.1.2 and C.11.2.1.3, value by value as the standard writes them, for an output of 0 to 255.


def linear(x: float, c: float, w: float) -> float:
    if x <= c - 0.5 - (w - 1) / 2:
        return 0
    if x > c - 0.5 + (w - 1) / 2:
        return 255
    return ((x - (c - 0.5)) / (w - 1) + 0.5) * 255


def exact(x: float, c: float, w: float) -> float:
    if x <= c - w / 2:
        return 0
    if x > c + w / 2:
        return 255
    return ((x - c) / w + 0.5) * 255


def sigmoid(x: float, c: float, w: float) -> float:
    return 255 / (1 + math.exp(-4 * (x - c) / w))


def windowed(values, c, w, function=linear) -> list[float]:
    return [function(x, c, w) for x in values]


def down(values: list[float]) -> list[float]:
    return [255 - x for x in values]


AS_HU = windowed(HU, 40, 400)
PLAIN = windowed(STORED, 2048, 4096)
TABLE = lut(984, 16, [10, 20, 1000, 60000])  # of 984, 985, 986 and 987
EIGHT = [0, 1, 100, 127, 128, 200, 254, 255]

# attribute, the file, the window that is given, what is shown
MODALITY_LUT = [
    ("no element", {}, Window(2000, 4000), windowed(STORED, 2000, 4000, exact)),
    ("Modality LUT Sequence", {"stored": [0, 984, 985, 986, 987, 4095], "ModalityLUTSequence": [TABLE]}, Window(500, 1000), [3, 3, 5, 255, 255, 255]),
    ("Modality LUT Sequence, empty", {"ModalityLUTSequence": [], **LIVER, **CT}, None, AS_HU),
    (
        "LUT Descriptor: 65536 entries",
        {"ModalityLUTSequence": [lut(0, 16, list(range(65535, -1, -1)))]},
        Window(63488, 4096),
        windowed([65535 - x for x in STORED], 63488, 4096, exact),
    ),
    (
        "LUT Descriptor: first value below 0",
        {"stored": [-5, -2, -1, 0, 9], "dtype": np.int16, "ModalityLUTSequence": [lut(-2, 16, [10, 20, 30])]},
        Window(20, 40),
        [64, 64, 128, 191, 191],
    ),
    ("LUT Descriptor: 12 bits", {"stored": [0, 1, 2], "ModalityLUTSequence": [lut(0, 12, [0, 2000, 4000])]}, Window(2000, 4000), [0, 127.5, 255]),
    (
        "LUT Descriptor: far values",
        {"stored": [-32768, 32767], "dtype": np.int16, "bits": 16, "ModalityLUTSequence": [lut(-2, 16, [5, 10])]},
        Window(5, 10),
        [127.5, 255],
    ),
    ("LUT Explanation", {"stored": [984], "ModalityLUTSequence": [lut(984, 16, [7], LUTExplanation="density")]}, Window(5, 10), [178.5]),
    ("Modality LUT Type", {"stored": [984], "ModalityLUTSequence": [lut(984, 16, [7], ModalityLUTType="OD")]}, Window(5, 10), [178.5]),
    (
        "LUT Data: 8 bits an entry",
        {"stored": [0, 1, 2, 3], "ModalityLUTSequence": [lut(0, 8, bytes([0, 50, 100, 200]))]},
        Window(100, 200),
        [0, 64, 128, 255],
    ),
    ("Rescale Intercept", {"RescaleIntercept": -1024, **LIVER}, None, AS_HU),
    (
        "Rescale Intercept, empty",
        {"RescaleIntercept": None, "RescaleSlope": 2},
        Window(2000, 4000),
        windowed([2 * x for x in STORED], 2000, 4000, exact),
    ),
    ("Rescale Slope", {**CT, "RescaleSlope": 0.5}, Window(40, 400), windowed([x / 2 - 1024 for x in STORED], 40, 400, exact)),
    ("Rescale Slope below 0", {**CT, "RescaleSlope": -1}, Window(-2000, 4000), windowed([-x - 1024 for x in STORED], -2000, 4000, exact)),
    ("Rescale Slope, empty", {"RescaleSlope": None, "RescaleIntercept": None}, Window(2000, 4000), windowed(STORED, 2000, 4000, exact)),
    ("Rescale Type", {**CT, **LIVER, "RescaleType": "US"}, None, AS_HU),
]

VOI_LUT = [
    ("VOI LUT Sequence", {"stored": [0, 984, 985, 986, 987, 4095], "VOILUTSequence": [TABLE]}, None, [0, 0, 0, 4, 233, 233]),
    ("VOI LUT Sequence beside a window", {"stored": [987], "VOILUTSequence": [TABLE], **WIDE}, None, [233]),
    ("VOI LUT Sequence and a window that is given", {"VOILUTSequence": [TABLE]}, Window(2000, 4000), windowed(STORED, 2000, 4000, exact)),
    ("VOI LUT Sequence without a table", {"VOILUTSequence": [item(LUTExplanation="none")], **WIDE}, None, PLAIN),
    ("VOI LUT Sequence of two", {"stored": [987], "VOILUTSequence": [TABLE, lut(0, 16, [0])]}, None, [233]),
    ("LUT Descriptor: 8 bits, 4096 entries", {"VOILUTSequence": [lut(0, 8, bytes(x // 16 for x in range(4096)))]}, None, [x // 16 for x in STORED]),
    ("LUT Descriptor: 12 bits", {"VOILUTSequence": [lut(0, 12, list(range(4096)))]}, None, [x * 255 / 4095 for x in STORED]),
    ("LUT Descriptor: after rescaling", {**CT, "VOILUTSequence": [lut(-1024, 12, list(range(4096)))]}, None, [x * 255 / 4095 for x in STORED]),
    (
        "LUT Descriptor: after rescaling, implicit VR",
        {**CT, "VOILUTSequence": [lut(64512, 12, list(range(4096)))], "syntax": ImplicitVRLittleEndian},
        None,
        [x * 255 / 4095 for x in STORED],
    ),
    (
        "LUT Descriptor: halves are rounded",
        {"stored": [0, 1, 2], "RescaleSlope": 0.8, "VOILUTSequence": [lut(0, 8, bytes([0, 100, 200]))]},
        None,
        [0, 100, 200],
    ),
    ("LUT Explanation", {"stored": [987], "VOILUTSequence": [lut(984, 16, [0, 0, 0, 60000], LUTExplanation="x")]}, None, [233]),
    (
        "LUT Data: a list of numbers",
        {"stored": [987], "VOILUTSequence": [item(LUTDescriptor=[2, 986, 16], LUTData=pydicom.DataElement("LUTData", "US", [0, 60000]))]},
        None,
        [233],
    ),
    (
        "LUT Data: big endian",
        {
            "stored": [987],
            "dtype": ">u2",
            "syntax": ExplicitVRBigEndian,
            "VOILUTSequence": [item(LUTDescriptor=[2, 986, 16], LUTData=np.array([0, 60000], ">u2").tobytes())],
        },
        None,
        [233],
    ),
    ("LUT Data: words of 8 bits", {"stored": [0, 1, 2], "VOILUTSequence": [lut(0, 8, [0, 100, 200])]}, None, [0, 100, 200]),
    ("Window Center", {**CT, **LIVER, "WindowCenter": -600}, None, windowed(HU, -600, 400)),
    ("Window Center, several", {**CT, "WindowCenter": [40, -600], "WindowWidth": [400, 1500]}, None, AS_HU),
    (
        "Window Center, of signed values",
        {"stored": [-5, 0, 7], "dtype": np.int16, "WindowCenter": 1, "WindowWidth": 11},
        None,
        windowed([-5, 0, 7], 1, 11),
    ),
    ("Window Center, empty", {"stored": EIGHT, "dtype": np.uint8, "bits": 8, "WindowCenter": None, "WindowWidth": 400}, None, EIGHT),
    ("Window Width", {**CT, **LIVER, "WindowWidth": 2000}, None, windowed(HU, 40, 2000)),
    ("Window Width 1", {**CT, "WindowCenter": 40.5, "WindowWidth": 1}, None, [0, 0, 0, 0, 255, 255, 255, 255]),
    ("Window Width 2", {"stored": [9, 10, 11], "WindowCenter": 10, "WindowWidth": 2}, None, [0, 255, 255]),
    ("Window Width 0 is none", {"stored": EIGHT, "dtype": np.uint8, "bits": 8, "WindowCenter": 0, "WindowWidth": 0}, None, EIGHT),
    ("Window Width below 1 is none", {"stored": EIGHT, "dtype": np.uint8, "bits": 8, "WindowCenter": 9, "WindowWidth": 0.5}, None, EIGHT),
    ("Window Center & Width Explanation", {**CT, **LIVER, "WindowCenterWidthExplanation": "LUNG"}, None, AS_HU),
    ("VOI LUT Function LINEAR", {**CT, **LIVER, "VOILUTFunction": "LINEAR"}, None, AS_HU),
    ("VOI LUT Function LINEAR_EXACT", {**CT, **LIVER, "VOILUTFunction": "LINEAR_EXACT"}, None, windowed(HU, 40, 400, exact)),
    (
        "VOI LUT Function LINEAR_EXACT, narrow",
        {"stored": [0, 1, 2], "RescaleSlope": 0.1, "WindowCenter": 0.1, "WindowWidth": 0.4, "VOILUTFunction": "LINEAR_EXACT"},
        None,
        windowed([0, 0.1, 0.2], 0.1, 0.4, exact),
    ),
    ("VOI LUT Function SIGMOID", {**CT, **LIVER, "VOILUTFunction": "SIGMOID"}, None, windowed(HU, 40, 400, sigmoid)),
    (
        "VOI LUT Function SIGMOID, steep",
        {**CT, "WindowCenter": 40, "WindowWidth": 1, "VOILUTFunction": "SIGMOID"},
        None,
        [0, 0, 0, 127.5, 255, 255, 255, 255],
    ),
    (
        "VOI LUT Function SIGMOID and a window that is given",
        {**CT, **LIVER, "VOILUTFunction": "SIGMOID"},
        Window(40, 400),
        windowed(HU, 40, 400, exact),
    ),
    ("VOI LUT Function, empty", {**CT, **LIVER, "VOILUTFunction": None}, None, AS_HU),
]

GENERAL_IMAGE = [
    ("Presentation LUT Shape IDENTITY", {**WIDE, "PresentationLUTShape": "IDENTITY"}, None, PLAIN),
    ("Presentation LUT Shape INVERSE", {**WIDE, "PresentationLUTShape": "INVERSE"}, None, down(PLAIN)),
    ("Presentation LUT Shape INVERSE with MONOCHROME1: once", {**WIDE, "kind": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, None, down(PLAIN)),
    ("Presentation LUT Shape IDENTITY with MONOCHROME1", {**WIDE, "kind": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"}, None, PLAIN),
    ("Presentation LUT Shape, empty", {**WIDE, "kind": "MONOCHROME1", "PresentationLUTShape": None}, None, down(PLAIN)),
    (
        "Real World Value Mapping Sequence",
        {**WIDE, "RealWorldValueMappingSequence": [item(RealWorldValueSlope=7.0, RealWorldValueIntercept=9.0)]},
        None,
        PLAIN,
    ),
    (
        "Icon Image Sequence",
        {**WIDE, "IconImageSequence": [item(Rows=2, Columns=2, PhotometricInterpretation="MONOCHROME1", BitsAllocated=8, PixelData=b"1234")]},
        None,
        PLAIN,
    ),
    *(
        (f"{keyword}: pixels as they are", {**WIDE, keyword: value}, None, PLAIN)
        for keyword, value in {
            "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
            "InstanceNumber": 7,
            "PatientOrientation": ["P", "F"],
            "AcquisitionNumber": 3,
            "ImagesInAcquisition": 2,
            "ImageComments": "inverted",
            "QualityControlImage": "YES",
            "BurnedInAnnotation": "YES",
            "RecognizableVisualFeatures": "YES",
            "DerivationDescription": "scaled",
            "LossyImageCompression": "01",
            "LossyImageCompressionRatio": 12,
            "LossyImageCompressionMethod": "ISO_10918_1",
            "ContentTime": "101010",
            "ImageLaterality": "L",
        }.items()
    ),
]

SIGNED = [-128, -1, 0, 127]
IMAGE_PIXEL = [
    ("Samples per Pixel, absent", {**WIDE, "SamplesPerPixel": "del"}, None, PLAIN),
    ("Photometric Interpretation MONOCHROME1", {**WIDE, "kind": "MONOCHROME1"}, None, down(PLAIN)),
    ("Photometric Interpretation MONOCHROME1 and a window", {"kind": "MONOCHROME1"}, Window(2000, 4000), down(windowed(STORED, 2000, 4000, exact))),
    ("Photometric Interpretation, empty", {**WIDE, "PhotometricInterpretation": None}, None, PLAIN),
    ("Rows, Columns", {"stored": np.array(STORED), **WIDE, "Rows": 2, "Columns": 4}, None, PLAIN),
    ("Bits Allocated 8", {"stored": EIGHT, "dtype": np.uint8, "bits": 8}, None, EIGHT),
    ("Bits Allocated 32", {**WIDE, "dtype": np.uint32, "bits": 32}, None, PLAIN),
    ("Bits Stored 8 in 16", {"stored": EIGHT, "bits": 8}, None, EIGHT),
    ("Bits Stored 6 in 8", {"stored": [0, 21, 63], "dtype": np.uint8, "bits": 6}, None, [0, 85, 255]),
    ("Bits Stored 8 in 16, rescaled", {"stored": EIGHT, "bits": 8, "RescaleSlope": -2, "RescaleIntercept": 5}, None, down(EIGHT)),
    ("Bits Stored 8 in 16, modality LUT", {"stored": [0, 1, 2], "bits": 8, "ModalityLUTSequence": [lut(0, 8, [0, 51, 255])]}, None, [0, 51, 255]),
    ("Bits Stored, empty", {**WIDE, "BitsStored": None, "HighBit": None}, None, PLAIN),
    ("Bits Stored, with an overlay above them", {"stored": [x | 0x8000 for x in STORED], **WIDE}, None, PLAIN),
    ("High Bit 15 of 12", {"stored": [x << 4 | 9 for x in STORED], **WIDE, "HighBit": 15}, None, PLAIN),
    (
        "High Bit 15 of 12, signed",
        {"stored": [x << 4 for x in (-5, 0, 7)], "dtype": np.int16, "HighBit": 15, "WindowCenter": 1, "WindowWidth": 11},
        None,
        windowed([-5, 0, 7], 1, 11),
    ),
    ("Pixel Representation 1", {"stored": HU, "dtype": np.int16, "bits": 16, **LIVER}, None, AS_HU),
    ("Pixel Representation 1, 8 bits", {"stored": SIGNED, "dtype": np.int8, "bits": 8}, None, [0, 127, 128, 255]),
    (
        "Pixel Representation 1, sign not extended",
        {"stored": [x & 0xFFF for x in (-5, 0, 7)], "PixelRepresentation": 1, "WindowCenter": 1, "WindowWidth": 11},
        None,
        windowed([-5, 0, 7], 1, 11),
    ),
    ("Pixel Representation, empty", {**WIDE, "PixelRepresentation": None}, None, PLAIN),
    ("Pixel Aspect Ratio: pixels as they are", {**WIDE, "PixelAspectRatio": [2, 1]}, None, PLAIN),
    ("Smallest Image Pixel Value is no window", {**WIDE, "SmallestImagePixelValue": 800}, None, PLAIN),
    ("Largest Image Pixel Value is no window", {**WIDE, "LargestImagePixelValue": 1200}, None, PLAIN),
    ("ICC Profile, Color Space", {**WIDE, "ICCProfile": b"none", "ColorSpace": "SRGB"}, None, PLAIN),
    ("Number of Frames, empty", {**WIDE, "NumberOfFrames": None}, None, PLAIN),
    ("Number of Frames", {"stored": [[0, 2048], [4095, 0]], **WIDE}, None, [windowed([0, 2048], 2048, 4096), windowed([4095, 0], 2048, 4096)]),
    ("Pixel Padding Value", {**WIDE, "PixelPaddingValue": 4095}, None, [*PLAIN[:-1], 0]),
    ("Pixel Padding Value, empty", {**WIDE, "PixelPaddingValue": None}, None, PLAIN),
    ("Pixel Padding Value with MONOCHROME1", {**WIDE, "kind": "MONOCHROME1", "PixelPaddingValue": 0}, None, [0, *down(PLAIN)[1:]]),
    ("Pixel Padding Value beyond 8 bits", {"stored": [0, 9, 255], "dtype": np.uint8, "bits": 8, "PixelPaddingValue": 65535}, None, [0, 9, 255]),
    ("Pixel Padding Range Limit beyond 8 bits", {"stored": [0, 9, 255], "dtype": np.uint8, "bits": 8, **BEYOND}, None, [0, 0, 255]),
    ("Pixel Padding Value is a stored one", {**CT, **LIVER, "PixelPaddingValue": 1264}, None, [*AS_HU[:6], 0, AS_HU[7]]),
    (
        "Pixel Padding Value is left out of auto",
        {"stored": [-2000] * 30 + [0, 1, 2], "dtype": np.int16, "bits": 16, "PixelPaddingValue": -2000},
        "auto",
        [0] * 30 + windowed([0, 1, 2], 1, 1.98, exact),
    ),
    (
        "Pixel Padding Value as unsigned number",
        {
            "stored": [-2000, 0, 2],
            "dtype": np.int16,
            "bits": 16,
            "PixelPaddingValue": pydicom.DataElement("PixelPaddingValue", "US", 63536),
            "kind": "MONOCHROME1",
        },
        Window(1, 2),
        [0, 255, 0],
    ),
    ("Pixel Padding Range Limit", {**WIDE, "PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 1104}, None, [*PLAIN[:4], 0, 0, 0, 0]),
    (
        "Pixel Padding Range Limit above",
        {**WIDE, "kind": "MONOCHROME1", "PixelPaddingValue": 0, "PixelPaddingRangeLimit": 984},
        None,
        [0, 0, 0, *down(PLAIN)[3:]],
    ),
    ("Pixel Padding Range Limit alone", {**WIDE, "PixelPaddingRangeLimit": 1104}, None, PLAIN),
    ("Pixel Padding Value everywhere", {"stored": [7, 7], "PixelPaddingValue": 7}, "auto", [0, 0]),
    ("Pixel Intensity Relationship", {**WIDE, "PixelIntensityRelationship": "LOG", "PixelIntensityRelationshipSign": -1}, None, PLAIN),
]


def shared(**macros) -> dict:
    return {"SharedFunctionalGroupsSequence": [item(**{f"{name}Sequence": [content] for name, content in macros.items()})]}


def per_frame(*frames: dict) -> dict:
    return {"PerFrameFunctionalGroupsSequence": [item(**{f"{name}Sequence": [content] for name, content in macros.items()}) for macros in frames]}


RESCALE = item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")
DOUBLE = item(RescaleSlope=2, RescaleIntercept=0, RescaleType="US")
TWO = {"stored": [STORED, STORED]}
PIXEL_VALUE_TRANSFORMATION = [
    ("Pixel Value Transformation Sequence, shared", {**TWO, **LIVER, **shared(PixelValueTransformation=RESCALE)}, None, [AS_HU, AS_HU]),
    (
        "Pixel Value Transformation Sequence, of each frame",
        {**TWO, **LIVER, **per_frame({"PixelValueTransformation": RESCALE}, {"PixelValueTransformation": DOUBLE})},
        None,
        [AS_HU, windowed([2 * x for x in STORED], 40, 400)],
    ),
    (
        "Pixel Value Transformation Sequence, of one frame and shared",
        {**TWO, **LIVER, **shared(PixelValueTransformation=RESCALE), **per_frame({"PixelValueTransformation": DOUBLE}, {})},
        None,
        [windowed([2 * x for x in STORED], 40, 400), AS_HU],
    ),
    (
        "Pixel Value Transformation Sequence before the header",
        {**LIVER, **CT, "RescaleIntercept": 0, **shared(PixelValueTransformation=RESCALE)},
        None,
        AS_HU,
    ),
    (
        "Pixel Value Transformation Sequence, empty",
        {**LIVER, **CT, "SharedFunctionalGroupsSequence": [item(PixelValueTransformationSequence=[])]},
        None,
        AS_HU,
    ),
    ("Rescale Intercept", {**LIVER, **shared(PixelValueTransformation=item(RescaleIntercept=-1024))}, None, AS_HU),
    ("Rescale Intercept, empty", {**LIVER, **CT, **shared(PixelValueTransformation=item(RescaleIntercept=None, RescaleSlope=None))}, None, AS_HU),
    (
        "Rescale Slope",
        {"stored": [[0, 10], [0, 10]], **per_frame(*({"PixelValueTransformation": item(RescaleSlope=s, RescaleIntercept=0)} for s in (1, 2)))},
        Window(10, 20),
        [[0, 127.5], [0, 255]],
    ),
    ("Rescale Type", {**LIVER, **shared(PixelValueTransformation=item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="US"))}, None, AS_HU),
]

SEEN = item(WindowCenter=40, WindowWidth=400)
FRAME_VOI_LUT = [
    ("Frame VOI LUT Sequence, shared", {**TWO, **CT, **shared(FrameVOILUT=SEEN)}, None, [AS_HU, AS_HU]),
    (
        "Frame VOI LUT Sequence, of each frame",
        {**TWO, **CT, **per_frame({"FrameVOILUT": SEEN}, {"FrameVOILUT": item(WindowCenter=-600, WindowWidth=1500)})},
        None,
        [AS_HU, windowed(HU, -600, 1500)],
    ),
    (
        "Frame VOI LUT Sequence, of one frame and shared",
        {**TWO, **CT, **shared(FrameVOILUT=SEEN), **per_frame({"FrameVOILUT": item(WindowCenter=-600, WindowWidth=1500)}, {})},
        None,
        [windowed(HU, -600, 1500), AS_HU],
    ),
    ("Frame VOI LUT Sequence before the header", {**CT, "WindowCenter": 0, "WindowWidth": 10, **shared(FrameVOILUT=SEEN)}, None, AS_HU),
    ("Frame VOI LUT Sequence and a window that is given", {**CT, **shared(FrameVOILUT=SEEN)}, Window(0, 100), windowed(HU, 0, 100, exact)),
    ("Window Center, empty", {**CT, **LIVER, **shared(FrameVOILUT=item(WindowCenter=None, WindowWidth=None))}, None, AS_HU),
    ("Window Width", {**CT, **shared(FrameVOILUT=item(WindowCenter=40, WindowWidth=80))}, None, windowed(HU, 40, 80)),
    (
        "Window Center & Width Explanation",
        {**CT, **shared(FrameVOILUT=item(WindowCenter=40, WindowWidth=400, WindowCenterWidthExplanation="BRAIN"))},
        None,
        AS_HU,
    ),
    (
        "VOI LUT Function",
        {**CT, **shared(FrameVOILUT=item(WindowCenter=40, WindowWidth=400, VOILUTFunction="SIGMOID"))},
        None,
        windowed(HU, 40, 400, sigmoid),
    ),
    ("VOI LUT Sequence", {"stored": [987], **shared(FrameVOILUT=item(VOILUTSequence=[TABLE]))}, None, [233]),
]

MODULES = {
    "C.11.1": MODALITY_LUT,
    "C.11.2": VOI_LUT,
    "C.7.6.1": GENERAL_IMAGE,
    "C.7.6.3": IMAGE_PIXEL,
    "C.7.6.16.2.9": PIXEL_VALUE_TRANSFORMATION,
    "C.7.6.16.2.10": FRAME_VOI_LUT,
}
ROWS = [pytest.param(*row[1:], id=f"{module} {row[0]}") for module, rows in MODULES.items() for row in rows]


@pytest.mark.parametrize(("file", "window", "expected"), ROWS)
def test_a_viewer_shows(tmp_path, file, window, expected):
    path = save(tmp_path / "a.dcm", **{"stored": STORED, **file})
    assert np.array(shown(path, window)) == pytest.approx(np.array(expected), abs=0.51)


REFUSED = [
    ("Rescale Slope 0", {**LIVER, "RescaleSlope": 0}, "Rescale Slope is 0"),
    (
        "VOI LUT Function of another name",
        {**LIVER, "VOILUTFunction": "CUBIC"},
        "CUBIC is none that the standard knows; give a window: --window LEVEL WIDTH, in Python window=",
    ),
    ("LUT Data too short", {"VOILUTSequence": [item(LUTDescriptor=[9, 0, 16], LUTData=bytes(6))]}, "entries, not 9 as it says"),
    ("Window Width, empty", {"WindowCenter": 40, "WindowWidth": None}, "states no window; give one: --window"),
    ("Window Width below 1", {"WindowCenter": 40, "WindowWidth": 0.5}, "states no window; give one: --window"),
    ("Smallest and Largest Image Pixel Value", {"SmallestImagePixelValue": 0, "LargestImagePixelValue": 255}, "states no window"),
    ("Pixel Data, absent", {"PixelData": "del"}, "no grey image can be made of it"),
    ("Rows, absent", {"Rows": "del"}, "holds no image"),
]


@pytest.mark.parametrize(("file", "words"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_what_has_no_meaning_is_refused_in_a_line(tmp_path, file, words):
    path = save(tmp_path / "a.dcm", STORED, **file)
    with pytest.raises(UserError, match=words) as caught:
        shown(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_automatic_window_is_that_of_all_frames(tmp_path):
    path = save(tmp_path / "a.dcm", [[0, 10], [20, 40]])
    low, high = np.percentile([0, 10, 20, 40], [0.5, 99.5])
    expected = [[np.clip((x - low) / (high - low), 0, 1) * 255 for x in row] for row in ([0, 10], [20, 40])]
    assert np.abs(np.array(shown(path, "auto")) - np.array(expected)).max() <= 0.51


def test_an_automatic_window_takes_each_frame_by_its_own_rescaling(tmp_path):
    slopes = [1, 10]
    macros = [{"PixelValueTransformation": item(RescaleSlope=slope, RescaleIntercept=0, RescaleType="US")} for slope in slopes]
    path = save(tmp_path / "a.dcm", [[0, 10], [20, 40]], **per_frame(*macros))
    low, high = np.percentile([0, 10, 200, 400], [0.5, 99.5])
    expected = [[np.clip((x - low) / (high - low), 0, 1) * 255 for x in row] for row in ([0, 10], [200, 400])]
    assert np.abs(np.array(shown(path, "auto")) - np.array(expected)).max() <= 0.51


@pytest.mark.parametrize(("keyword", "dtype"), [("Float", np.float32), ("DoubleFloat", np.float64)])
def test_floating_point_pixels(tmp_path, keyword, dtype):
    values = np.array([0.25, 0.5, 1, np.nan, -9], dtype)
    absent = dict.fromkeys(("PixelData", "BitsStored", "HighBit", "PixelRepresentation"), "del")
    tags = {"BitsAllocated": 8 * values.itemsize, f"{keyword}PixelData": values.tobytes(), f"{keyword}PixelPaddingValue": -9.0}
    path = save(tmp_path / "a.dcm", [0] * 5, **absent, **tags)
    assert shown(path, Window(0.5, 1)) == [64, 128, 255, 0, 0]
    assert shown(path, "auto")[4] == 0
    with pytest.raises(UserError, match="states no window"):
        shown(path)
