"""Make a DICOM secondary capture of a picture, which a hospital viewer opens beside the original image.

The result is a new object in a new series of the same study. Patient and study are copied; the header says that the
picture is derived, names its source, and says that it is for research use only.

Source: DICOM PS3.3, A.8.1 (Secondary Capture Image IOD) and the modules that it requires.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset


SERIES_DESCRIPTION = "Heat maps, research use only, not for diagnosis"


SERIES_NUMBER = 9001
"""High, so that viewers list the series after the original ones."""


MAX_COMMENT = 10240
"""Maximum number of characters of Image Comments (value representation LT)."""


PATIENT_AND_STUDY = (
    "SpecificCharacterSet",
    "IssuerOfPatientID",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "StudyInstanceUID",
    "StudyDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "BodyPartExamined",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "BurnedInAnnotation",
)
"""Copied if the source has them."""


REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""Copied, and empty if the source has none: DICOM requires these attributes (type 2)."""


def secondary_capture(source: Dataset, picture: np.ndarray, *, comment: str = "") -> Dataset:
    """Make a secondary capture of a picture.

    Args:
        source: header of the DICOM file from which the picture was made.
        picture: (H, W, 3) uint8 RGB.
        comment: text for Image Comments, cut after `MAX_COMMENT` characters.

    Returns:
        A data set with file meta information; write it with `save_as(path, enforce_file_format=True)`.

    Example:
        >>> secondary_capture(load_image("image.dcm").header, picture).save_as("heatmaps.dcm")
    """
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    capture = _copy_patient_and_study(source)
    _describe_series(capture)
    capture.ImageComments = comment[:MAX_COMMENT]
    _reference_source(capture, source)
    _set_pixels(capture, picture)
    capture.file_meta = FileMetaDataset()
    capture.file_meta.MediaStorageSOPClassUID = capture.SOPClassUID
    capture.file_meta.MediaStorageSOPInstanceUID = capture.SOPInstanceUID
    capture.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return capture


def _copy_patient_and_study(source: Dataset) -> Dataset:
    from pydicom import Dataset
    from pydicom.uid import generate_uid

    capture = Dataset()
    for keyword in PATIENT_AND_STUDY:
        if source.get(keyword) not in (None, ""):
            capture[keyword] = source[keyword]
    for keyword in REQUIRED:
        setattr(capture, keyword, source.get(keyword) or "")
    if capture.get("BodyPartExamined") != "CHEST":  # DICOM requires a side for other and for unknown body parts
        capture.Laterality = source.get("Laterality") or source.get("ImageLaterality") or ""
    if "StudyInstanceUID" not in capture:
        capture.StudyInstanceUID = generate_uid()
    return capture


def _describe_series(capture: Dataset) -> None:
    from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

    now = datetime.now()
    capture.SOPClassUID, capture.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    capture.SeriesInstanceUID, capture.SeriesNumber, capture.InstanceNumber = generate_uid(), SERIES_NUMBER, 1
    capture.SeriesDescription = SERIES_DESCRIPTION
    capture.Modality, capture.ConversionType = "OT", "WSD"  # other; workstation
    capture.SecondaryCaptureDeviceManufacturer = "cxr_seam"
    for event in ("Series", "Content", "InstanceCreation"):
        setattr(capture, f"{event}Date", now.strftime("%Y%m%d"))
        setattr(capture, f"{event}Time", now.strftime("%H%M%S"))


def _reference_source(capture: Dataset, source: Dataset) -> None:
    from pydicom import Dataset

    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.DerivationDescription = f"Heat maps of a neural network on the image. {SERIES_DESCRIPTION}."
    capture.PatientOrientation = ""
    if source.get("SOPClassUID") and source.get("SOPInstanceUID"):
        reference = Dataset()
        reference.ReferencedSOPClassUID = source.SOPClassUID
        reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
        capture.SourceImageSequence = [reference]


def _set_pixels(capture: Dataset, picture: np.ndarray) -> None:
    capture.Rows, capture.Columns, capture.SamplesPerPixel = *picture.shape[:2], 3
    capture.PhotometricInterpretation, capture.PlanarConfiguration = "RGB", 0
    capture.BitsAllocated, capture.BitsStored, capture.HighBit, capture.PixelRepresentation = 8, 8, 7, 0
    pixels = np.ascontiguousarray(picture, dtype=np.uint8).tobytes()
    capture.PixelData = pixels + b"\0" * (len(pixels) % 2)
    capture["PixelData"].VR = "OB"
