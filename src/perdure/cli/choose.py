"""Which model the command line uses: the one named, a local server's, the environment's, else the offline one."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any, NamedTuple, cast

from perdure.models.model import Model
from perdure.models.offline import OfflineModel
from perdure.models.resolve import compatible, model_from_environment, resolve_model
from perdure.types.errors import ConfigurationError, MissingExtra

OFFLINE = (
    "No language model: answers are extractive, quoted from the files. For one, set a provider's key or pass --model; "
    "perdure --help lists them."
)


class Chosen(NamedTuple):
    """A model, and the line that says which it is."""

    model: Model
    notice: str


def choose(name: str | None, base_url: str | None) -> Chosen:
    """Choose the model.

    Args:
        name: `provider:name`, `offline`, or with a `base_url` the model's name at that server.
        base_url: the address of a server of the OpenAI wire.

    Raises:
        DefinitionError: the name is not `provider:name`, or the provider is unknown.
        MissingExtra: the provider's package is not installed.
        ConfigurationError: the server was not asked for a model's name successfully.
    """
    if base_url is not None:
        if not base_url.startswith(("http://", "https://")):
            raise ConfigurationError(
                f"--base-url {base_url!r} is no address; give one such as http://localhost:8000/v1"
            )
        name = name.removeprefix("compatible:") if name else _first_model(base_url)
        return _ready(compatible(name, base_url=base_url), f"Model: {name} at {base_url}")
    if name is not None:
        model = resolve_model(name)
        return Chosen(model, OFFLINE) if isinstance(model, OfflineModel) else _ready(model, _named(model))
    model = model_from_environment()
    if model is None:
        return Chosen(OfflineModel(), OFFLINE)
    try:
        return _ready(model, _named(model))
    except MissingExtra as error:  # a key in the environment is no order, so the demo goes on without it
        return Chosen(
            OfflineModel(),
            f"There is a key for {model.provider}, but its package is missing: pip install 'perdure[{error.extra}]'. "
            "Until then there is no language model: answers are extractive, quoted from the files.",
        )


def _named(model: Model) -> str:
    return f"Model: {model.provider}:{model.name}"


def _ready(model: Model, notice: str) -> Chosen:
    """Load the provider's package and key now, so that what is missing is said before anything is asked."""
    for part in ("sdk", "key"):
        load: Any = getattr(model, part, None)
        if load is not None:
            load()
    return Chosen(model, notice)


def _first_model(base_url: str) -> str:
    """Ask a server which model it serves."""
    address = base_url.rstrip("/") + "/models"
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            listed: Any = json.loads(answer.read(1_000_000))
    except urllib.error.HTTPError as error:
        with error:
            raise ConfigurationError(f"{address} answers HTTP {error.code}. Name the model with --model.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ConfigurationError(f"Cannot ask {address} for a model: {reason}. Is the server running?") from None
    models: Any = cast("dict[str, Any]", listed).get("data") if isinstance(listed, dict) else None
    if not isinstance(models, list) or not models or not isinstance(models[0], dict):
        raise ConfigurationError(f"{address} names no model. Name it with --model.")
    return str(cast("dict[str, Any]", models[0]).get("id", ""))
