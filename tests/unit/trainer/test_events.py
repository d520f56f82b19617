from __future__ import annotations

from pathlib import Path

import pytest

from llamaleon_trainer.events import EventWriter, read_events


def test_a_reader_follows_a_growing_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert read_events(path) == ([], 0)
    writer = EventWriter(path)
    writer.write("step", step=1, train_loss=0.5)
    events, offset = read_events(path)
    assert [(event.type, event.data) for event in events] == [("step", {"step": 1, "train_loss": 0.5})]
    writer.write("warning", message="año\nnuevo")
    events, offset = read_events(path, offset)
    assert [event.data for event in events] == [{"message": "año\nnuevo"}]
    assert read_events(path, offset) == ([], offset)
    writer.close()


def test_an_unfinished_line_is_not_read_and_then_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"type":"a","time":1.0}\n{"type":"b","ti')
    events, offset = read_events(path)
    assert [event.type for event in events] == ["a"]
    writer = EventWriter(path)
    writer.write("c")
    writer.close()
    assert [event.type for event in read_events(path, offset)[0]] == ["c"]


def test_a_complete_line_that_is_no_event_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"{}\n")
    with pytest.raises(ValueError, match="not an event"):
        read_events(path)
