"""Takes secrets out of a recording: each becomes a placeholder, the same one wherever it stands in the recording.

What is found in one place is replaced in all, so that code which carries a value from a message into a prompt still
does; a placeholder is alike to any text when a recording is replayed. Ids, names of tools and agents, and places are
what a replay goes by, and stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import msgspec

from perdure.agents.toolbox import text_hash
from perdure.types.errors import DefinitionError
from perdure.types.records import CancelAsked, InferenceDone, PromptRef, RouteDone

if TYPE_CHECKING:
    from perdure.testing.recordings import Recording

T = TypeVar("T")
Redact: TypeAlias = str | re.Pattern[str] | Callable[[str, str], bool]
"""A field's name, a regular expression, or a function of a field's name and its text that says whether it goes."""

PLACEHOLDER = re.compile(r"\[redacted:\d+\]|redacted-\d+@example\.invalid")
"""What stands where something was redacted."""

EMAILS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
"""E-mail addresses; their placeholders have the shape of one."""

_NAMES = frozenset(
    (
        *("authorization", "proxyauthorization", "apikey", "xapikey", "secret", "clientsecret", "secretkey"),
        *("token", "accesstoken", "refreshtoken", "idtoken", "authtoken", "bearertoken", "sessiontoken", "csrftoken"),
        *("password", "passwd", "passphrase", "pwd", "privatekey", "accesskey", "cookie", "setcookie", "credentials"),
    )
)
_SECRETS = (
    re.compile(r"\b[Bb]earer\s+([\w.~+/=-]{8,})"),
    re.compile(r"\b[Bb]asic\s+([A-Za-z0-9+/]{12,}={0,2})"),
    re.compile(r"\b((?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,})"),
    re.compile(r"\b(gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,})"),
    re.compile(r"\b(xox[abeprs]-[A-Za-z0-9-]{10,})"),
    re.compile(r"\b((?:AKIA|ASIA)[0-9A-Z]{16})\b"),
    re.compile(r"\b(AIza[0-9A-Za-z_-]{35})"),
    re.compile(r"\b(eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+)"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(.+?)-----END", re.DOTALL),
    re.compile(r"://[^\s/:@]+:([^\s/@]+)@"),
    re.compile(
        r"(?i)\b(?:password|passwd|api[ _-]?key|access[ _-]?token|auth[ _-]?token|client[ _-]?secret)\b"
        r"[\"']?\s*(?:[:=]|\bis\b)\s*[\"']?([^\s\"',;]{4,})"
    ),
)
_SHORT = 4
"""What is shorter is replaced only where it was found: it stands in many words."""

_STRUCTURE = frozenset(
    (
        *("id", "run_id", "session_id", "key", "step", "agent", "agents", "definition", "program", "name", "kind"),
        *("finish", "model", "provider", "outcome", "status", "stop_reason", "stop", "wait_id", "call_id", "tool"),
        *("ask", "where", "parent", "parent_key", "system", "tools", "arguments", "role", "media_type", "type"),
        *("scheduled", "child", "format"),
    )
)


def redacted(recording: Recording, redact: Redact | Sequence[Redact] = ()) -> Recording:
    """Make a copy of a recording without secrets.

    Keys, tokens and passwords go in any case: by the names of fields that hold them, and by their shape.

    Args:
        recording: the recording.
        redact: what goes besides: fields by name, what regular expressions find (their first group, if they have one),
            and texts for which a function `(field, text)` says so. `EMAILS` finds e-mail addresses.

    Raises:
        DefinitionError: it is none of these.
    """
    rules = [redact] if isinstance(redact, (str, re.Pattern)) or callable(redact) else list(redact)
    for one in rules:
        if not isinstance(one, (str, re.Pattern)) and not callable(one):
            raise DefinitionError(f"redact={one!r}: give a field's name, a compiled regular expression, or a function.")
    work = _Redaction(rules)
    work.find(recording, "")
    return msgspec.structs.replace(work.replaced(recording, ""), redacted=True)


class _Redaction:
    """What is to be replaced: found in a first pass over everything, replaced in a second."""

    def __init__(self, rules: Sequence[Redact]) -> None:
        self._names = {*_NAMES, *(_bare(one) for one in rules if isinstance(one, str))}
        self._patterns = [*_SECRETS, *(one for one in rules if isinstance(one, re.Pattern))]
        self._chosen = [one for one in rules if not isinstance(one, (str, re.Pattern))]
        self._known: dict[str, str] = {}
        self._forms: dict[str, str] = {}
        self._anywhere: re.Pattern[str] | None = None
        self._hashes: dict[str, str] = {}

    # -- finding -----------------------------------------------------------------------------------------------------

    def find(self, value: Any, name: str, *, inside: bool = False) -> None:
        """Find what must go in a value; `inside` is whether it stands in a field that is redacted by its name."""
        if isinstance(value, str):
            for text in self._in_text(value, name, inside):
                if text and not PLACEHOLDER.fullmatch(text) and text not in self._known:
                    number = len(self._known) + 1
                    mail = EMAILS.fullmatch(text) is not None
                    self._known[text] = f"redacted-{number}@example.invalid" if mail else f"[redacted:{number}]"
            return
        for field, part in _parts(value):
            self.find(part, field or name, inside=inside if field is None else inside or self._by_name(field))

    def _by_name(self, name: str) -> bool:
        return _bare(name) in self._names

    def _in_text(self, text: str, name: str, inside: bool) -> Iterator[str]:
        if inside or any(one(name, text) for one in self._chosen):
            yield text
            return
        for pattern in self._patterns:
            for match in pattern.finditer(text):
                yield match[1] if pattern.groups else match[0]

    # -- replacing ---------------------------------------------------------------------------------------------------

    def text(self, text: str) -> str:
        """Replace what was found, wherever it stands in a text; also where it stands as JSON in it."""
        whole = self._known.get(text)
        if whole is not None:
            return whole
        if self._anywhere is None:
            long = sorted((one for one in self._known if len(one) >= _SHORT), key=len, reverse=True)
            self._forms = {form: self._known[one] for one in long for form in (one, json.dumps(one)[1:-1])}
            self._anywhere = re.compile("|".join(map(re.escape, self._forms)) or r"(?!)")
        return self._anywhere.sub(lambda match: self._forms[match[0]], text)

    def replaced(self, value: T, name: str) -> T:
        """Copy a value without what was found."""
        if isinstance(value, str):
            return cast("T", self.text(value))
        if isinstance(value, msgspec.Struct):
            return cast("T", self._struct(value))
        if isinstance(value, dict):
            held = cast("dict[str, Any]", value)
            return cast("T", {key: self.replaced(part, key) for key, part in held.items()})
        if isinstance(value, (list, tuple)):
            several = [self.replaced(one, name) for one in cast("Sequence[Any]", value)]
            return cast("T", several if isinstance(value, list) else tuple(several))
        return value

    def _struct(self, value: msgspec.Struct) -> msgspec.Struct:
        changed: dict[str, Any] = {}
        if isinstance(value, InferenceDone):  # a text is kept under its hash, which the prompt names
            texts = {hash: self.text(text) for hash, text in value.texts.items()}
            self._hashes |= {hash: text_hash(text) for hash, text in texts.items()}
            changed["texts"] = {self._hashes[hash]: text for hash, text in texts.items()}
        elif isinstance(value, PromptRef):
            for field, hash in (("system", value.system), ("tools", value.tools)):
                changed[field] = self._hashes.get(hash or "", hash)
        for field in value.__struct_fields__:
            if field not in changed and not _stays(value, field):
                changed[field] = self.replaced(getattr(value, field), field)
        return msgspec.structs.replace(value, **changed)


def _stays(value: msgspec.Struct, field: str) -> bool:
    """Whether a field is something that a replay goes by."""
    if field in ("reason", "by") and isinstance(value, (RouteDone, CancelAsked)):
        return True
    if field not in _STRUCTURE:
        return False
    held = getattr(value, field)
    return not isinstance(held, (msgspec.Struct, Mapping)) and not (
        isinstance(held, tuple) and any(isinstance(one, msgspec.Struct) for one in cast("tuple[Any, ...]", held))
    )


def _parts(value: Any) -> Iterator[tuple[str | None, Any]]:
    """The parts of a value in which texts of users may stand, with the names of the fields that they are in."""
    if isinstance(value, msgspec.Struct):
        yield from ((field, getattr(value, field)) for field in value.__struct_fields__ if not _stays(value, field))
    elif isinstance(value, Mapping):
        yield from cast("Mapping[str, Any]", value).items()
    elif isinstance(value, (list, tuple)):
        yield from ((None, one) for one in cast("Sequence[Any]", value))


def _bare(name: str) -> str:
    return re.sub(r"[\s_.-]", "", name.lower())
