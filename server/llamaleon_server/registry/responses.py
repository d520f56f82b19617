"""Responses as rows: what a client may continue, read again and delete."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from llamaleon_server.errors import BadRequest, NotFound
from llamaleon_server.registry.db import Database
from llamaleon_server.registry.items import ItemRows
from llamaleon_server.registry.webhooks import WebhookStore
from llamaleon_server.wire.responses_items import Item, Reference
from llamaleon_server.wire.responses_object import (
    COMPLETED,
    FAILED,
    INCOMPLETE,
    RUNNING,
    ResponseError,
    ResponseObject,
    ended,
)

KEPT_S = 30 * 24 * 3600  # OpenAI promises that long, too
RESTARTED = "The server stopped while this response was running."

_decoder = msgspec.json.Decoder(ResponseObject)


class PreviousNotFound(BadRequest):
    code = "previous_response_not_found"


class ResponseStore:
    """Every response has its own input and output; what came before is found by `previous_response_id`."""

    def __init__(self, db: Database, webhooks: WebhookStore) -> None:
        self._db = db
        self._items = ItemRows(db)
        self._webhooks = webhooks

    # ------------------------------------------------------------ responses

    def add(self, response: ResponseObject, inputs: Sequence[Item], events: str | None = None) -> None:
        """With what it has of output. If it has a conversation, both become part of that when it has ended.

        `events`: the JSON of a stream that can be asked for again.
        """
        with self._db.transaction():
            self._db.execute(
                "INSERT INTO responses (id, previous, status, created, record, events) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                response.id,
                response.previous_response_id,
                response.status,
                response.created_at,
                _record(response),
                events,
            )
            self._items.add(response.id, inputs)
            self._finish(response, inputs)

    def finish(self, response: ResponseObject, events: str | None = None) -> None:
        """It was made in the background, and added before it ended: that it has is announced to webhooks.

        Nothing happens if it was deleted meanwhile.
        """
        with self._db.transaction():
            changed = self._db.execute(
                "UPDATE responses SET status = ?, record = ?, events = ? WHERE id = ?",
                response.status,
                _record(response),
                events,
                response.id,
            )
            if changed.rowcount:
                self._finish(response, self._items.of(response.id))
                self._webhooks.announce(f"response.{response.status}", response.id)

    def get(self, response_id: str) -> ResponseObject:
        """Raises: NotFound."""
        row = self._db.row("SELECT record FROM responses WHERE id = ?", response_id)
        if row is None:
            raise NotFound(f"Response with id '{response_id}' not found.", param="response_id")
        output = self._items.of(response_id, output=True)
        return msgspec.structs.replace(_decoder.decode(row["record"]), output=output)

    def events(self, response_id: str) -> str | None:
        """The stream's JSON, if it was kept. Raises: NotFound."""
        row = self._db.row("SELECT events FROM responses WHERE id = ?", response_id)
        if row is None:
            raise NotFound(f"Response with id '{response_id}' not found.", param="response_id")
        found: str | None = row["events"]
        return found

    def delete(self, response_id: str) -> None:
        """Raises: NotFound."""
        with self._db.transaction():
            if not self._db.execute("DELETE FROM responses WHERE id = ?", response_id).rowcount:
                raise NotFound(f"Response with id '{response_id}' not found.", param="response_id")
            self._items.remove(response_id)

    def inputs(self, response_id: str) -> list[Item]:
        """All that this response was made from: what came before it, and its own input. Raises: NotFound."""
        response = self.get(response_id)
        earlier = [] if response.previous_response_id is None else self.context(response.previous_response_id)
        return [*earlier, *self._items.of(response_id, output=False)]

    def context(self, response_id: str) -> list[Item]:
        """What a response that continues this one begins with.

        Raises:
            PreviousNotFound: it, or one that it continues, is not there.
            BadRequest: it is still running, or it is part of a conversation.
        """
        chain: list[str] = []
        wanted: str | None = response_id
        while wanted is not None:
            row = self._db.row("SELECT previous, status, record FROM responses WHERE id = ?", wanted)
            if row is None:
                raise PreviousNotFound(
                    f"Previous response with id '{wanted}' not found.", param="previous_response_id"
                )
            if row["status"] in RUNNING:
                raise BadRequest(f"Response '{wanted}' is still running.", param="previous_response_id")
            _refuse_conversation(_decoder.decode(row["record"]))
            chain.append(wanted)
            wanted = row["previous"]
        return [item for one in reversed(chain) for item in self._items.of(one)]

    def referred(self, given: Sequence[Item | Reference]) -> list[Item]:
        """The items themselves in place of references. Raises: BadRequest naming one that is not there."""
        return [self._referred(item) if isinstance(item, Reference) else item for item in given]

    def extend_conversation(self, response: ResponseObject, inputs: Sequence[Item]) -> None:
        """What was asked and answered becomes part of its conversation, if it has one."""
        if response.conversation is not None and response.status in {COMPLETED, INCOMPLETE}:
            row = self._db.row("SELECT id FROM conversations WHERE id = ?", response.conversation.id)
            if row is not None:  # it may have been deleted meanwhile
                with self._db.transaction():
                    self._items.add(response.conversation.id, [*inputs, *response.output])

    def interrupted(self) -> int:
        """Of an earlier server: what it was doing has failed. Returns how many."""
        rows = self._db.rows("SELECT record FROM responses WHERE status IN (?, ?)", *RUNNING)
        for row in rows:
            response = _decoder.decode(row["record"])
            self.finish(ended(response, FAILED, error=ResponseError("server_error", RESTARTED)))
        return len(rows)

    def sweep(self) -> None:
        """Forget what is old, unless something younger continues it."""
        with self._db.transaction():
            removed = 1
            while removed:
                removed = self._db.execute(
                    "DELETE FROM responses WHERE created < ? AND id NOT IN "
                    "(SELECT previous FROM responses WHERE previous IS NOT NULL)",
                    int(time.time()) - KEPT_S,
                ).rowcount
            self._items.sweep()

    # ------------------------------------------------------------ inside

    def _finish(self, response: ResponseObject, inputs: Sequence[Item]) -> None:
        self._items.add(response.id, response.output, output=True)
        self.extend_conversation(response, inputs)

    def _referred(self, reference: Reference) -> Item:
        item = self._items.find(reference.id)
        if item is None:
            raise BadRequest(
                f"Item with id '{reference.id}' not found: items are kept only of responses that are stored.",
                param=reference.place,
            )
        return item


def _refuse_conversation(response: ResponseObject) -> None:
    if response.conversation is not None:
        raise BadRequest(
            f"Response '{response.id}' is part of the conversation '{response.conversation.id}': "
            "continue that, with `conversation`.",
            param="previous_response_id",
        )


def _record(response: ResponseObject) -> str:
    return msgspec.json.encode(msgspec.structs.replace(response, output=[])).decode()
