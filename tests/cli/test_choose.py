"""Which model is taken, and what is said when it cannot be."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from perdure.cli.choose import OFFLINE, choose
from perdure.models.offline import OfflineModel
from perdure.types.errors import ConfigurationError, DefinitionError, MissingExtra, MissingKey

KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "XAI_API_KEY")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)


class Server(ThreadingHTTPServer):
    """A server of the OpenAI wire that only lists its models."""

    answer: tuple[int, bytes] = (200, b"")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        status, body = self.server.answer
        self.send_response(status if self.path == "/v1/models" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def test_without_anything_it_is_the_offline_model_and_says_so() -> None:
    chosen = choose(None, None)
    assert isinstance(chosen.model, OfflineModel)
    assert chosen.notice == OFFLINE
    assert chosen.notice.startswith("No language model")
    assert "extractive" in chosen.notice


def test_the_first_key_of_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAI_API_KEY", "x-key")
    assert choose(None, None).model.provider == "grok"
    monkeypatch.setenv("OPENAI_API_KEY", "o-key")
    chosen = choose(None, None)
    assert chosen.model.provider == "openai"
    assert chosen.notice == f"Model: openai:{chosen.model.name}"
    assert "o-key" not in repr(chosen)


def test_a_name_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "o-key")
    assert isinstance(choose("offline", None).model, OfflineModel)
    assert choose("openai:some-model", None).model.name == "some-model"


def test_a_key_without_its_package_goes_on_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "o-key")
    monkeypatch.setitem(sys.modules, "openai", None)
    chosen = choose(None, None)
    assert isinstance(chosen.model, OfflineModel)
    assert "pip install 'perdure[openai]'" in chosen.notice
    with pytest.raises(MissingExtra, match=r"perdure\[openai\]"):
        choose("openai:some-model", None)


def test_a_named_provider_without_a_key_is_an_error() -> None:
    with pytest.raises(MissingKey, match="OPENAI_API_KEY"):
        choose("openai:some-model", None)


@pytest.mark.parametrize("name", ["gpt-5-mini", "nobody:model", "openai:", ""])
def test_a_wrong_name_is_an_error_that_lists_the_providers(name: str) -> None:
    with pytest.raises(DefinitionError, match="anthropic"):
        choose(name, None)


def test_a_server_is_asked_for_its_model(server: Server) -> None:
    server.answer = (200, json.dumps({"data": [{"id": "qwen"}, {"id": "other"}]}).encode())
    chosen = choose(None, server.url)
    assert (chosen.model.name, chosen.notice) == ("qwen", f"Model: qwen at {server.url}")


def test_a_model_named_for_a_server_is_taken(server: Server) -> None:
    server.answer = (500, b"")
    assert choose("llama", server.url).model.name == "llama"
    assert choose("compatible:llama", server.url).model.name == "llama"


@pytest.mark.parametrize("answer", [(500, b"{}"), (200, b"rubbish"), (200, b'{"data": []}'), (200, b"[1]")])
def test_a_server_that_names_no_model_is_an_error(server: Server, answer: tuple[int, bytes]) -> None:
    server.answer = answer
    with pytest.raises(ConfigurationError, match="/v1/models"):
        choose(None, server.url)


def test_a_server_that_is_not_there_is_an_error(server: Server) -> None:
    url = server.url
    server.server_close()
    with pytest.raises(ConfigurationError, match=r"Is the server running\?"):
        choose(None, url)


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/passwd", ""])
def test_an_address_must_be_one(url: str) -> None:
    with pytest.raises(ConfigurationError, match="http://"):
        choose(None, url)
