"""DICOM files made for tests, and files of pydicom's packages; nothing is downloaded."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import DataElement, Dataset, config
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid


def make_dataset(
    values: np.ndarray, *, bits: int | None = None, syntax: str = ExplicitVRLittleEndian, **entries
) -> Dataset:
    """A radiograph with pixels `values` (H, W) of an integer type or (H, W, 3) uint8, and header `entries`."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = DigitalXRayImageStorageForPresentation, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = (
        "Doe^Jane",
        "4711",
        "19500102",
        "F",
    )
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20200304", "050607", "8", "A9"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", "PA"
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel = 1 if values.ndim == 2 else 3
    dataset.PhotometricInterpretation = "MONOCHROME2" if values.ndim == 2 else "RGB"
    if values.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = 8 * values.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    dataset.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)
    dataset["PixelData"].VR = "OB" if values.dtype.itemsize == 1 else "OW"
    for keyword, value in entries.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def put(dataset: Dataset, keyword: str, vr: str, value: object) -> None:
    """Set an element with a type of its own; None makes it empty."""
    dataset.add(DataElement(tag_for_keyword(keyword), vr, value, validation_mode=config.IGNORE))


def dicom_bytes(dataset: Dataset) -> bytes:
    """The bytes of a DICOM file."""
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def pydicom_file(name: str) -> Path:
    """A small file of the package pydicom."""
    import pydicom

    return Path(pydicom.__file__).parent / "data" / "test_files" / name


def pydicom_data_file(name: str) -> Path:
    """A file of the package pydicom-data, such as a real chest X-ray; tests skip if it is not installed."""
    package = pytest.importorskip("data_store", reason="the package pydicom-data is not installed")
    return Path(package.__file__).parent / "data" / name
