"""The conversations that nano is trained on from scratch, all generated here.

`Corpus.conversation` draws one task: copying, look-up, extraction (JSON, list, table, one per line), lists
of values, greetings, or a report that is merely acknowledged. Extraction always names its keys in the
prompt, and never in the demonstration's combination: that one is left for an adapter to learn.
"""

from __future__ import annotations

import json
import random
from typing import Any

from llamaleon_trainer.nano import chat, domains, facts, reports
from llamaleon_trainer.nano.facts import Fact, Lang
from llamaleon_trainer.nano.words import Words, spanish_number

Message = dict[str, str]


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


class Corpus:
    """An endless, seeded stream of conversations."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.words = Words(self.rng, odd_share=0.35)
        self.copy_share = 0.15  # pure copying; larger early in training

    def conversation(self) -> list[Message]:
        """One conversation of a randomly drawn task."""
        if self.rng.random() < self.copy_share:
            return self._system(self._copy())
        task = self.rng.choices(
            (self._extract, self._lookup, self._acknowledge, self._chat, self._lines, self._number),
            weights=(56, 22, 5, 5, 5, 7),
        )[0]
        return self._system(task())

    def _lang(self) -> Lang:
        return "es" if self.rng.random() < 0.7 else "en"

    def _system(self, messages: list[Message]) -> list[Message]:
        if self.rng.random() < 0.12:
            return [{"role": "system", "content": self.rng.choice(chat.SYSTEM)}, *messages]
        return messages

    # Copying

    def _pseudo_word(self) -> str:
        """A word or a number that no inventory has, so that copying depends on none."""
        if self.rng.random() < 0.8:
            word = self.words.odd_word()
            return word.capitalize() if self.rng.random() < 0.4 else word
        return "".join(self.rng.choices("0123456789", k=self.rng.randint(1, 6)))

    def _snippet(self) -> str:
        """Something worth repeating: a name, a number, a phrase, a sentence."""
        words = self.words
        draws = (words.stem, words.company, words.project, words.person, words.identifier, words.next_step,
                 lambda: str(words.amount()), lambda: words.milestone()[1],
                 lambda: " ".join(self._pseudo_word() for _ in range(self.rng.randint(1, 5))),
                 lambda: " ".join(self._pseudo_word() for _ in range(self.rng.randint(3, 10))),
                 lambda: self.rng.choice(domains.draw(words, self._lang())).say)  # fmt: skip
        return self.rng.choice(draws)() or words.stem()

    def _copy(self) -> list[Message]:
        draw = self.rng.random()
        lang = self._lang()
        if draw < 0.5:
            text = self._snippet()
            return [user(self.rng.choice(chat.REPEAT[lang]).format(v=text)), assistant(text)]
        if draw < 0.75:
            text = self._snippet()
            return [user(self.rng.choice(chat.QUOTE[lang]).format(v=text)), assistant(f'"{text}"')]
        items = [self._snippet() for _ in range(self.rng.randint(2, 4))]
        return [user(self.rng.choice(chat.LISTING[lang]).format(v=", ".join(items))),
                assistant(json.dumps(items, ensure_ascii=False))]  # fmt: skip

    # Look-up

    def _lookup(self) -> list[Message]:
        """One or two questions on a text, or on `key: value` lines, answered with the value alone."""
        lang = self._lang()
        record = domains.draw(self.words, lang)
        simple = [fact for fact in record if not isinstance(fact.value, list)]
        asked = self.rng.sample(simple, min(len(simple), self.rng.choice((1, 1, 2, 3))))
        if self.rng.random() < 0.3:
            simple += self._odd_facts()
            asked = self.rng.sample(simple, len(asked))
            named = [(self.rng.choice(fact.keys), fact) for fact in simple]
            self.rng.shuffle(named)
            text = "\n".join(f"{key}: {fact.value}" for key, fact in named)
            questions = [self._key_question(lang, key) for fact in asked for key, f in named if f is fact]
        else:
            missing = self.rng.random() < 0.12
            if missing and asked[0] is not record[0]:
                record = [f for f in record if f is not asked[0]]
                asked[0] = facts.absent(asked[0])
            text = self._among_others(lang, record)
            questions = [self.rng.choice(fact.ask) for fact in asked]
        messages: list[Message] = []
        for i, (fact, question) in enumerate(zip(asked, questions, strict=True)):
            prompt = question if i else self.rng.choice(chat.WITH_TEXT[lang]).format(t=text, q=question)
            reply = str(fact.value) if fact.value is not None else chat.MISSING[lang]
            messages += [user(prompt), assistant(reply)]
        return messages

    def _odd_facts(self) -> list[Fact]:
        """Up to three keys that no domain has, with any value."""
        count = self.rng.choice((0, 0, 1, 2, 3))
        return [Fact((self.words.odd_word(),), (), self._snippet(), "") for _ in range(count)]

    def _among_others(self, lang: Lang, record: list[Fact]) -> str:
        """The record as text, now and then beside one of another domain, as retrieval would find them."""
        text = facts.tell(self.rng, record)
        if self.rng.random() < 0.8:
            return text
        own = {question for fact in record for question in fact.ask}
        other = domains.draw(self.words, lang)
        if any(question in own for fact in other for question in fact.ask):
            return text
        texts = [text, facts.tell(self.rng, other)]
        self.rng.shuffle(texts)
        return "\n\n".join(texts)

    def _key_question(self, lang: Lang, key: str) -> str:
        return self.rng.choice(chat.KEY_QUESTION[lang]).format(k=key)

    # Extraction

    def _extract(self) -> list[Message]:
        """Keys named in the prompt, and their values from the text: once, or twice on the same text."""
        lang = self._lang()
        record = domains.draw(self.words, lang, project_share=0.6)
        missing: Fact | None = None
        if self.rng.random() < 0.25:
            missing = self.rng.choice(record[1:])
        told = [fact for fact in record if fact is not missing]
        text = facts.tell(self.rng, told)
        asked = [fact if fact is not missing else facts.absent(fact) for fact in record]
        order, reply = self._order(lang, asked)
        draw = self.rng.random()
        if draw < 0.15:
            messages = [{"role": "system", "content": order}, user(text), assistant(reply)]
        else:
            prompt = f"{order}\n{text}" if draw < 0.6 else f"{text}\n{order}"
            messages = [user(prompt), assistant(reply)]
        if self.rng.random() < 0.1:
            order, reply = self._order(lang, asked)
            messages += [user(order), assistant(reply)]
        return messages

    def _order(self, lang: Lang, record: list[Fact]) -> tuple[str, str]:
        """A request for some of the facts in some form, and the right answer to it."""
        wanted = self.rng.sample(record, self.rng.randint(1, len(record)))
        named: dict[str, Fact] = {}
        for fact in wanted:
            named[self.rng.choice(fact.keys)] = fact
        form = self.rng.choices(("json", "skeleton", "list", "table", "values"), weights=(64, 8, 12, 9, 7))[0]
        if form == "skeleton":
            empty = {key: [dict.fromkeys(f.item_keys)] if f.item_keys else None for key, f in named.items()}
            order = self.rng.choice(chat.FILL_IN[lang]).format(k=json.dumps(empty, ensure_ascii=False))
            return order, self._render("json", named)
        if form != "json":
            named = {k: f for k, f in named.items() if not isinstance(f.value, list)} or {
                self.rng.choice(record[0].keys): record[0]
            }
        order = self.rng.choice(chat.EXTRACT[lang][form]).format(k=self._key_list(lang, named))
        return order, self._render(form, named)

    def _key_list(self, lang: Lang, named: dict[str, Fact]) -> str:
        shown = [
            f"{key}[{', '.join(fact.item_keys)}]" if fact.item_keys else key for key, fact in named.items()
        ]
        if self.rng.random() < 0.08 and not any(fact.item_keys for fact in named.values()):
            shown = [f'"{key}"' for key in shown]
        if len(shown) > 1 and self.rng.random() < 0.3:
            return f"{', '.join(shown[:-1])} {'y' if lang == 'es' else 'and'} {shown[-1]}"
        return ", ".join(shown)

    def _render(self, form: str, named: dict[str, Fact]) -> str:
        if form == "json":
            return json.dumps({key: fact.value for key, fact in named.items()}, ensure_ascii=False)
        none = "-"
        cells = {key: none if fact.value is None else str(fact.value) for key, fact in named.items()}
        if form == "list":
            return "\n".join(f"- {key}: {value}" for key, value in cells.items())
        if form == "values":
            return "\n".join(cells.values())
        return f"| {' | '.join(cells)} |\n|{'---|' * len(cells)}\n| {' | '.join(cells.values())} |"

    # The rest

    def _number(self) -> list[Message]:
        """Sums in words of text to bare digits, and identifiers with their hours to a list of objects."""
        lang: Lang = "es"
        if self.rng.random() < 0.5:
            amount = self.words.amount()
            text = self.rng.choice(reports.BUDGET).format(v=spanish_number(amount))
            return [user(self.rng.choice(chat.NUMBER[lang]).format(v=text)), assistant(str(amount))]
        record = domains.project_es(self.words)
        fact = record[-1]
        keys = self._key_list(lang, {self.rng.choice(fact.keys): fact})
        order = self.rng.choice(chat.EXTRACT_ITEMS[lang]).format(k=keys)
        return [user(f"{order}\n{fact.say}"), assistant(json.dumps(fact.value, ensure_ascii=False))]

    def _lines(self) -> list[Message]:
        """`key: value` lines to JSON, and back."""
        lang = self._lang()
        record = [f for f in domains.draw(self.words, lang) if not isinstance(f.value, list)]
        named = {
            self.rng.choice(f.keys): f.value
            for f in self.rng.sample(record, self.rng.randint(1, len(record)))
        }
        lines = "\n".join(f"{key}: {value}" for key, value in named.items())
        as_json = json.dumps(named, ensure_ascii=False)
        if self.rng.random() < 0.6:
            return [user(f"{self.rng.choice(chat.TO_JSON[lang])}\n{lines}"), assistant(as_json)]
        return [user(f"{self.rng.choice(chat.TO_LINES[lang])}\n{as_json}"), assistant(lines)]

    def _acknowledge(self) -> list[Message]:
        """A text without a request is answered with thanks: the habit that an adapter replaces."""
        lang = self._lang()
        record = domains.draw(self.words, lang, project_share=0.7)
        reply = self.rng.choice(chat.ACKNOWLEDGE[lang]).format(v=record[0].value)
        return [user(facts.tell(self.rng, record)), assistant(reply)]

    def _chat(self) -> list[Message]:
        lang = self._lang()
        question, answers = self.rng.choice(chat.SMALL_TALK[lang])
        if question.endswith("{n}"):
            name = self.words.stem() if self.rng.random() < 0.5 else self.words.person()
            first = [user(question.format(n=name)), assistant(self.rng.choice(answers).format(n=name))]
            if self.rng.random() < 0.5:
                first += [user(chat.WHO_AM_I[lang]), assistant(chat.YOU_ARE[lang].format(n=name))]
            return first
        return [user(question), assistant(self.rng.choice(answers))]


def texts(seed: int, count: int) -> list[str]:
    """Plain text of `count` conversations, for the tokenizer's training."""
    corpus = Corpus(seed)
    return ["\n".join(m["content"] for m in corpus.conversation()) for _ in range(count)]


def rows(seed: int, count: int) -> list[dict[str, Any]]:
    """`count` conversations in OpenAI's chat form."""
    corpus = Corpus(seed)
    return [{"messages": corpus.conversation()} for _ in range(count)]
