"""The table is whole: every row has cases at every face that can meet it, every case a valid twin."""

from __future__ import annotations

import pytest
from tests.refusals.faces import FACES
from tests.refusals.generate import build
from tests.refusals.rows import BY_ID, FAMILIES, ROWS, Row
from tests.refusals.table import PAGE, text

MATERIAL = build()
# what the checklist of refusals in our notes on the specifications names, by our own words
CHECKLIST = {
    "many-uris",
    "no-uri",
    "ca-as-leaf",
    "signing-leaf",
    "root-id",
    "foreign-scheme",
    "upper-domain",
    "odd-path",
    "foreign-authority",
    "jwt-algorithm",
    "jwt-type",
    "jwt-header",
    "jwt-serialization",
    "jwt-claims",
    "jwt-audience",
    "key-use",
    "twice-named",
    "older-sequence",
    "empty-bundle",
}


def test_rows_have_names_of_their_own_and_cover_the_checklist() -> None:
    assert len(BY_ID) == len(ROWS)
    assert BY_ID.keys() >= CHECKLIST


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_has_a_case_for_each_face_or_a_reason_why_not(row: Row) -> None:
    met = {case.family for case in MATERIAL.cases.values() if case.row == row.id}
    for face, family in FACES.items():
        assert (family in met) != (family in row.absent), face
    assert all(row.absent.values())
    assert set(row.families) | set(row.absent) == set(FAMILIES)


def test_each_refusal_names_a_row_and_a_valid_twin_of_its_own_reading() -> None:
    for case in MATERIAL.cases.values():
        assert (case.row is None) == (case.code is None) == (case.twin is None), case.name
        if case.twin is not None:
            twin = MATERIAL.twin(case)
            assert (twin.code, twin.family, twin.reading) == (None, case.family, case.reading), case.name
            assert case.row in BY_ID


def test_every_face_reads_a_family_that_has_valid_cases() -> None:
    for face, family in FACES.items():
        assert any(case.code is None for case in MATERIAL.of(family)), face


def test_the_reference_page_is_what_the_cases_say() -> None:
    assert PAGE.read_text() == text(), "run `make docs`"
