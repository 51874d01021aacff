"""Bad input in NIH's tables and lists."""

from __future__ import annotations

import gzip
import io
import zipfile

from runner import Action, Expected, Sandbox, case, refused, works

from cxr_seam.data.layouts.nih import LABEL_TABLES, TEST_LIST, TRAIN_VAL_LIST, load_metadata
from cxr_seam.data.split import train_val_split
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


def read_tables(sandbox: Sandbox, changed: dict[str, bytes | str | None]) -> Action:
    """Write the four tables, some of them changed or missing (None); the action reads them."""
    for name, content in (FILES | changed).items():
        if content is not None:
            sandbox.write(f"nih/{name}", content)

    def action() -> str:
        read = load_metadata(sandbox.folder / "nih")
        labels = [[f for f in FINDINGS if read.images.loc[row[:16], f]] for row in ROWS]
        same = (
            labels == [[], ["Mass", "Nodule"], ["Hernia"]]
            and (*read.train_val, *read.test) == tuple(row[:16] for row in ROWS)
            and read.boxes.to_numpy().tolist() == [["00000002_000.png", "Mass", *(v / 1024 for v in (1, 2, 30, 40))]]
        )
        return SAME if same else f"others: {read}"

    return action


def replaced(name: str, old: str, new: str) -> dict[str, str]:
    """Return a table with `old` replaced by `new`."""
    assert old in FILES[name]
    return {name: FILES[name].replace(old, new)}


def add(group: str, description: str, expected: Expected, changed: dict[str, bytes | str | None]) -> None:
    """Add a case of changed files."""
    case(group, description, expected)(lambda sandbox: read_tables(sandbox, changed))


text = FILES[ENTRIES]
add(LABELS, "missing", refused(ENTRIES), {ENTRIES: None})
add(LABELS, "empty", refused(ENTRIES), {ENTRIES: ""})
add(LABELS, "a header and no row", refused(ENTRIES), {ENTRIES: HEADER + "\n"})
add(LABELS, "cut in the middle of a row, in the age", refused(ENTRIES), {ENTRIES: text[:-30]})
add(LABELS, "cut in an image's name", refused(ENTRIES), {ENTRIES: text[: text.index("1_001.png")]})
add(LABELS, "cut behind an image's name", refused(ENTRIES), {ENTRIES: text[: text.index(",Hernia")]})
add(
    LABELS,
    "gzip cut short",
    refused(f"{ENTRIES}.gz"),
    {ENTRIES: None, f"{ENTRIES}.gz": gzip.compress(text.encode())[:-12]},
)
add(
    LABELS,
    "gzip with a flipped bit",
    refused(f"{ENTRIES}.gz"),
    {ENTRIES: None, f"{ENTRIES}.gz": gzip.compress(text.encode())[:-7] + b"\x7f" + gzip.compress(text.encode())[-6:]},
)
add(
    LABELS,
    "a gzip bomb: 70 MB of zeros",
    refused(f"{ENTRIES}.gz"),
    {ENTRIES: None, f"{ENTRIES}.gz": gzip.compress(bytes(2**20), mtime=0) * 70},
)
add(LABELS, "a wrong column: no Patient ID", refused(ENTRIES, "Patient ID"), replaced(ENTRIES, "t ID", "t"))
add(LABELS, "semicolons for commas", refused(ENTRIES, "Image Index"), {ENTRIES: text.replace(",", ";")})
add(LABELS, "a row with too many columns", refused(ENTRIES), replaced(ENTRIES, "Hernia,0", "Hernia,0,0,0,0"))
add(LABELS, "the same image twice", refused(ENTRIES, "00000001_000.png"), replaced(ENTRIES, "1_001", "1_000"))
add(LABELS, "an unknown finding", refused(ENTRIES, "'Covid'"), replaced(ENTRIES, "Hernia", "Covid"))
add(LABELS, "an empty label", refused(ENTRIES, "''"), replaced(ENTRIES, "Hernia", ""))
add(LABELS, "NaN for a label", refused(ENTRIES, "'nan'"), replaced(ENTRIES, "Hernia", "nan"))
add(LABELS, "No Finding beside a finding", refused(ENTRIES), replaced(ENTRIES, "Mass", "No Finding"))
add(LABELS, "a name for the patient number", refused(ENTRIES, "'Doe'"), replaced(ENTRIES, "Hernia,0,2", "Hernia,0,Doe"))
add(LABELS, "an infinite patient", refused(ENTRIES, "'inf'"), replaced(ENTRIES, "Hernia,0,2", "Hernia,0,inf"))
add(LABELS, "half a patient", refused(ENTRIES, "'1.5'"), replaced(ENTRIES, "Hernia,0,2", "Hernia,0,1.5"))
add(LABELS, "a patient beyond 64 bits", refused(ENTRIES), replaced(ENTRIES, "Hernia,0,2", "Hernia,0,1e30"))
add(LABELS, "a byte-order mark", works(SAME), {ENTRIES: b"\xef\xbb\xbf" + text.encode()})
add(LABELS, "Windows line ends", works(SAME), {ENTRIES: text.replace("\n", "\r\n")})
add(LABELS, "quoted cells", works(SAME), replaced(ENTRIES, "Mass|Nodule", '"Mass|Nodule"'))
add(LABELS, "a quote that never ends", refused(ENTRIES), replaced(ENTRIES, "Hernia", '"Hernia'))
add(LABELS, "UTF-16, as Excel saves text", refused(ENTRIES), {ENTRIES: text.encode("utf-16")})
add(LABELS, "Latin-1 bytes", refused(ENTRIES), {ENTRIES: text.replace("58,M", "58,m\xe4").encode("latin-1")})
add(LABELS, "NUL bytes within", refused(ENTRIES), {ENTRIES: text.replace("Hernia", "Her\0nia")})
add(LABELS, "zeros alone, as a disk leaves them", refused(ENTRIES), {ENTRIES: bytes(4096)})
add(LABELS, "a web page", refused(ENTRIES, "Image Index"), {ENTRIES: "<!DOCTYPE html>\n<p>gone</p>\n"})


@case(LABELS, "an Excel file named csv", refused(ENTRIES))
def excel(sandbox: Sandbox) -> Action:
    with zipfile.ZipFile(book := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/worksheets/sheet1.xml", "<worksheet/>" * 100)
    return read_tables(sandbox, {ENTRIES: book.getvalue()})


@case(LABELS, "a folder of that name", refused(ENTRIES))
def folder(sandbox: Sandbox) -> Action:
    (sandbox.folder / "nih" / ENTRIES).mkdir(parents=True)
    return read_tables(sandbox, {ENTRIES: None})


@case(LABELS, "the folder itself missing", refused("nowhere"))
def nowhere(sandbox: Sandbox) -> Action:
    return lambda: load_metadata(sandbox.folder / "nowhere")


@case(LABELS, "a file in place of the folder", refused("nih.csv"))
def a_file(sandbox: Sandbox) -> Action:
    path = sandbox.write("nih.csv", text)
    return lambda: load_metadata(path)


@case(LABELS, "images that no list names", refused(TRAIN_VAL_LIST))
def on_no_list(sandbox: Sandbox) -> Action:
    read_tables(sandbox, {TRAIN_VAL_LIST: "00000007_000.png"})
    return lambda: train_val_split(
        load_metadata(sandbox.folder / "nih"), validation_fraction=0.5, num_normal_images=9, seed=0
    )


add(LIST, "missing", refused(TEST_LIST), {TEST_LIST: None})
add(LIST, "empty", refused(TEST_LIST), {TEST_LIST: ""})
add(LIST, "blank lines alone", refused(TEST_LIST), {TEST_LIST: "\n\n\n"})
add(LIST, "an image twice", refused(TRAIN_VAL_LIST), {TRAIN_VAL_LIST: "1.png\n2.png\n1.png"})
add(LIST, "an image on both lists", refused("00000001_000.png"), {TEST_LIST: "00000001_000.png"})
add(LIST, "junk in the middle", refused(TEST_LIST), {TEST_LIST: "8.png\n<br>\n9.png"})
add(LIST, "commas for line ends", refused(TEST_LIST), {TEST_LIST: "8.png,9.png,10.png"})
add(LIST, "cut in the last name", refused(TEST_LIST, "'00000003_00'"), {TEST_LIST: "8.png\n00000003_00"})
add(LIST, "a column of numbers", refused(TEST_LIST), {TEST_LIST: "1\n2\n3\n"})
add(LIST, "a name with a path", refused(TEST_LIST), {TEST_LIST: "../../00000003_000.png"})
add(LIST, "a byte-order mark and Windows line ends", works(SAME), {TEST_LIST: b"\xef\xbb\xbf00000002_000.png\r\n"})
add(LIST, "random bytes", refused(TEST_LIST), {TEST_LIST: bytes(range(128, 256))})

box = "1,2,30,40"
add(BOXES, "missing", refused(BOX_TABLE), {BOX_TABLE: None})
add(BOXES, "another table", refused(BOX_TABLE), {BOX_TABLE: text})
add(BOXES, "a column too few", refused(BOX_TABLE), {BOX_TABLE: "Image Index,Finding Label,x,y\n"})
add(BOXES, "a negative corner", refused(BOX_TABLE), replaced(BOX_TABLE, box, "-5,2,30,40"))
add(BOXES, "a box outside the image", refused(BOX_TABLE), replaced(BOX_TABLE, box, "1000,2,30,40"))
add(BOXES, "corners for width and height", refused(BOX_TABLE), replaced(BOX_TABLE, box, "600,600,700,640"))
add(BOXES, "no height", refused(BOX_TABLE), replaced(BOX_TABLE, box, "1,2,30,0"))
add(BOXES, "a negative width", refused(BOX_TABLE), replaced(BOX_TABLE, box, "1,2,-30,40"))
add(BOXES, "NaN for a corner", refused(BOX_TABLE, "'nan'"), replaced(BOX_TABLE, box, "nan,2,30,40"))
add(BOXES, "an infinite width", refused(BOX_TABLE, "'inf'"), replaced(BOX_TABLE, box, "1,2,inf,40"))
add(BOXES, "a row cut short", refused(BOX_TABLE), {BOX_TABLE: FILES[BOX_TABLE][:-9]})
add(BOXES, "an unknown finding", refused(BOX_TABLE, "'Lump'"), replaced(BOX_TABLE, "Mass", "Lump"))
add(
    BOXES,
    "the same row twice",
    refused(BOX_TABLE),
    {BOX_TABLE: FILES[BOX_TABLE] + FILES[BOX_TABLE].splitlines()[1] + "\n"},
)
