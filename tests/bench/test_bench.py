"""The benches measure, and refuse to measure what answers wrongly; how quick the machine is, is not tested."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.bench.cosmos import CosmosBench, Figure, create_container, upsert
from tests.bench.server import server_process
from tests.bench.wire import Script, Signer, WrongAnswerError, drive, expect


def test_the_figures_of_the_embedded_cosmos_db_come_as_json() -> None:
    bench = [sys.executable, "-m", "tests.bench", "cosmos", "--json", "--seconds", "0.3", "--rounds", "1"]
    done = subprocess.run(bench, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert list(figures) == ["upserts_per_s", "batched_documents_per_s", "feed_documents_per_s"]
    assert all(isinstance(figure, int) and figure > 0 for figure in figures.values())
    assert done.stderr.count("round ") == 1


def test_a_wrong_answer_ends_a_measurement() -> None:
    with server_process() as server:
        create_container(server)
        stranger = Signer(server.endpoint, "d3Jvbmc=")
        bench = CosmosBench(server)

        def unauthorized(figure: Figure) -> Script:
            expect((yield upsert(stranger, 1)), 201)

        with pytest.raises(WrongAnswerError, match="expected 201, got 401"):
            bench._round(bench.upserts, 1, unauthorized)

        signer = Signer(server.endpoint, server.key)

        def missing() -> Script:
            expect((yield signer.request("GET", "/dbs/bench/colls/none", "colls", "dbs/bench/colls/none")), 200)

        with pytest.raises(WrongAnswerError, match="got 404"):
            drive(server.endpoint, [missing()])


@pytest.mark.chaos
def test_the_figures_of_capture_come_as_json() -> None:
    bench = [sys.executable, "-m", "tests.bench", "capture", "--json", "--seconds", "1", "--rounds", "1"]
    done = subprocess.run(bench, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    costs = {f"{kind}cost{how}" for kind in ("", "minimal_") for how in ("", "_at_rtt")}
    assert {"clients", "bare_tps", "minimal_tps", "captured_tps", "rtt_ms", *costs} <= figures.keys()
    assert all(figure > 0 for figure in figures.values())


@pytest.mark.chaos
def test_the_figures_of_the_guarded_write_come_as_json() -> None:
    bench = [sys.executable, "-m", "tests.bench", "sink", "--json", "--seconds", "0.3", "--rounds", "1"]
    done = subprocess.run(bench, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert {"sdk_documents_per_s", "relay_documents_per_s", "ratio", "batched_documents_per_s"} <= figures.keys()
    assert all(figure > 0 for figure in figures.values())


@pytest.mark.chaos
def test_the_figures_of_the_mirror_come_as_json() -> None:
    bench = [sys.executable, "-m", "tests.bench", "mirror", "--json", "--seconds", "0.5", "--rounds", "1"]
    done = subprocess.run(bench, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    names = ("copy_per_s", "mirror_per_s", "ratio_to_copy", "per_row_per_s", "speedup_over_per_row")
    assert {*names, *(f"{name}_at_1000" for name in names)} <= figures.keys()
    assert all(figure > 0 for figure in figures.values())


@pytest.mark.chaos
def test_the_figures_of_the_way_from_the_change_feed_come_as_json() -> None:
    bench = [sys.executable, "-m", "tests.bench", "feed", "--json", "--seconds", "1", "--rounds", "1"]
    done = subprocess.run(bench, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert {"sdk_feed_per_s", "mirror_per_s", "processor_per_s", "ratio", "p50_ms", "p99_ms"} <= figures.keys()
    assert all(figure > 0 for figure in figures.values())


@pytest.mark.chaos
def test_the_figures_of_a_switch_come_as_json() -> None:
    bench = [sys.executable, "-m", "tests.bench", "switch", "--json", "--seconds", "2", "--rounds", "1"]
    done = subprocess.run(bench, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert {"pause_forward_ms", "pause_back_ms", "errors"} <= figures.keys()
    assert figures["errors"] == 0, done.stderr
    assert figures["writes"] > figures["writers"]


@pytest.mark.chaos
def test_the_figures_of_a_comparison_come_as_json() -> None:
    bench = [sys.executable, "-m", "tests.bench", "parity", "--json", "--seconds", "1", "--rounds", "1"]
    done = subprocess.run(bench, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    names = ("rows", "postgres_seconds", "scan_seconds", "ratio_to_scan", "cosmos_documents_per_s")
    assert list(figures) == list(names)
    assert figures["rows"] == 1_000_000
    assert all(figure > 0 for figure in figures.values())


def test_the_request_units_of_each_operation_come_as_json() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "charges", "--json"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    charged = json.loads(done.stdout)
    # As many requests as the SDK alone; the envelope may make a document cost a KiB more, no more than that.
    for operation in ("create", "read", "update", "list"):
        assert charged[operation] <= charged[f"{operation}_by_sdk"] + 1.34, operation
    assert charged["relay_again"] == charged["relay_first"] == charged["create"], "a steady relay reads nothing"
    assert charged["relay_after_a_restart"] == charged["update"], "a relay that knows nothing reads once"


@pytest.mark.chaos
def test_the_figures_of_the_cache_come_as_json() -> None:
    bench = [sys.executable, "-m", "tests.bench", "cache", "--json", "--seconds", "1", "--rounds", "1"]
    done = subprocess.run(bench, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert list(figures) == ["uncached_p50_ms", "hit_p50_ms", "miss_p50_ms", "overhead_on_miss"]
    assert all(figure > 0 for figure in figures.values())
