"""What file names mean: which scan, which patient, image or label map; and which files belong together."""

from cps4_monai.scan_names.channels import further_channels
from cps4_monai.scan_names.file_name import (
    BIDS_OUTSIDE,
    NIFTI_ENDINGS,
    FileName,
    find_nifti,
    is_nifti,
    mirrored_folder,
    relative_path,
    stem_of,
)
from cps4_monai.scan_names.identity import (
    ScanIdentity,
    identify,
    patient_of,
    subject_of,
    without_date,
    without_sequence,
)
from cps4_monai.scan_names.linked_folders import SearchedFolders
from cps4_monai.scan_names.pairing import Pairing, only_label_maps, pair_files

__all__ = [
    "BIDS_OUTSIDE",
    "NIFTI_ENDINGS",
    "FileName",
    "Pairing",
    "ScanIdentity",
    "SearchedFolders",
    "find_nifti",
    "further_channels",
    "identify",
    "is_nifti",
    "mirrored_folder",
    "only_label_maps",
    "pair_files",
    "patient_of",
    "relative_path",
    "stem_of",
    "subject_of",
    "without_date",
    "without_sequence",
]
