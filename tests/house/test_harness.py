"""The benchmarks' harness: sync and async functions, one report, one JSON line."""

import asyncio
import json

import pytest

from bench._harness import Bench


async def nothing() -> None:
    await asyncio.sleep(0)


def test_it_reports_one_json_object_as_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench("sample", argv=["--json", "--rounds", "3"])
    bench.add("floor", lambda: None, number=10)
    bench.add("async", nothing, number=10)
    bench.add("awaitable", lambda: nothing())
    bench.add("own loop", lambda: asyncio.run(nothing()))
    bench.fact("bytes", 12)
    report = bench.run(floor="floor")
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == report
    assert (report["bench"], report["rounds"], report["floor"], report["bytes"]) == ("sample", 3, "floor", 12)
    assert list(report["results"]) == ["floor", "async", "awaitable", "own loop"]
    assert report["results"]["floor"]["ratio"] == 1.0
    assert set(report["results"]["async"]) == {"median_us", "min_us", "ratio", "over_floor_us"}


def test_it_measures_in_turns() -> None:
    calls: list[str] = []
    bench = Bench("sample", argv=["--json"])
    bench.add("a", lambda: calls.append("a"))
    bench.add("b", lambda: calls.append("b"))
    bench.run(rounds=2)
    assert calls == ["a", "b", "a", "b", "b", "a"]


def test_it_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench("sample", unit="ms", argv=["--rounds", "1"])
    bench.add("a", lambda: None)
    bench.fact("bytes", 12)
    bench.run()
    out = capsys.readouterr().out
    assert "a  median_ms" in out
    assert "bytes: 12" in out


def test_a_budget_may_be_a_ratio_to_the_floor(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench("sample", argv=["--json", "--rounds", "3"])
    bench.add("floor", lambda: sum(range(1000)))
    bench.add("within", lambda: None, floor="floor", most=1.0)
    bench.add("beyond", lambda: sum(range(50_000)), floor="floor", most=1.0)
    rows = bench.run()["results"]
    assert (rows["within"]["met"], rows["beyond"]["met"]) == (True, False)
    assert rows["within"]["budget_ratio"] == 1.0
