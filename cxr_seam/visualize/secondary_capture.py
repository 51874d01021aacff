"""A picture as a DICOM file that a hospital's viewer opens beside the film it was made from: a secondary capture.

The file is a new object of a new series in the film's own study: patient and study are copied, everything else is new,
and the header says that it is derived, from what, and that it is for research use only.

Source: DICOM PS3.3, A.8.1 (Secondary Capture Image IOD) and the modules it requires.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset


SERIES_DESCRIPTION = "Heat maps, research use only, not for diagnosis"


SERIES_NUMBER = 9001
"""High, so that viewers list the series behind the film's own."""


MAX_COMMENT = 10240
"""Characters that the header has room for (value representation LT)."""


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
"""Copied where the film has them."""


MUST_STAND = (
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
"""Copied too, and left empty where the film has none: DICOM wants them to stand there (type 2)."""


def secondary_capture(film: Dataset, picture: np.ndarray, *, comment: str = "") -> Dataset:
    """Make a secondary capture of a picture that was made from a film.

    Args:
        film: header of the DICOM file that the picture was made from; it is not changed.
        picture: (H, W, 3) uint8 RGB.
        comment: text for the header (Image Comments), such as boxes; cut after `MAX_COMMENT` characters.

    Returns:
        A data set with file meta information; write it with `save_as(path, enforce_file_format=True)`.

    Example:
        >>> secondary_capture(load_image("film.dcm").header, picture).save_as("heatmaps.dcm")
    """
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    made = Dataset()
    for keyword in PATIENT_AND_STUDY:
        if film.get(keyword) not in (None, ""):
            made[keyword] = film[keyword]
    for keyword in MUST_STAND:
        setattr(made, keyword, film.get(keyword) or "")
    if made.get("BodyPartExamined") != "CHEST":  # of a part that has two sides, or of no named one, DICOM asks which
        made.Laterality = film.get("Laterality") or film.get("ImageLaterality") or ""
    if "StudyInstanceUID" not in made:
        made.StudyInstanceUID = generate_uid()

    now = datetime.now()
    made.SOPClassUID, made.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    made.SeriesInstanceUID, made.SeriesNumber, made.InstanceNumber = generate_uid(), SERIES_NUMBER, 1
    made.SeriesDescription = SERIES_DESCRIPTION
    made.Modality, made.ConversionType = "OT", "WSD"  # other; from a workstation
    made.SecondaryCaptureDeviceManufacturer = "cxr_seam"
    for event in ("Series", "Content", "InstanceCreation"):
        setattr(made, f"{event}Date", now.strftime("%Y%m%d"))
        setattr(made, f"{event}Time", now.strftime("%H%M%S"))
    made.ImageType = ["DERIVED", "SECONDARY"]
    made.DerivationDescription = "Heat maps of a neural network, laid over the film. " + SERIES_DESCRIPTION + "."
    made.PatientOrientation = ""
    made.ImageComments = comment[:MAX_COMMENT]
    if film.get("SOPClassUID") and film.get("SOPInstanceUID"):
        source = Dataset()
        source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = film.SOPClassUID, film.SOPInstanceUID
        made.SourceImageSequence = [source]

    made.Rows, made.Columns, made.SamplesPerPixel = *picture.shape[:2], 3
    made.PhotometricInterpretation, made.PlanarConfiguration = "RGB", 0
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    pixels = np.ascontiguousarray(picture, dtype=np.uint8).tobytes()
    made.PixelData = pixels + b"\0" * (len(pixels) % 2)
    made["PixelData"].VR = "OB"

    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return made
