"""What `llamaleon data check` found, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from llamaleon_clients import console
from llamaleon_clients.words import say

Json = dict[str, Any]
FEW_ROWS = 100
BAR = 40  # columns
LISTED = 10  # of each kind of remark
SHOWN_CHARACTERS = 600  # of one piece of a row
# Control characters of a text must not reach the terminal; they are shown by their pictures.
PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {0x7F: 0x2421}


def print_check(found: Json, method: str = "") -> None:
    out = console.plain_console()
    _print_counts(out, found)
    _print_lengths(out, found)
    _print_rows(out, found["shown"])
    remarks = list(_remarks(found, method))
    out.print("")
    for bad, remark, examples in remarks:
        mark = "[bold red]✗[/bold red]" if bad else "[bold yellow]![/bold yellow]"
        out.print(f"{mark} {escape(remark)}")
        for example in examples:
            out.print(Text(f"    {example}".translate(PICTURES)), soft_wrap=not out.is_terminal)
    if found["ok"]:
        out.print(f"[bold green]✓[/bold green] {say('A job can train on these rows.')}")
    else:
        out.print(say("A job would refuse these rows."))


def _print_counts(out: Console, found: Json) -> None:
    for file in (found["training"], found["validation"]):
        if file is None:
            continue
        out.print(
            f"[bold]{escape(file['filename'])}[/bold]: "
            + say("{rows} rows ({shape})", rows=file["rows"], shape=file["shape"] or "-")
        )
        if file["roles"]:
            out.print(say("messages: {counts}", counts=_counts(file["roles"])))
        if file["kinds"]:
            out.print(say("rows: {counts}", counts=_counts(_kinds(file["kinds"]))))
    out.print(
        say("{train} to train on, {held} held out", train=found["train_rows"], held=found["held_out_rows"])
    )


def _kinds(counted: dict[str, int]) -> dict[str, int]:
    names = {
        "conversation": say("conversations"),
        "completion": say("prompt and completion"),
        "text": say("plain text"),
        "preference": say("two answers"),
        "system": say("with system prompt"),
        "multi_turn": say("several turns"),
        "tools": say("with tools"),
        "weighted": say("with weights"),
    }
    return {names.get(kind, kind): count for kind, count in counted.items()}


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counted.items())


def _print_lengths(out: Console, found: Json) -> None:
    lengths = found["lengths"]
    if lengths is None:
        return
    title = say("Tokens of a row") if lengths["unit"] == "tokens" else say("Characters of a row")
    out.print(f"\n[bold]{title}[/bold]")
    figures = {key: f"{lengths[key]:,}" for key in ("shortest", "median", "longest", "total", "learned")}
    out.print(say("{shortest} to {longest}, median {median}; {total} in all, {learned} learned", **figures))
    if found["limit"] is not None:
        limit = f"{found['limit']:,}"
        if lengths["longest"] > found["limit"] and not found["too_long"]:
            out.print(say("texts longer than {limit} are learnt in pieces", limit=limit))
        else:
            out.print(say("longest allowed: {limit}", limit=limit))
    buckets = lengths["histogram"]
    most = max(bucket["rows"] for bucket in buckets)
    ends = len(f"{buckets[-1]['most']:,}")
    for bucket in buckets:
        bar = "█" * round(BAR * bucket["rows"] / most) or ("▏" if bucket["rows"] else "")
        span = f"{bucket['least']:>{ends},}-{bucket['most']:<{ends},}"
        out.print(f"  {span} {bucket['rows']:>6,} [cyan]{bar}[/cyan]")
    cost = found["cost"]
    if cost is not None:
        memory = f"{console.human_bytes(cost['memory_bytes'])} ({cost['device']})"
        if cost["seconds"] is None:
            out.print(say("training: about {memory}; the time is known once a job ran here", memory=memory))
        else:
            time = console.human_seconds(cost["seconds"])
            out.print(say("training: about {memory} and {time}", memory=memory, time=time))


def _print_rows(out: Console, rows: Sequence[Json]) -> None:
    if not rows:
        return
    colour = out.color_system is not None and not out.no_color
    legend = say("what is learned is green") if colour else say("what is learned stands in ⟦ ⟧")
    out.print(f"\n[bold]{say('First rows')}[/bold] ({legend})")
    for row in rows:
        out.print(f"[dim]{say('line {line}', line=row['line'])}[/dim]")
        out.print(_painted(row["pieces"], colour))
        if row.get("rejected"):
            out.print(f"[dim]{say('liked less')}[/dim]")
            out.print(_painted(row["rejected"], colour))


def _painted(pieces: Sequence[Json], colour: bool) -> Text:
    text = Text()
    for piece in pieces:
        said = _shortened(piece["text"]).translate(PICTURES)
        if piece["trained"]:
            text.append(said if colour else f"⟦{said}⟧", style="green")
        else:
            text.append(said)
    text.rstrip()
    return text


def _shortened(text: str) -> str:
    if len(text) <= SHOWN_CHARACTERS:
        return text
    half = SHOWN_CHARACTERS // 2
    return f"{text[:half]} […] {text[-half:]}"


Remark = tuple[bool, str, list[str]]  # whether a job would refuse it, the sentence, its examples


def _remarks(found: Json, method: str) -> Iterator[Remark]:
    for file in (found["training"], found["validation"]):
        if file is not None and file["malformed"]:
            title = say("{file}: {count} malformed", file=file["filename"], count=file["malformed"])
            yield True, title, _listed(file["problems"], file["malformed"], file["unit"])
    yield from _wrong_kind(found, method)
    if found["refused"]:
        title = say("rows that the chat template refuses: {count}", count=len(found["refused"]))
        yield True, title, _listed(found["refused"], len(found["refused"]))
    if found["too_long"]:
        title = say(
            "rows longer than {limit} tokens: {count}", count=len(found["too_long"]), limit=found["limit"]
        )
        yield True, title, _listed(found["too_long"], len(found["too_long"]))
    rows = found["train_rows"] + found["held_out_rows"]
    if rows < FEW_ROWS:
        yield False, say("Only {rows} rows: expect an adapter that overfits.", rows=rows), []
    yield from _likes(found)


def _wrong_kind(found: Json, method: str) -> Iterator[Remark]:
    files = [file for file in (found["training"], found["validation"]) if file is not None]
    rows = sum(file["rows"] for file in files)
    preferences = sum(file["kinds"].get("preference", 0) for file in files)
    if 0 < preferences < rows:
        yield True, say("{some} of {rows} rows are preference rows.", some=preferences, rows=rows), []
    elif method == "dpo" and rows and not preferences:
        yield True, say("The method dpo needs rows with a better and a worse answer."), []
    elif method == "supervised" and preferences:
        yield True, say("These rows have two answers each: they need --method dpo."), []
    elif preferences:
        yield False, say("These rows have two answers each: train with --method dpo."), []


def _likes(found: Json) -> Iterator[Remark]:
    share = f"{found['threshold']:.0%}"
    for field, title in (
        ("duplicates", say("rows that repeat an earlier one: {count}", count=found["duplicates"]["count"])),
        (
            "near_duplicates",
            say(
                "near-duplicates of another row (at least {share} alike): {count}",
                count=found["near_duplicates"]["count"],
                share=share,
            ),
        ),
        ("leaked", say("held-out rows that are also trained on: {count}", count=found["leaked"]["count"])),
        (
            "near_leaked",
            say(
                "held-out rows that are near-duplicates of rows trained on: {count}",
                count=found["near_leaked"]["count"],
            ),
        ),
    ):
        likes = found[field]
        if likes["count"]:
            pairs = [
                f"{one['line']} ≈ {one['of']} ({one['similarity']:.0%})"
                if one["similarity"] < 1
                else f"{one['line']} = {one['of']}"
                for one in likes["examples"][:LISTED]
            ]
            more = ", …" if likes["count"] > LISTED else ""
            yield False, title, [say("lines {pairs}", pairs=", ".join(pairs) + more)]


def _listed(problems: Sequence[Json], count: int, unit: str = "line") -> list[str]:
    shown = [
        say("row {line}: {reason}", line=one["line"], reason=one["reason"])
        if unit == "row"
        else say("line {line}: {reason}", line=one["line"], reason=one["reason"])
        for one in problems[:LISTED]
    ]
    return [*shown, say("and {more} more", more=count - LISTED)] if count > LISTED else shown
