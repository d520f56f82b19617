"""Templates come with models, from anywhere: a hostile one may neither run for ever nor fill the memory.

Every turn of a loop and every call of a macro looks at the clock, and what a single expression can make is
bounded by size. A template that goes beyond fails, which is an error about the request, as any of its own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 2.0
CHARACTERS = 64 * 1024 * 1024  # of one text, and bytes of one number
ITEMS = 1_000_000  # of one list, and columns of one padded text

_until: ContextVar[float] = ContextVar("until", default=float("inf"))
# A padding of so many columns, or of as many as somebody says.
_PERCENT = re.compile(r"%[^a-zA-Z%]*(?:\d{5,}|\*)")
_BRACES = re.compile(r":[^{}]*(?:\d{5,}|\{)")
_FILTERS = ("batch", "center", "format", "indent", "join", "replace", "slice", "wordwrap")


class TooMuch(jinja2.TemplateError):
    """The template does not end, or makes too much of it."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """`within` is how its templates are rendered."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        for name in _FILTERS:
            self.filters[name] = self._bounded(name, self.filters[name])

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        for loop in list(template.find_all(nodes.For)):
            loop.iter = nodes.Call(nodes.EnvironmentAttribute("turns"), [loop.iter], [], None, None)
        for concatenation in list(template.find_all(nodes.Concat)):
            checked = [_checked(part) for part in concatenation.nodes]
            concatenation.nodes = checked
        bodies = [loop.body for loop in template.find_all(nodes.For)]
        bodies += [macro.body for macro in template.find_all(nodes.Macro)]
        bodies += [block.body for block in template.find_all(nodes.CallBlock)]
        for body in bodies:
            step = nodes.Call(nodes.EnvironmentAttribute("step"), [], [], None, None)
            body.insert(0, nodes.ExprStmt(step))
        return template

    def step(self) -> None:
        if time.monotonic() > _until.get():
            raise TooMuch(f"it takes longer than {SECONDS:.0f} s")

    def turns(self, items: Iterable[Any]) -> Iterable[Any]:
        """The same things; only what is no mapping or list of its own is looked at one by one."""
        return items if isinstance(items, (list, tuple, str, dict)) else self._turns(items)

    def _turns(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.step()
            yield item

    def sized(self, value: Any) -> Any:
        """A value that is not too large to be made longer."""
        if isinstance(value, str) and len(value) > CHARACTERS:
            raise TooMuch("a text of it is too long")
        return value

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.step()
        if operator == "%" and isinstance(left, str) and _PERCENT.search(left):
            raise TooMuch("a text of it is too long")
        if operator == "*":
            for one, times in ((left, right), (right, left)):
                if isinstance(one, (str, list, tuple)) and isinstance(times, int):
                    _check(len(one) * times, CHARACTERS if isinstance(one, str) else ITEMS)
        if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            _check(left.bit_length() * (abs(right) if operator == "**" else 1), 4096)
        return self._made(super().call_binop(context, operator, left, right))

    def call(self, context: Any, function: Any, *args: Any, **named: Any) -> Any:
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            _check_method(getattr(function, "__name__", ""), owner, *args)
        return self._made(super().call(context, function, *args, **named))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None and _BRACES.search(value.__self__):
            raise TooMuch("a text of it is too long")
        return wrapped

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)  # with jinja2's mark of what it wants as its first argument
        def bounded(*args: Any, **named: Any) -> Any:
            self.step()
            given = [arg for arg in (*args, *named.values()) if isinstance(arg, (str, int, list, tuple))]
            if name == "join":
                given = given[::-1]
            elif name == "format" and given and _PERCENT.search(str(given[0])):
                raise TooMuch("a text of it is too long")
            if given:
                _check_method(name, *given)
            return self._made(function(*args, **named))

        return bounded

    def _made(self, value: Any) -> Any:
        if isinstance(value, (str, list, tuple)):
            _check(len(value), CHARACTERS if isinstance(value, str) else ITEMS)
        return value


def within(render: Callable[[], str]) -> str:
    """What `render` gives. Raises: TooMuch."""
    token = _until.set(time.monotonic() + SECONDS)
    try:
        return render()
    finally:
        _until.reset(token)


def _checked(part: nodes.Expr) -> nodes.Expr:
    return nodes.Call(nodes.EnvironmentAttribute("sized"), [part], [], None, None, lineno=part.lineno)


def _check(size: int, most: int) -> None:
    if size > most:
        raise TooMuch("something in it is too large")


def _check_method(method: str, owner: Any, *args: Any) -> None:
    """Of a text or a filter, before it is called."""
    for argument in args:
        if isinstance(argument, int):
            _check(abs(argument), ITEMS)
    if not isinstance(owner, str):
        return
    if method == "replace" and len(args) > 1 and isinstance(args[0], str) and isinstance(args[1], str):
        _check(len(owner) + owner.count(args[0]) * len(args[1]), CHARACTERS)
    elif method == "join" and args and isinstance(args[0], (list, tuple)):
        _check(len(owner) * len(args[0]), CHARACTERS)
