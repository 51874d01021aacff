"""Make a DICOM secondary capture of a picture, which a hospital viewer opens beside the original image.

The result is a new object in a new series of the same study. Patient and study are copied; the header says that the
picture is derived, names its source, and says that it is for research use only.

Source: DICOM PS3.3, A.8.1 (Secondary Capture Image IOD) and the modules that it requires.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from pydicom import Dataset

SERIES_DESCRIPTION = "Heat maps, research use only, not for diagnosis"

SERIES_NUMBER = 9001
"""High, so that viewers list the series after the original ones."""

MAX_COMMENT = 10240
"""Maximum number of characters of Image Comments (value representation LT)."""

OPTIONAL = """
SpecificCharacterSet IssuerOfPatientID PatientIdentityRemoved DeidentificationMethod StudyInstanceUID StudyDescription
PatientAge PatientSize PatientWeight BodyPartExamined LossyImageCompression LossyImageCompressionRatio
LossyImageCompressionMethod BurnedInAnnotation
""".split()
"""Copied if the source has them."""

REQUIRED = """
PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber ReferringPhysicianName
""".split()
"""Copied, and empty if the source has none: DICOM requires these attributes (type 2)."""


def secondary_capture(source: Dataset, picture: np.ndarray, *, comment: str = "") -> Dataset:
    """Make a secondary capture of a picture.

    Args:
        source: header of the DICOM file from which the picture was made.
        picture: (H, W, 3) uint8 RGB.
        comment: text for Image Comments, cut after `MAX_COMMENT` characters.

    Returns:
        A data set; write it with `save_as(path, enforce_file_format=True)`.

    Example:
        >>> secondary_capture(load_image("image.dcm").header, picture).save_as("heatmaps.dcm")
    """
    from pydicom import Dataset
    from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

    capture = Dataset()
    for keyword in OPTIONAL:
        if source.get(keyword) not in (None, ""):
            capture[keyword] = source[keyword]
    for keyword in REQUIRED:
        setattr(capture, keyword, source.get(keyword) or "")
    if capture.get("BodyPartExamined") != "CHEST":  # DICOM requires a side for other and for unknown body parts
        capture.Laterality = source.get("Laterality") or source.get("ImageLaterality") or ""
    if "StudyInstanceUID" not in capture:
        capture.StudyInstanceUID = generate_uid()
    capture.SOPClassUID, capture.SeriesInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    capture.SeriesNumber, capture.InstanceNumber = SERIES_NUMBER, 1
    capture.SeriesDescription = SERIES_DESCRIPTION
    capture.Modality, capture.ConversionType = "OT", "WSD"  # other; workstation
    capture.SecondaryCaptureDeviceManufacturer = "cxr_seam"
    now = datetime.now()
    for event in ("Series", "Content", "InstanceCreation"):
        setattr(capture, f"{event}Date", now.strftime("%Y%m%d"))
        setattr(capture, f"{event}Time", now.strftime("%H%M%S"))
    capture.ImageComments = comment[:MAX_COMMENT]
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.DerivationDescription = f"Heat maps of a neural network on the image. {SERIES_DESCRIPTION}."
    capture.PatientOrientation = ""
    if source.get("SOPClassUID") and source.get("SOPInstanceUID"):
        reference = Dataset()
        reference.ReferencedSOPClassUID = source.SOPClassUID
        reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
        capture.SourceImageSequence = [reference]
    capture.set_pixel_data(picture, "RGB", 8)  # and a new SOP Instance UID
    return capture
