"""`perdure events send` and `perdure functions` on a store, without the code of its functions."""

import json
from pathlib import Path

import pytest

from perdure import Runtime, SentEvent, function
from perdure.cli.main import main


@function(event="app/told", concurrency=2)
async def hears(event: SentEvent) -> str:
    return event.id


@function(cron="0 2 * * *", container=("acme", "bolt"))
async def report() -> None: ...


@function(cron="0 3 * * *", container="*")
async def sums() -> None: ...


@pytest.fixture
async def store(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/desk.db"
    async with Runtime(url, [hears, report, sums]):
        pass
    return url


def test_an_event_is_sent_by_whoever_has_no_code(store: str, capsys: pytest.CaptureFixture[str]):
    assert main(["events", "send", "app/told", '{"n": 1}', "--id", "e1", "--user", "ada", "--store", store]) == 0
    said = capsys.readouterr().out
    assert "app/told is taken in as e1." in said and "It starts hears" in said
    assert main(["events", "send", "app/told", '{"n": 1}', "--id", "e1", "--store", store, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["starts"], again["event"]["user_id"]) == (["hears"], "ada")
    assert main(["runs", "list", "--store", store, "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["definition"], run["status"]) == ("hears", "queued")


@pytest.mark.parametrize("data", ["{", "[1]", "3"])
def test_data_that_are_no_object_are_refused(store: str, data: str, capsys: pytest.CaptureFixture[str]):
    assert main(["events", "send", "app/told", data, "--store", store]) == 2
    assert "no JSON" in capsys.readouterr().err


def test_an_id_that_was_used_for_something_else_is_refused(store: str, capsys: pytest.CaptureFixture[str]):
    assert main(["events", "send", "app/told", '{"n": 1}', "--id", "e1", "--store", store]) == 0
    assert main(["events", "send", "app/told", '{"n": 2}', "--id", "e1", "--store", store]) == 1
    assert "with other data" in capsys.readouterr().err


def test_functions_are_listed_and_removed(store: str, capsys: pytest.CaptureFixture[str]):
    assert main(["functions", "list", "--store", store]) == 0
    said = capsys.readouterr().out
    assert "event app/told" in said and "nobody here has it" in said
    assert "cron 0 2 * * * in acme, bolt" in said and "cron 0 3 * * * in each container" in said
    for name in ("report", "sums", "hears"):
        assert main(["functions", "remove", name, "--store", store]) == 0
    assert main(["functions", "remove", "hears", "--store", store]) == 1
    assert "There is no function 'hears'" in capsys.readouterr().err
    assert main(["functions", "list", "--store", store, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"functions": []}
