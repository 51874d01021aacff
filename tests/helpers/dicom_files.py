"""DICOM films made for tests, and those that come with pydicom; nothing is fetched."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid


def film(values: np.ndarray, *, bits: int | None = None, syntax: str = ExplicitVRLittleEndian, **entries) -> Dataset:
    """A radiograph with the pixels `values`, (H, W) of an integer type or (H, W, 3) uint8; `entries` of the header."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = DigitalXRayImageStorageForPresentation, generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.PatientName, made.PatientID, made.PatientBirthDate, made.PatientSex = "Doe^Jane", "4711", "19500102", "F"
    made.StudyDate, made.StudyTime, made.StudyID, made.AccessionNumber = "20200304", "050607", "8", "A9"
    made.Modality, made.BodyPartExamined, made.ViewPosition = "DX", "CHEST", "PA"
    made.Rows, made.Columns = values.shape[:2]
    made.SamplesPerPixel = 1 if values.ndim == 2 else 3
    made.PhotometricInterpretation = "MONOCHROME2" if values.ndim == 2 else "RGB"
    if values.ndim == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = 8 * values.dtype.itemsize
    made.BitsStored = bits or made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(values.dtype.kind == "i")
    made.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)
    made["PixelData"].VR = "OB" if values.dtype.itemsize == 1 else "OW"
    for keyword, value in entries.items():
        setattr(made, keyword, value)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def written(dataset: Dataset) -> bytes:
    """The bytes of the file."""
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def of_pydicom(name: str) -> Path:
    """A small file that comes inside pydicom."""
    import pydicom

    return Path(pydicom.__file__).parent / "data" / "test_files" / name


def of_pydicom_data(name: str) -> Path:
    """A file of the package pydicom-data, among them a real chest film; tests skip where it is not installed."""
    package = pytest.importorskip("data_store", reason="the package pydicom-data is not installed")
    return Path(package.__file__).parent / "data" / name
