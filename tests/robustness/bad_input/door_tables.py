"""Bad input: NIH's tables and lists."""

from __future__ import annotations

import gzip
import io
import zipfile

from runner import Act, Place, case, refused, works

from cxr_seam.data.nih import LABEL_TABLES, TEST_LIST, TRAIN_VAL_LIST, load_metadata, train_val_split
from cxr_seam.findings import FINDINGS

LABELS, LIST, BOXES = "label table", "train/test list", "box table"
ENTRIES, BOX_TABLE = LABEL_TABLES[0], "BBox_List_2017.csv"
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
ROWS = ("00000001_000.png,No Finding", "00000001_001.png,Mass|Nodule", "00000002_000.png,Hernia")
FILES = {
    ENTRIES: "\n".join([HEADER, *(f"{row},0,{int(row[:8])},58,M,PA,2500,2048,0.171,0.171" for row in ROWS), ""]),
    TRAIN_VAL_LIST: "00000001_000.png\n00000001_001.png",
    TEST_LIST: "00000002_000.png",
    BOX_TABLE: "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000002_000.png,Mass,1,2,30,40,,,\n",
}
SAME = "the labels, lists and boxes that were written"


def tables(place: Place, changed: dict[str, bytes | str | None]) -> Act:
    """Lay out the four tables with some of them replaced, None: left out; the act reads them."""
    for name, content in (FILES | changed).items():
        if content is not None:
            place.write(f"nih/{name}", content)

    def act() -> str:
        read = load_metadata(place.folder / "nih")
        labels = [[f for f in FINDINGS if read.images.loc[row[:16], f]] for row in ROWS]
        same = (
            labels == [[], ["Mass", "Nodule"], ["Hernia"]]
            and (*read.train_val, *read.test) == tuple(row[:16] for row in ROWS)
            and read.boxes.to_numpy().tolist() == [["00000002_000.png", "Mass", *(v / 1024 for v in (1, 2, 30, 40))]]
        )
        return SAME if same else f"other ones: {read}"

    return act


def row(name: str, old: str, new: str) -> dict[str, str]:
    """A table with a piece replaced."""
    assert old in FILES[name]
    return {name: FILES[name].replace(old, new)}


def add(door: str, given: str, expected, changed: dict[str, bytes | str | None]) -> None:  # noqa: ANN001
    """A case of some files replaced."""
    case(door, given, expected)(lambda place: tables(place, changed))


text = FILES[ENTRIES]
again = "download"
add(LABELS, "missing", refused(ENTRIES, "data_download.sh --tables-only"), {ENTRIES: None})
add(LABELS, "empty", refused(ENTRIES, "is empty; fetch it again"), {ENTRIES: ""})
add(LABELS, "a header and no row", refused(ENTRIES, "no row; fetch it again"), {ENTRIES: HEADER + "\n"})
add(LABELS, "cut in the middle of a row, in the age", refused(ENTRIES, "fetch it again"), {ENTRIES: text[:-30]})
add(LABELS, "cut in an image's name", refused(ENTRIES, "fetch it again"), {ENTRIES: text[: text.index("1_001.png")]})
add(LABELS, "cut behind an image's name", refused(ENTRIES, "fetch it again"), {ENTRIES: text[: text.index(",Hernia")]})
add(
    LABELS,
    "gzip cut short",
    refused(f"{ENTRIES}.gz", "fetch it again"),
    {ENTRIES: None, f"{ENTRIES}.gz": gzip.compress(text.encode())[:-12]},
)
add(
    LABELS,
    "gzip with a flipped bit",
    refused(f"{ENTRIES}.gz", "fetch it again"),
    {ENTRIES: None, f"{ENTRIES}.gz": gzip.compress(text.encode())[:-7] + b"\x7f" + gzip.compress(text.encode())[-6:]},
)
add(
    LABELS,
    "a gzip bomb: 70 MB of zeros",
    refused(f"{ENTRIES}.gz", "longer than"),
    {ENTRIES: None, f"{ENTRIES}.gz": gzip.compress(bytes(2**20), mtime=0) * 70},
)
add(LABELS, "a wrong column: no Patient ID", refused(ENTRIES, "no column 'Patient ID'"), row(ENTRIES, "t ID", "t"))
add(LABELS, "semicolons for commas", refused(ENTRIES, "no column 'Image Index'"), {ENTRIES: text.replace(",", ";")})
add(LABELS, "a row with too many columns", refused(ENTRIES, "download"), row(ENTRIES, "Hernia,0", "Hernia,0,0,0,0"))
add(LABELS, "the same image twice", refused(ENTRIES, "lists 00000001_000.png twice"), row(ENTRIES, "1_001", "1_000"))
add(LABELS, "a finding that is none", refused(ENTRIES, "unknown finding 'Covid'"), row(ENTRIES, "Hernia", "Covid"))
add(LABELS, "an empty label", refused(ENTRIES, "unknown finding ''"), row(ENTRIES, "Hernia", ""))
add(LABELS, "NaN for a label", refused(ENTRIES, "unknown finding 'nan'"), row(ENTRIES, "Hernia", "nan"))
add(LABELS, "No Finding beside a finding", refused(ENTRIES, "correct the label"), row(ENTRIES, "Mass", "No Finding"))
add(
    LABELS,
    "a name in the patient's place",
    refused(ENTRIES, "'Doe' is not a"),
    row(ENTRIES, "Hernia,0,2", "Hernia,0,Doe"),
)
add(
    LABELS, "an infinite patient", refused(ENTRIES, "'inf' is not a number"), row(ENTRIES, "Hernia,0,2", "Hernia,0,inf")
)
add(
    LABELS,
    "half a patient",
    refused(ENTRIES, "'1.5' is not a whole number"),
    row(ENTRIES, "Hernia,0,2", "Hernia,0,1.5"),
)
add(
    LABELS,
    "a patient beyond 64 bits",
    refused(ENTRIES, "is not a whole number"),
    row(ENTRIES, "Hernia,0,2", "Hernia,0,1e30"),
)
add(LABELS, "a byte-order mark", works(SAME), {ENTRIES: b"\xef\xbb\xbf" + text.encode()})
add(LABELS, "Windows line ends", works(SAME), {ENTRIES: text.replace("\n", "\r\n")})
add(LABELS, "quoted cells", works(SAME), row(ENTRIES, "Mass|Nodule", '"Mass|Nodule"'))
add(LABELS, "a quote that never ends", refused(ENTRIES, "fetch it again"), row(ENTRIES, "Hernia", '"Hernia'))
add(LABELS, "UTF-16, as Excel saves text", refused(ENTRIES, "save it as UTF-8"), {ENTRIES: text.encode("utf-16")})
add(
    LABELS,
    "Latin-1 bytes",
    refused(ENTRIES, "save it as UTF-8"),
    {ENTRIES: text.replace("58,M", "58,m\xe4").encode("latin-1")},
)
add(LABELS, "NUL bytes within", refused(ENTRIES, "fetch it again"), {ENTRIES: text.replace("Hernia", "Her\0nia")})
add(LABELS, "zeros alone, as a disk leaves them", refused(ENTRIES, "fetch it again"), {ENTRIES: bytes(4096)})
add(LABELS, "a web page", refused(ENTRIES, "no column 'Image Index'"), {ENTRIES: "<!DOCTYPE html>\n<p>gone</p>\n"})


@case(LABELS, "an Excel file named csv", refused(ENTRIES, "save it as"))
def excel(place: Place) -> Act:
    with zipfile.ZipFile(book := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/worksheets/sheet1.xml", "<worksheet/>" * 100)
    return tables(place, {ENTRIES: book.getvalue()})


@case(LABELS, "a folder of that name", refused(ENTRIES, "data_download.sh"))
def folder(place: Place) -> Act:
    (place.folder / "nih" / ENTRIES).mkdir(parents=True)
    return tables(place, {ENTRIES: None})


@case(LABELS, "the folder itself missing", refused("nowhere", "data_download.sh"))
def nowhere(place: Place) -> Act:
    return lambda: load_metadata(place.folder / "nowhere")


@case(LABELS, "a file in the folder's place", refused("nih.csv", "data_download.sh"))
def a_file(place: Place) -> Act:
    path = place.write("nih.csv", text)
    return lambda: load_metadata(path)


@case(LABELS, "images that no list names", refused(TRAIN_VAL_LIST, "nothing to train on"))
def on_no_list(place: Place) -> Act:
    tables(place, {TRAIN_VAL_LIST: "00000007_000.png"})
    return lambda: train_val_split(load_metadata(place.folder / "nih"), validation_fraction=0.5, disease_free=9, seed=0)


add(LIST, "missing", refused(TEST_LIST, "data_download.sh"), {TEST_LIST: None})
add(LIST, "empty", refused(TEST_LIST, "is empty; fetch it again"), {TEST_LIST: ""})
add(LIST, "blank lines alone", refused(TEST_LIST, "is empty; fetch it again"), {TEST_LIST: "\n\n\n"})
add(LIST, "an image twice", refused(TRAIN_VAL_LIST, "twice; fetch it again"), {TRAIN_VAL_LIST: "1.png\n2.png\n1.png"})
add(LIST, "an image on both lists", refused("00000001_000.png", "fetch the lists"), {TEST_LIST: "00000001_000.png"})
add(LIST, "junk in the middle", refused(TEST_LIST, "no image name; fetch it"), {TEST_LIST: "8.png\n<br>\n9.png"})
add(LIST, "commas for line ends", refused(TEST_LIST, "no image name; fetch it"), {TEST_LIST: "8.png,9.png,10.png"})
add(LIST, "cut in the last name", refused(TEST_LIST, "'00000003_00', which"), {TEST_LIST: "8.png\n00000003_00"})
add(LIST, "a column of numbers", refused(TEST_LIST, "no image name; fetch it"), {TEST_LIST: "1\n2\n3\n"})
add(LIST, "a name with a path", refused(TEST_LIST, "no image name; fetch it"), {TEST_LIST: "../../00000003_000.png"})
add(LIST, "a byte-order mark and Windows line ends", works(SAME), {TEST_LIST: b"\xef\xbb\xbf00000002_000.png\r\n"})
add(LIST, "random bytes", refused(TEST_LIST, "save it as UTF-8"), {TEST_LIST: bytes(range(128, 256))})

plain = "1,2,30,40"
add(BOXES, "missing", refused(BOX_TABLE, "data_download.sh"), {BOX_TABLE: None})
add(BOXES, "another table", refused(BOX_TABLE, "not NIH's box table"), {BOX_TABLE: text})
add(
    BOXES, "a column too few", refused(BOX_TABLE, "not NIH's box table"), {BOX_TABLE: "Image Index,Finding Label,x,y\n"}
)
add(BOXES, "a negative corner", refused(BOX_TABLE, "1024x1024"), row(BOX_TABLE, plain, "-5,2,30,40"))
add(BOXES, "a box that leaves the film", refused(BOX_TABLE, "1024x1024"), row(BOX_TABLE, plain, "1000,2,30,40"))
add(BOXES, "corners for width and height", refused(BOX_TABLE, "x, y, w, h"), row(BOX_TABLE, plain, "600,600,700,640"))
add(BOXES, "no height", refused(BOX_TABLE, "without width or height"), row(BOX_TABLE, plain, "1,2,30,0"))
add(BOXES, "a negative width", refused(BOX_TABLE, "without width or height"), row(BOX_TABLE, plain, "1,2,-30,40"))
add(BOXES, "NaN for a corner", refused(BOX_TABLE, "'nan' is not a number"), row(BOX_TABLE, plain, "nan,2,30,40"))
add(BOXES, "an infinite width", refused(BOX_TABLE, "'inf' is not a number"), row(BOX_TABLE, plain, "1,2,inf,40"))
add(BOXES, "a row cut short", refused(BOX_TABLE, "fetch it again"), {BOX_TABLE: FILES[BOX_TABLE][:-9]})
add(BOXES, "a finding that is none", refused(BOX_TABLE, "unknown finding 'Lump'"), row(BOX_TABLE, "Mass", "Lump"))
add(
    BOXES,
    "the same row twice",
    refused(BOX_TABLE, "fetch it again"),
    {BOX_TABLE: FILES[BOX_TABLE] + FILES[BOX_TABLE].splitlines()[1] + "\n"},
)
