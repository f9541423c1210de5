"""The comparison of the SDK's tests with the committed list says what differs, each test by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sdk.files import ALL, NAMED, SHORT
from tests.sdk.running import FileRun, Outcome, State, outcomes
from tests.sdk.verdict import Listed, judge

if TYPE_CHECKING:
    from pathlib import Path

_FILE = "test_query.py"
_NOTHING = Listed({}, {}, {})


def _run(*found: Outcome, file: str = _FILE) -> FileRun:
    return FileRun(file, found, 1.0)


def test_a_run_that_is_as_listed_has_no_problems() -> None:
    run = _run(Outcome("T::a", State.PASSED), Outcome("T::b", State.FAILED), Outcome("T::c", State.SKIPPED))
    listed = Listed({f"{_FILE}::T::b": "spatial"}, {f"{_FILE}::T::c": "live accounts only"}, {})
    assert judge([run], listed, []).problems == ()


@pytest.mark.parametrize("state", [State.FAILED, State.SKIPPED])
def test_a_test_that_does_not_pass_and_is_not_listed_is_named_with_its_message(state: State) -> None:
    (problem,) = judge([_run(Outcome("T::a", state, "because\nof this"))], _NOTHING, []).problems
    assert problem == f"{state.value} and not listed: {_FILE}::T::a: because"


def test_a_listed_test_that_passes_is_named() -> None:
    verdict = judge([_run(Outcome("T::a", State.PASSED))], Listed({f"{_FILE}::T::a": "spatial"}, {}, {}), [])
    assert verdict.problems == (f"listed as failed, but passed: {_FILE}::T::a",)


def test_a_listed_test_that_fails_where_it_should_skip_itself_is_named() -> None:
    listed = Listed({}, {f"{_FILE}::T::a": "live accounts only"}, {})
    problems = judge([_run(Outcome("T::a", State.FAILED, "boom"))], listed, []).problems
    assert problems == (
        f"failed and not listed: {_FILE}::T::a: boom",
        f"listed as skipped, but failed: {_FILE}::T::a",
    )


def test_a_listed_test_that_is_gone_is_named_unless_its_file_was_not_run() -> None:
    listed = Listed({f"{_FILE}::T::gone": "spatial", "test_session.py::T::b": "multi-region"}, {}, {})
    verdict = judge([_run(Outcome("T::a", State.PASSED))], listed, [])
    assert verdict.problems == (f"listed as failed, but not there: {_FILE}::T::gone",)


@pytest.mark.parametrize("state", [State.FAILED, State.PASSED])
def test_a_test_that_varies_may_do_so_but_must_be_there(state: State) -> None:
    listed = Listed({}, {}, {f"{_FILE}::T::a": "a race"})
    assert judge([_run(Outcome("T::a", state, "boom"))], listed, []).problems == ()
    (problem,) = judge([_run(Outcome("T::b", State.PASSED))], listed, []).problems
    assert problem == f"listed as varying, but not there: {_FILE}::T::a"


@pytest.mark.parametrize(("failures", "enough"), [(5, True), (6, False)])
def test_the_share_is_demanded_of_the_named_files_even_if_all_failures_are_listed(failures: int, enough: bool) -> None:
    found = [Outcome(f"T::{i}", State.FAILED if i < failures else State.PASSED) for i in range(100)]
    found += [Outcome("T::skips", State.SKIPPED)]
    listed = Listed({f"{_FILE}::T::{i}": "x" for i in range(failures)}, {f"{_FILE}::T::skips": "y"}, {})
    other = _run(Outcome("T::a", State.PASSED), file="test_crud.py")
    verdict = judge([_run(*found), other], listed, [_FILE])
    assert (verdict.passed, verdict.counted) == (100 - failures, 100)
    assert (verdict.problems == ()) is enough


def test_a_report_names_tests_as_pytest_does_and_counts_each_once_at_its_worst() -> None:
    junit = """<testsuites><testsuite>
      <testcase classname="test_query.TestQuery" name="test_a[1.5-x]"/>
      <testcase classname="test_query" name="test_b"><skipped message="live only"/></testcase>
      <testcase classname="test_query.TestQuery" name="test_c"><failure message="1 != 2">trace</failure></testcase>
      <testcase classname="test_query.TestQuery" name="test_c"/>
      <testcase classname="" name="test_query"><error message="collection failure"/></testcase>
    </testsuite></testsuites>"""
    assert outcomes(junit) == (
        Outcome("TestQuery::test_a[1.5-x]", State.PASSED),
        Outcome("test_b", State.SKIPPED, "live only"),
        Outcome("TestQuery::test_c", State.FAILED, "1 != 2"),
        Outcome("test_query", State.FAILED, "collection failure"),
    )


def test_every_listed_test_is_in_a_file_that_is_run() -> None:
    listed = Listed.load()
    assert {name.partition("::")[0] for name in listed.failing | listed.skipping | listed.varying} <= set(ALL)
    assert set(SHORT) <= set(ALL)
    assert len(set(ALL)) == len(ALL)
    assert set(NAMED) < set(ALL)


@pytest.mark.parametrize("entries", ['tests = ["T::a", "T::a"]\nreason = "x"', 'tests = ["T::a"]\nreason = ""'])
def test_a_list_without_reasons_or_with_a_test_twice_is_refused(tmp_path: Path, entries: str) -> None:
    path = tmp_path / "list.toml"
    path.write_text(f'[[failing]]\nfile = "{_FILE}"\n{entries}\n')
    with pytest.raises(ValueError, match="T::a is listed twice or without a reason"):
        Listed.load(path)
