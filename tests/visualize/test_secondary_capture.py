"""Secondary captures, read back: the attributes that the DICOM standard requires."""

from __future__ import annotations

import shutil
import subprocess
from io import BytesIO

import numpy as np
import pytest
from helpers.dicom_files import dicom_bytes, make_dataset, pydicom_file
from pydicom import dcmread

from cxr_seam.visualize.secondary_capture import MAX_COMMENT, secondary_capture

PICTURE = np.random.default_rng(0).integers(0, 256, (31, 33, 3), dtype=np.uint8)  # an odd number of bytes
SOURCE = make_dataset(np.zeros((20, 20), np.uint8))

# PS3.3, A.8.1.3: the type 1 and type 2 attributes of the modules patient, general study, general series, SC equipment,
# general image, image pixel (of a colour image) and SOP common.
TYPE_1 = (
    "StudyInstanceUID SeriesInstanceUID Modality ConversionType InstanceNumber SamplesPerPixel "
    "PhotometricInterpretation Rows Columns BitsAllocated BitsStored HighBit PixelRepresentation PlanarConfiguration "
    "PixelData SOPClassUID SOPInstanceUID"
).split()
TYPE_2 = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID "
    "AccessionNumber SeriesNumber PatientOrientation"
).split()


def read_back(source, **keywords):
    return dcmread(BytesIO(dicom_bytes(secondary_capture(source, PICTURE, **keywords))))


def test_required_attributes():
    capture = read_back(SOURCE)
    assert capture.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"  # Secondary Capture Image Storage
    for keyword in TYPE_1:
        assert capture[keyword].value not in (None, "")
    assert all(keyword in capture for keyword in TYPE_2)
    assert capture.file_meta.MediaStorageSOPInstanceUID == capture.SOPInstanceUID
    assert capture.file_meta.MediaStorageSOPClassUID == capture.SOPClassUID


def test_pixels_are_unchanged():
    assert np.array_equal(read_back(SOURCE).pixel_array, PICTURE)


def test_patient_and_study_are_copied():
    capture, again = read_back(SOURCE), read_back(SOURCE)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
        assert capture[keyword].value == SOURCE[keyword].value
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({capture[keyword].value, again[keyword].value, SOURCE[keyword].value}) == 3
    assert capture.ImageType[0] == "DERIVED" and "research use only" in capture.SeriesDescription
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == SOURCE.SOPInstanceUID


def test_source_with_few_attributes():
    capture = read_back(dcmread(pydicom_file("JPEGLSNearLossless_08.dcm")), comment="x" * 2 * MAX_COMMENT)
    assert capture.PatientName == "" and capture.StudyInstanceUID and len(capture.ImageComments) == MAX_COMMENT


def test_names_in_other_scripts():
    source = make_dataset(np.zeros((20, 20), np.uint8), SpecificCharacterSet="ISO_IR 192", PatientName="Müller^Łucja")
    assert read_back(source).PatientName == "Müller^Łucja"


@pytest.mark.parametrize("body", ["CHEST", "HAND", ""])
def test_dciodvfy_finds_no_error(body, tmp_path):
    checker = shutil.which("dciodvfy")
    if checker is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    source = make_dataset(np.zeros((20, 20), np.uint8), BodyPartExamined=body)
    (tmp_path / "capture.dcm").write_bytes(dicom_bytes(secondary_capture(source, PICTURE, comment="line\r\nline")))
    output = subprocess.run([checker, str(tmp_path / "capture.dcm")], capture_output=True, text=True).stderr
    assert "SCImage" in output and "Error" not in output, output
