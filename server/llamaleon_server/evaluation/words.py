"""The language of a job's report: English, or Spanish where the reader asks for it.

As in the clients, the English sentence is the key: a sentence without a translation still speaks.
"""

from __future__ import annotations

import os
import re

from msgspec import Struct

from llamaleon_server.evaluation.gate import named, shown

LANGUAGES = ("en", "es")
VARIABLES = ("LLAMALEON_LANG", "LC_ALL", "LC_MESSAGES", "LANG")  # the first that is set decides

_FIELD = re.compile(r"\\\{(\w+)\\\}")
_NUMBER = re.compile(r"\d[\d.]*(e[+-]\d+)?%?")
_NO_BREAK = "\u00a0"
_SPANISH_NUMBERS = str.maketrans({",": _NO_BREAK, ".": ",", "%": f"{_NO_BREAK}%"})


class Words(Struct, frozen=True):
    """What is said and how numbers are written, in one of `LANGUAGES`."""

    language: str = "en"

    def say(self, english: str, **values: object) -> str:
        """The sentence in the language, with `{name}` filled in."""
        text = self._texts().get(english, english)
        return text.format(**values) if values else text

    def number(self, written: str) -> str:
        """A number as Python writes it, in the manner of the language.

        >>> Words("es").number("1,234.5%").replace(_NO_BREAK, "_")
        '1_234,5_%'
        """
        return written.translate(_SPANISH_NUMBERS) if self.language == "es" else written

    def metric(self, name: str) -> str:
        return self.say(named(name))

    def figure(self, name: str, value: float) -> str:
        """The value of the metric `name`."""
        return self.number(shown(name, value))

    def retold(self, message: str) -> str:
        """What was recorded in English while the job ran, sentence by sentence; unknown ones stay."""
        return " ".join(map(self._retold, re.split(r"(?<=\.) ", message)))

    def _retold(self, sentence: str) -> str:
        for english, other in self._recorded().items():
            pattern = _FIELD.sub(r"(?P<\1>.+)", re.escape(english))
            if found := re.fullmatch(pattern, sentence):
                told = found.groupdict().items()
                return other.format(
                    **{name: self.number(text) if _NUMBER.fullmatch(text) else text for name, text in told}
                )
        return sentence

    def _texts(self) -> dict[str, str]:
        if self.language != "es":
            return {}
        from llamaleon_server.evaluation.spanish import SENTENCES

        return SENTENCES

    def _recorded(self) -> dict[str, str]:
        if self.language != "es":
            return {}
        from llamaleon_server.evaluation.spanish import RECORDED

        return RECORDED


ENGLISH = Words()


def own_language() -> str:
    """Of this process, chosen as the command line does: for pages that nobody has asked for yet."""
    chosen = next((os.environ[name] for name in VARIABLES if os.environ.get(name)), "")
    return "es" if chosen.lower().startswith("es") else "en"


def accepted_language(header: str) -> str | None:
    """The one of `LANGUAGES` that an `Accept-Language` (RFC 9110, 12.5.4) wants most; None: it wants neither.

    >>> accepted_language("fr, es-MX;q=0.9, en;q=0.8"), accepted_language("*")
    ('es', None)
    """
    wanted: dict[str, float] = {}
    for item in header.split(","):
        tag, *parameters = (part.strip().lower() for part in item.split(";"))
        language = tag.partition("-")[0]
        if language in LANGUAGES:
            wanted[language] = max(wanted.get(language, 0.0), _quality(parameters))
    best = max(wanted, key=lambda language: wanted[language], default=None)
    return best if best is not None and wanted[best] > 0 else None


def _quality(parameters: list[str]) -> float:
    """Of an item's `q=`; what is no number counts as not wanted."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return float(value) if re.fullmatch(r"[01](\.\d{0,3})?", value.strip()) else 0.0
    return 1.0
