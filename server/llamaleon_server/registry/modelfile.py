"""Ollama's Modelfile: text to what it says, and back.

    FROM llama3.2
    ADAPTER ./poet.gguf*0.5
    PARAMETER temperature 0.7
    SYSTEM \"\"\"
    You are a poet.
    \"\"\"

Ours beside Ollama's: several ADAPTERs, each a file or a registered name with an optional weight, and text
fenced by four or more quotes alone on their lines, for what three cannot hold.

Source: ollama, parser/parser.go, `ParseFile` and `Command.String`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from llamaleon_server.errors import BadRequest
from llamaleon_server.registry.names import WEIGHT
from llamaleon_server.registry.parameters import ParameterError, Value, checked

ROLES = ("system", "user", "assistant")
BLANK = " \t"
_FENCE = re.compile('"{4,}')
_WEIGHTED = re.compile(rf"(?P<source>.+)\*(?P<weight>{WEIGHT})", re.DOTALL)


class ModelfileError(BadRequest):
    """`line` counts from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"Modelfile, line {line}: {problem}", param="modelfile")
        self.line = line


class AdapterLine(Struct, frozen=True, kw_only=True):
    """`source` is a file, or the name of a registered adapter; `weight` is dimensionless.

    `path`: where the file lies, if `source` is only what it is called (an uploaded blob).
    """

    source: str
    weight: float = 1.0
    path: Path | None = None

    def __str__(self) -> str:
        weight = "" if self.weight == 1.0 else f"*{self.weight:.17g}".replace("e+", "e")
        return f"{self.source}{weight}"


class Modelfile(Struct, frozen=True, kw_only=True):
    """What a Modelfile says. `from_`: a model's name, or the path of a GGUF file.

    `parameters` are (name, value) as `parameters.checked` gives them; `stop` may come several times.
    `messages` are (role, text).
    """

    from_: str
    adapters: tuple[AdapterLine, ...] = ()
    parameters: tuple[tuple[str, Value], ...] = ()
    system: str | None = None
    template: str | None = None
    messages: tuple[tuple[str, str], ...] = ()
    licenses: tuple[str, ...] = ()


def parse(text: str) -> Modelfile:
    """Raises: ModelfileError, with the line: an unknown instruction or parameter, a quote left open."""
    said = _Said()
    for line, name, value in _instructions(text.replace("\r\n", "\n").removeprefix("\ufeff")):
        said.take(line, name, value)
    if said.from_ is None:
        raise ModelfileError(1, "no FROM: it names the model to begin with.")
    return Modelfile(
        from_=said.from_,
        adapters=tuple(said.adapters),
        parameters=tuple(said.parameters),
        system=said.texts.get("SYSTEM"),
        template=said.texts.get("TEMPLATE"),
        messages=tuple(said.messages),
        licenses=tuple(said.licenses),
    )


def printed(modelfile: Modelfile) -> str:
    """As text that `parse` reads back; line ends become `\\n`."""
    lines = [f"FROM {_quoted(modelfile.from_)}"]
    lines += [f"ADAPTER {_quoted(str(adapter))}" for adapter in modelfile.adapters]
    if modelfile.template is not None:
        lines.append(f"TEMPLATE {_quoted(modelfile.template)}")
    if modelfile.system is not None:
        lines.append(f"SYSTEM {_quoted(modelfile.system)}")
    lines += [f"PARAMETER {name} {_quoted(written(value))}" for name, value in modelfile.parameters]
    lines += [f"MESSAGE {role} {_quoted(text)}" for role, text in modelfile.messages]
    lines += [f"LICENSE {_quoted(text)}" for text in modelfile.licenses]
    return "\n".join(lines) + "\n"


def written(value: Value) -> str:
    """A parameter's value as a Modelfile has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else repr(value)


def adapter_line(text: str) -> AdapterLine:
    """`./a.gguf`, `sql`, `sql@2*0.5`: what stands after ADAPTER."""
    weighted = _WEIGHTED.fullmatch(text)
    if weighted is None:
        return AdapterLine(source=text)
    return AdapterLine(source=weighted["source"], weight=float(weighted["weight"]))


class _Said:
    """What the instructions up to here said."""

    def __init__(self) -> None:
        self.from_: str | None = None
        self.adapters: list[AdapterLine] = []
        self.parameters: list[tuple[str, Value]] = []
        self.texts: dict[str, str] = {}
        self.messages: list[tuple[str, str]] = []
        self.licenses: list[str] = []

    def take(self, line: int, name: str, value: str) -> None:
        match name:
            case "FROM" | "ADAPTER" if not value:
                raise ModelfileError(line, f"{name} needs a model's name or a file.")
            case "FROM" if self.from_ is not None:
                raise ModelfileError(line, f"a second FROM: this model already begins with {self.from_}.")
            case "FROM":
                self.from_ = value
            case "ADAPTER":
                self.adapters.append(adapter_line(value))
            case "SYSTEM" | "TEMPLATE":
                self.texts[name] = value
            case "LICENSE":
                self.licenses.append(value)
            case "PARAMETER":
                self.parameters.append(_parameter(line, value))
            case "MESSAGE":
                self.messages.append(_message(line, value))
            case _:
                raise ModelfileError(
                    line,
                    f"{name} is no instruction: there are FROM, ADAPTER, PARAMETER, SYSTEM, TEMPLATE, "
                    "MESSAGE and LICENSE.",
                )


def _instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, NAME, rest). The rest of PARAMETER and MESSAGE still has its first word, the value unquoted."""
    lines = text.split("\n")
    ends = _ends(lines)
    at = 0
    while at < len(lines):
        here, line = at + 1, lines[at].lstrip(BLANK)
        at += 1
        if not line or line.startswith("#"):
            continue
        name, rest = _words(line)
        name = name.upper()
        first = ""
        if name in {"PARAMETER", "MESSAGE"}:
            first, rest = _words(rest)
            first += " "
        value, more = _value(here, rest, lines, at, ends)
        at += more
        yield here, name, first + value


def _words(line: str) -> tuple[str, str]:
    """The first word and the rest."""
    word = re.split(r"[ \t]", line, maxsplit=1)[0]
    return word, line[len(word) :].lstrip(BLANK)


def _ends(lines: list[str]) -> dict[str, int]:
    """Where each fence stands alone for the last time, so that one that stays open is not sought for long."""
    stripped = (line.strip(BLANK) for line in lines)
    return {text: at for at, text in enumerate(stripped) if _FENCE.fullmatch(text)}


def _value(line: int, first: str, lines: list[str], at: int, ends: dict[str, int]) -> tuple[str, int]:
    """The value that begins with `first`, and how many of the lines from `at` on it takes."""
    if not first.startswith('"'):
        return first.rstrip(BLANK), 0
    fence = first.rstrip(BLANK)
    if ends.get(fence, -1) >= at:
        end = next(end for end in range(at, len(lines)) if lines[end].strip(BLANK) == fence)
        return "\n".join(lines[at:end]), end + 1 - at
    quote = '"""' if first.startswith('"""') else '"'
    taken = first
    for more in range(len(lines) - at + 1):
        whole = taken.rstrip(BLANK)
        if len(whole) >= 2 * len(quote) and whole.endswith(quote):
            return whole[len(quote) : -len(quote)], more
        taken += "\n" + "".join(lines[at + more : at + more + 1])
    raise ModelfileError(line, f"the text that {quote} opens is never closed.")


def _quoted(text: str) -> str:
    """The plainest form that reads back as `text`."""
    longest = max((len(run) for run in re.findall('"+', text)), default=0)
    fence = '"' * max(4, longest + 1)
    quoted = [f'"""{text}"""', f'"{text}"']
    forms: list[str] = [text, *(quoted if "\n" in text else quoted[::-1])]
    for form in forms:
        first, *rest = form.split("\n")
        try:
            value, more = _value(1, first.lstrip(BLANK), [*rest, "FROM x"], 0, _ends(rest))
        except ModelfileError:
            continue
        if value == text and more == len(rest) and form.strip(BLANK):
            return form
    return f"{fence}\n{text}\n{fence}"


def _parameter(line: int, text: str) -> tuple[str, Value]:
    name, _, value = text.partition(" ")
    try:
        return name.lower(), checked(name.lower(), value)
    except ParameterError as error:
        raise ModelfileError(line, str(error)) from error


def _message(line: int, text: str) -> tuple[str, str]:
    role, _, value = text.partition(" ")
    if role not in ROLES:
        raise ModelfileError(line, f"{role!r} is no role of a MESSAGE: use {', '.join(ROLES)}.")
    return role, value
