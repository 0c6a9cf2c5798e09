from __future__ import annotations

import pytest

from cps4_monai.scan_names import identify, patient_of, subject_of


def who(*images):
    return [(one.subject, one.patient) for one in identify(images)]


def test_bids_names_keep_all_entities_and_share_the_patient():
    assert who("sub-1_acq-sag_T2w.nii", "sub-1_acq-ax_T2w.nii", "sub-1_ses-2_run-1_T2w.nii", "sub-12_T2w.nii") == [
        ("sub-1_acq-sag", "sub-1"),
        ("sub-1_acq-ax", "sub-1"),
        ("sub-1_ses-2_run-1", "sub-1"),
        ("sub-12", "sub-12"),
    ]


def test_where_names_repeat_the_folder_is_the_patient():
    assert who("p1/t2.nii", "p2/t2.nii") == [("p1/t2", "p1"), ("p2/t2", "p2")]
    assert who("/a/p1/t1.nii", "/a/p1/t2.nii", "/a/p2/t1.nii", "/a/p2/t2.nii") == [
        ("p1/t1", "p1"),
        ("p1/t2", "p1"),
        ("p2/t1", "p2"),
        ("p2/t2", "p2"),
    ]
    assert who("p1/t2.nii", "p1/extra.nii", "p2/t2.nii") == [("p1/t2", "p1"), ("extra", "p1"), ("p2/t2", "p2")]


def test_a_folder_for_each_session_does_not_make_two_patients():
    scans = [f"p{p}/{session}/t2.nii" for p in (1, 2, 3) for session in ("baseline", "later")]
    assert [patient for _, patient in who(*scans)] == ["p1", "p1", "p2", "p2", "p3", "p3"]


@pytest.mark.parametrize(
    "folders",
    [
        ["P1/ses-01", "P1/ses-02", "P1/ses-03", "P2/ses-01"],  # a patient with more sessions than there are patients
        ["P1/20190101", "P1/20200101", "P1/2021-01-01", "P2/20190305"],
        ["P1_20190101", "P1_20200101", "P1_2021-01-01", "P2_20190305"],
        ["P1_ses-01", "P1_ses-02", "P1_ses-03", "P2_ses-01"],
        ["P1/baseline", "P1/visit 2", "P1/FollowUp_3", "P2/tp1"],
        ["participant1/ses-1", "participant1/ses-2", "participant1/ses-3", "participant2/ses-1"],
        ["siteA/P1/ses-01", "siteA/P1/ses-02", "siteA/P1/ses-03", "siteB/P2/ses-01"],
    ],
)
def test_folders_called_after_sessions_and_dates_are_nobody(folders):
    patients = [patient.rpartition("/")[2] for _, patient in who(*(f"{folder}/t2.nii" for folder in folders))]
    assert patients[:3] == [patients[0]] * 3 and patients[3] != patients[0]
    assert patients[0].casefold() in ("p1", "participant1")
    assert len({subject for subject, _ in who(*(f"{folder}/t2.nii" for folder in folders))}) == 4


def test_names_in_the_folders_of_visits_are_the_patients_where_they_are_more():
    scans = who(*(f"visit{visit}/case{n}.nii" for visit in (1, 2) for n in range(3)))
    assert [patient for _, patient in scans] == ["case0", "case1", "case2"] * 2


@pytest.mark.parametrize("names", [["t1", "t2", "stir", "ax"], ["t2"]])
@pytest.mark.parametrize("patients", [2, 3, 5])
def test_more_sequences_than_patients_split_nobody(patients, names):
    sessions = ["visit1", "visit2", "visit3"]
    scans = [f"p{p}/{session}/{name}.nii" for p in range(patients) for session in sessions for name in names]
    assert len({patient for _, patient in who(*scans)}) == patients


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        ([f"2019{n:04d}" for n in range(95, 140)], ["image"]),  # numbers of patients, some of which could be dates
        ([f"2019010{n}" for n in range(1, 7)], ["lumbar_t1", "lumbar_t2"]),
        ([f"2019010{n}" for n in range(1, 4)], ["t2"]),  # one patient a day, as far as anybody can tell
        ([f"session_{n}" for n in range(8)], ["mri_a", "mri_b"]),
        ([*(f"train/2019011{n}" for n in range(5)), *(f"val/2019012{n}" for n in range(3))], ["t2"]),
        ([f"site{site}/2019{n}{site:02d}15" for site in (1, 2) for n in range(10, 13)], ["img"]),
        ([*(f"train/visit{n}" for n in range(4)), "test/visit4", "test/visit5"], ["t2"]),
        (
            [f"mgh/20190{n // 3 + 1}1{n}" for n in range(9)] + [f"mgh/2020011{n}" for n in range(3)] + ["x/20200101"],
            ["t2"],
        ),
    ],
)
def test_folders_of_sessions_and_dates_that_alone_name_patients_are_patients(folders, names):
    scans = who(*(f"{folder}/{name}.nii" for folder in folders for name in names))
    assert len({patient for _, patient in scans}) == len(folders)


def test_few_folders_with_many_names_are_no_patients():
    scans = [f"{site}/case{n}.nii" for site in ("a", "b") for n in range(4)]
    assert who(*scans) == [(f"{s}/case{n}",) * 2 for s in ("a", "b") for n in range(4)]
    nested = [f"{site}/c{n}/t2.nii" for site in ("a", "b") for n in range(4)]
    assert len({patient for _, patient in who(*nested)}) == 8


def test_bids_patients_of_one_name_in_two_folders_stay_one_patient():
    assert who("x/sub-1_T2w.nii", "y/sub-1_T2w.nii") == [("x/sub-1", "sub-1"), ("y/sub-1", "sub-1")]


def test_channels_of_nnunet_belong_to_one_patient_in_every_folder():
    patients = who("imagesTr/A_0000.nii", "imagesTr/A_0001.nii", "imagesTs/A_0000.nii", "imagesTr/B_0000.nii")
    assert [patient for _, patient in patients] == ["A", "A", "A", "B"]
    assert len({subject for subject, _ in patients}) == 4


def test_channels_beside_their_scan_are_its_patient_and_numbers_of_one_name_are_patients():
    both = who(*[f"{name}_000{channel}.nii" for name in "AB" for channel in (0, 1)])
    assert both == [("A", "A"), ("A_0001", "A"), ("B", "B"), ("B_0001", "B")]
    assert len({patient for _, patient in who(*[f"case_000{n}.nii" for n in range(4)])}) == 4
    assert len({patient for _, patient in who("x/A_0000.nii", "y/B_0000.nii", "y/A_0001.nii")}) == 3


def test_names_that_differ_in_a_date_are_one_patient_unless_that_would_be_all():
    visits = who("pat1_20200131.nii", "pat1_20210207.nii", "pat2_2020-01-31.nii", "x_20209931.nii")
    assert [patient for _, patient in visits] == ["pat1", "pat1", "pat2", "x_20209931"]
    assert [patient for _, patient in who("mr_20200131.nii", "mr_20210207.nii")] == ["mr_20200131", "mr_20210207"]


def test_names_that_differ_in_the_sequence_are_one_patient_unless_that_would_be_all():
    """SPIDER's own names; two contrasts of one spine on two sides of a split would be a leak."""
    scans = who("1_t1.nii", "1_t2.nii", "1_t2_SPACE.nii", "2_t1.nii", "2_T2.nii", "10_t1.nii", "st2.nii")
    assert [patient for _, patient in scans] == ["1", "1", "1", "2", "2", "10_t1", "st2"]
    assert len({subject for subject, _ in scans}) == len(scans)
    assert [patient for _, patient in who("a_T1w.nii", "A_T2w.nii", "b-sag-stir.nii", "b.nii")] == ["a", "a", "b", "b"]
    assert [patient for _, patient in who("mr_t1.nii", "mr_t2.nii", "mr_pd.nii")] == ["mr_t1", "mr_t2", "mr_pd"]
    visits = who("p1_t1_20200131.nii", "p1_t2_20210207.nii", "p2_t1_20200131.nii")
    assert [patient for _, patient in visits] == ["p1", "p1", "p2_t1"]
    visits = who("p1_20200131_t2.nii", "p1_20200131_t1.nii", "p1_20210207_t2.nii", "p2_20200131_t2.nii")
    assert [patient for _, patient in visits] == ["p1", "p1", "p1", "p2_20200131_t2"]


@pytest.mark.parametrize(
    "names", [["site1_PD", "site1_FS", "site1_AB"], ["Ab1", "aB1", "c"], ["cor_001", "cor_002", "x"]]
)
def test_words_that_may_be_initials_and_spellings_alone_make_nobody_one_patient(names):
    assert [patient for _, patient in who(*(f"{name}.nii" for name in names))] == names


def test_two_contrasts_in_one_folder_get_names_of_their_own():
    assert who("sub-1_T1w.nii", "sub-1_T2w.nii") == [("sub-1_T1w", "sub-1"), ("sub-1_T2w", "sub-1")]


@pytest.mark.parametrize(
    ("subject", "patient"),
    [
        ("sub-001_ses-02", "sub-001"),
        ("sub-001", "sub-001"),
        ("site/sub-001_run-1", "sub-001"),
        ("x_ses-02", "x"),
        ("case_7", "case_7"),
        ("p1/t2", "p1/t2"),
    ],
)
def test_patient_of_a_recorded_subject(subject, patient):
    assert patient_of(subject) == patient


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("sub-001_T2w.nii.gz", "sub-001"),
        ("sub-001_ses-02_acq-sag_T2w.nii", "sub-001_ses-02_acq-sag"),
        ("case7_T2w.nii.gz", "case7"),
        ("spine_012_0000.nii.gz", "spine_012"),
        ("p1/seg.nii", "p1"),
    ],
)
def test_subject_from_one_file_name(name, subject):
    assert subject_of(name) == subject


def test_a_site_in_a_patients_name_is_no_patient() -> None:
    names = [f"sub-{site}-00{n}_T2w.nii.gz" for site in ("MGH", "ETH") for n in (1, 2)]
    assert len({scan.patient for scan in identify(names)}) == 4
    assert patient_of("a/sub-MGH-001_ses-02_run-1") == "sub-MGH-001"
