"""Which series of a folder or a study are segmented, and what is passed over."""

from __future__ import annotations

import numpy as np
import pytest

from cps4_monai.data.nifti_file import InvalidVolumeError
from cps4_monai.inference.dicom import list_series, read_dicom, series_key
from cps4_monai.inference.dicom.weighting import T2, T2_FAT_SUPPRESSED, T2_IN_PHASE, UNKNOWN, is_localizer, weighting
from cps4_monai.inference.sources import find_sources


@pytest.fixture()
def save(dicom, tmp_path, make_scan):
    """Function that writes the scan as series ``number`` with a description and other tags into a folder."""

    def write(number="1", description="t2_tse_sag", folder="s", **tags):
        array = dicom.sagittal(make_scan())
        slices = dicom.series_of(array, series=number, SeriesDescription=description, **tags)
        return dicom.save_all(tmp_path / folder, slices)

    return write


OTHER = "of another kind by its description"


def names(found):
    return [scan.name for scan in found.scans]


@pytest.mark.parametrize(("description", "is_one"), [
    ("localizer", True), ("LOC", True), ("3-plane loc", True), ("Survey_Lspine", True), ("AAHead_Scout", True),
    ("loc sag", True), ("3 plane", True), ("T2 sag LOC. HWS", False), ("t2_tse_sag", False), ("local shim t2", False),
    ("T1 loc check", False), ("", False),
])  # fmt: skip
def test_descriptions_of_localizers(description, is_one):
    assert is_localizer(description, ()) == is_one
    assert is_localizer(description, ("ORIGINAL", "PRIMARY", "LOCALIZER"))


@pytest.mark.parametrize(("description", "expected"), [
    ("t2_tse_sag", T2), ("sT2W_TSE", T2), ("SagT2 FRFSE", T2), ("WIP T2w_SPACE", T2), ("pd_t2_tse", T2),
    ("t2_tirm_sag", T2_FAT_SUPPRESSED), ("STIR sag", T2_FAT_SUPPRESSED), ("T2 FS", T2_FAT_SUPPRESSED),
    ("t1_tse_sag", "T1-weighted"), ("T1 fat sat", "T1-weighted"), ("t2*_sag", "T2*-weighted"),
    ("t2 star", "T2*-weighted"), ("t2_fl2d", "T2*-weighted"), ("part2 of the scan", UNKNOWN), ("sag", UNKNOWN),
    ("ep2d_diff", "of another kind by its description"), ("WATER: SAG T2 FLEX", T2_FAT_SUPPRESSED),
    ("FAT: SAG T2 FLEX", OTHER), ("SAG T2 IDEAL FAT", OTHER), ("Fat_t2_dixon", OTHER),
    ("T2 fat sat dixon", T2_FAT_SUPPRESSED), ("t2_map", OTHER), ("SAG T2 MAPPING", OTHER),
    ("FAT SUP T2 SAG", T2), ("Fat-Suppressed STIR sag", T2_FAT_SUPPRESSED), ("T1 GRE SAG", "T1-weighted"),
    ("SAG T2 GRE", "T2*-weighted"), ("T2 FatSat", T2_FAT_SUPPRESSED),
    ("t2_tse_dixon_sag_W", T2_FAT_SUPPRESSED), ("t2_tse_dixon_sag_F", OTHER), ("t2_tse_dixon_sag_opp", OTHER),
    ("t2_tse_dixon_sag_in", T2_IN_PHASE), ("T2W_mDIXON_TSE F", OTHER), ("T2W_mDIXON_TSE W", T2_FAT_SUPPRESSED),
    ("SAG T2 FLEX POST OP", T2), ("SAG T2 FLEX F/U", T2), ("T2 tse dixon sag (W+F)", T2_FAT_SUPPRESSED),
    ("T2 sag Dixon post-op", T2_FAT_SUPPRESSED), ("t2_tse_dixon_sag_320_F_ND", OTHER), ("T2 sag in", T2),
    ("t2_tse_dixon_sag_in_ND", T2_IN_PHASE), ("t2_tse_dixon_opp_DIS2D", OTHER), ("InPhase: SAG T2 FLEX", T2_IN_PHASE),
    ("OutPhase: SAG T2 FLEX", OTHER), ("T2 FLEX coil", T2), ("SAG T2 IDEAL F", T2), ("T2 dixon f/u", T2_FAT_SUPPRESSED),
    ("t2_dixon_fat sat", T2_FAT_SUPPRESSED), ("sag f t2_tse", T2), ("t2_dixon_out phase", OTHER),
])  # fmt: skip
def test_weighting_by_the_description(description, expected):
    assert weighting(description, {}) == expected


@pytest.mark.parametrize(
    ("image_type", "expected"),
    [
        (("ORIGINAL", "PRIMARY", "W", "W", "DERIVED"), T2_FAT_SUPPRESSED),
        (("ORIGINAL", "PRIMARY", "F", "F", "DERIVED"), "of another kind by its image type (fat)"),
        (("DERIVED", "PRIMARY", "DIXON", "OPP_PHASE"), "of another kind by its image type (out of phase)"),
        (("ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"), T2_FAT_SUPPRESSED),
    ],
)
def test_an_image_type_tells_the_images_of_a_dixon_scan_apart(image_type, expected):
    assert weighting("T2W_mDIXON_TSE", {}, image_type) == expected


@pytest.mark.parametrize(
    ("contrast", "expected"),
    [
        ({"echo": "100", "repetition": "3500"}, T2),
        ({"echo": "10", "repetition": "600"}, "T1-weighted"),
        ({"echo": "60", "repetition": "4000", "inversion": "160"}, T2_FAT_SUPPRESSED),
        ({"echo": "20", "repetition": "3000"}, "proton-density-weighted"),
        ({"contrast": "T2"}, T2),
        ({"echo": "10", "repetition": "600", "sequence": "GR"}, UNKNOWN),
        ({}, UNKNOWN),
        ({"protocol": "T2 sag", "echo": "9"}, T2),
    ],
)
def test_weighting_by_times_where_the_description_names_none(contrast, expected):
    assert weighting("sagittal", contrast) == expected


@pytest.mark.parametrize(
    ("number", "tags", "words"),
    [
        ("2", {"description": "localizer"}, "a localizer"),
        ("2", {"description": "t1_tse_sag"}, "T1-weighted"),
        ("2", {"description": "t2_stir"}, "fat suppressed"),
        ("2", {"description": "x"}, "of unknown weighting"),
        ("2", {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, "derived from other images"),
        ("2", {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "step": (0, 0, 4)}, "axial, not sagittal"),
        ("2", {"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, "its modality is CT, not MR"),
    ],
)
def test_the_sagittal_t2_series_is_chosen_and_the_other_is_named_with_the_reason(save, number, tags, words):
    save()
    volume = read_dicom(save(number, **tags))
    assert volume.provenance["Series"]["Number"] == 1
    assert volume.warnings[0] == "taken of 2 series: series 1 't2_tse_sag' (5 images)"
    assert len(volume.warnings) == 2 and words in volume.warnings[1]


@pytest.mark.parametrize(
    "tags", [{"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, {"description": "t1"}, {"description": "T2 sag LOC. HWS"}]
)
def test_a_series_alone_is_taken_without_a_word(save, tags):
    assert read_dicom(save(**tags)).warnings == ()


def test_screenshots_and_presentation_states_are_passed_over(dicom, save):
    folder = save()
    screen = dicom.dataset("1", "99", dicom.SECONDARY_CAPTURE, SeriesDescription="Screen Save")
    dicom.set_pixels(screen, np.ones((9, 9, 3), np.uint8))
    screen.Rows, screen.Columns, screen.SamplesPerPixel, screen.PhotometricInterpretation = 9, 9, 3, "RGB"
    state = dicom.dataset("2", "98", dicom.PRESENTATION_STATE, Modality="PR")
    inside = dicom.dataset("3", "1", dicom.SECONDARY_CAPTURE)  # with the UID of the series itself
    dicom.save_all(folder, [screen, state, inside])
    told = "; ".join(read_dicom(folder).warnings)
    assert "'Screen Save' (0 images): a screenshot" in told and "its modality is PR" in told
    assert "IM0007.dcm was passed over: no image" in told


@pytest.mark.parametrize(("wanted", "number"), [("3", 3), (3, 3), ("t1", 2), ("T2 TSE", 1), ("1.2.3.2", 2), ("loc", 3)])
def test_a_series_is_chosen_by_number_description_or_uid(save, wanted, number):
    save("1", "t2_tse_sag")
    save("2", "t1_tse_sag")
    folder = save("3", "localizer")
    assert read_dicom(folder, series=wanted).provenance["Series"]["Number"] == number


def test_of_several_that_fit_the_wish_the_sagittal_one_is_chosen(save):
    save("1", "t1_tra", ImageOrientationPatient=[1, 0, 0, 0, 1, 0], step=(0, 0, 4))
    assert read_dicom(save("2", "t1_sag"), series="t1").provenance["Series"]["Number"] == 2


def test_a_wish_that_nothing_fits_lists_what_is_there(save):
    with pytest.raises(InvalidVolumeError, match=r"series 1 't2_tse_sag' \(5 images\): not series 7"):
        read_dicom(save(), series=7)
    with pytest.raises(ValueError, match="expected a number, a UID or a part of a description"):
        read_dicom(save(), series=" ")


def test_series_that_are_equally_good_are_listed_by_the_call_and_all_segmented_by_a_search(save):
    save("5", "t2_up")
    folder = save("6", "t2_lo")
    with pytest.raises(InvalidVolumeError, match=r"2 series that fit equally well: series 5 't2_up'.*--series"):
        read_dicom(folder)
    found = find_sources([folder])
    assert names(found) == ["s_series-5", "s_series-6"] and not found.skipped
    assert "equally good" in found.scans[0].series.notes[0]


def test_equal_numbers_get_names_of_their_own(save, dicom, tmp_path, make_scan):
    save("5")
    slices = dicom.series_of(dicom.sagittal(make_scan()), series="6", SeriesNumber=5)
    found = find_sources([dicom.save_all(tmp_path / "s", slices)])
    assert names(found) == ["s_series-5-no1", "s_series-5-no2"]


def test_a_study_in_several_folders_is_chosen_from_as_one(save, tmp_path):
    for number, description in enumerate(["t1_tse_sag", "t2_tse_sag", "localizer"], 1):
        save(str(number), description, f"study/S{number}")
    found = find_sources([tmp_path / "study"])
    assert names(found) == ["S2"] and not found.failures
    skipped = {path.name: reason for path, reason in found.skipped}
    assert "T1-weighted; taken of this study: series 2" in skipped["S1"] and "a localizer" in skipped["S3"]
    assert names(find_sources([tmp_path / "study"], series="t1")) == ["S1"]
    assert names(find_sources([tmp_path / "study/S1", tmp_path / "study/S2"])) == ["S1", "S2"]  # named one by one


def test_a_file_stands_for_its_series_whatever_else_its_folder_holds(save):
    save("1", "t2_tse_sag")
    folder = save("2", "t1_tse_sag")
    volume = read_dicom(folder / "IM0007.dcm")
    assert volume.provenance["Series"]["Number"] == 2 and volume.shape[0] == 5 and volume.path == folder
    assert series_key(folder / "IM0007.dcm") == series_key(folder, "t1") == volume.content_key
    with pytest.raises(InvalidVolumeError, match=r"a file of series 2 't1_tse_sag'.*one of series 't2'"):
        read_dicom(folder / "IM0007.dcm", series="t2")


def test_all_files_of_a_folder_give_its_series_once_and_no_localizer(dicom, save, tmp_path):
    save("1", "t2_tse_sag")
    folder = save("2", "localizer")
    dicom.save_all(folder, [dicom.dataset("1", "9", dicom.PRESENTATION_STATE, Modality="PR")])
    found = find_sources(sorted(folder.iterdir()))
    assert names(found) == ["s"] and found.scans[0].series.number == 1 and not found.failures
    assert {path.name: reason.split(": ")[1] for path, reason in found.skipped} == {
        "IM0005.dcm": "a localizer", "IM0010.dcm": "its modality is PR, not MR"
    }  # fmt: skip
    assert names(find_sources([folder / "IM0006.dcm"])) == ["s"]  # alone, a localizer is what was meant
    (state,) = find_sources([folder / "IM0010.dcm"]).failures
    assert "nothing to segment" in state[1] and "its modality is PR" in state[1]
    with pytest.raises(InvalidVolumeError, match="its modality is PR"):
        read_dicom(folder / "IM0010.dcm")


def test_a_damaged_file_and_a_table_of_contents_are_no_series(dicom, save):
    folder = save()
    (folder / "IM0001.dcm").write_bytes((folder / "IM0001.dcm").read_bytes()[:200])
    table = dicom.dataset("1", "9", "1.2.840.10008.1.3.10")
    del table.SOPClassUID, table.SeriesInstanceUID
    table.save_as(folder / "DICOMDIR", enforce_file_format=True)
    for name, words in (("IM0001.dcm", "1 file that cannot be read"), ("DICOMDIR", "a table of contents")):
        ((path, reason),) = find_sources([folder / name]).failures
        assert path == folder / name and words in reason and "Fix" in reason


def test_studies_are_chosen_from_one_by_one(save, tmp_path):
    save("1", "t1", "p1", StudyInstanceUID="1.2.8")
    save("2", "t2", "p2", StudyInstanceUID="1.2.9")
    save("3", "t1", "p3", StudyInstanceUID="")
    assert names(find_sources([tmp_path])) == ["p1", "p2", "p3"]


def test_a_folder_with_only_a_localizer_is_skipped_and_told_where_nothing_else_is_there(save, tmp_path):
    save("1", "t2", "p/t2", StudyInstanceUID="1.2.8")
    only = save("1", "localizer", "p/loc", StudyInstanceUID="1.2.9")
    found = find_sources([tmp_path / "p"])
    assert names(found) == ["t2"] and not found.failures
    assert found.skipped == [(only, "series 1 'localizer' (5 images): a localizer")]
    assert "nothing to segment: series 1 'localizer'" in find_sources([only]).failures[0][1]
    with pytest.raises(InvalidVolumeError, match="no series to segment"):
        read_dicom(only)


def test_images_in_three_planes_are_a_localizer_whatever_its_name(dicom, tmp_path):
    files = []
    for number, plane in enumerate([dicom.SAGITTAL, dicom.AXIAL, dicom.CORONAL]):
        files += dicom.series_of(np.ones((2, 8, 8), int), orientation=plane)
        for one in files[-2:]:
            one.SOPInstanceUID += f".{number}"
    assert list_series(dicom.save_all(tmp_path, files))[0].passed_over == "a localizer"


def test_series_folders_are_found_beside_nifti_files(save, tmp_path, make_scan):
    save(folder="pat1/t2")
    save(folder="pat2")
    make_scan().save(tmp_path / "scan.nii.gz")
    found = find_sources([tmp_path])
    assert [(s.name, s.kind) for s in found.scans] == [("scan", "nifti"), ("pat1/t2", "dicom"), ("pat2", "dicom")]
    assert names(find_sources([tmp_path / "pat2"])) == ["pat2"]


def test_damaged_files_of_one_folder_do_not_touch_the_others(save, tmp_path):
    bad = save(folder="p/bad")
    save(folder="p/good")
    for path in bad.iterdir():
        path.write_bytes(path.read_bytes()[:200])
    found = find_sources([tmp_path / "p"])
    assert names(found) == ["good"] and "5 files that cannot be read" in found.failures[0][1]


def test_the_picture_of_an_edited_label_map_is_that_of_its_series(save, segmenter, tmp_path):
    from cps4_monai.inference.masks import report_masks

    save("1", "t2")
    result = segmenter(save("2", "t1"), series="t1")
    result.save(tmp_path / "out")
    assert result.record["Series"]["Number"] == 2
    outcomes, _ = report_masks(tmp_path / "out")
    assert [one.status for one in outcomes] == ["mask"] and outcomes[0].picture.exists()
    assert not any("not found" in warning for warning in outcomes[0].warnings)
