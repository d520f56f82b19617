"""The model that ships, with some of its tokens renamed to control tokens, and another chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import gguf

from tests.data import NANO

TOKENS, TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
TEMPLATE = "tokenizer.chat_template"
FIRST = 1400  # of the tokens that are renamed: the last ones are merged most rarely


def marked(path: Path, template: str, marks: Sequence[str]) -> Path:
    """Merges that would make a renamed token stay: what they make is then a control token's text."""
    reader = gguf.GGUFReader(NANO)
    writer = gguf.GGUFWriter(path, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = field.contents()
        if name == TOKENS:
            value = [*value[:FIRST], *marks, *value[FIRST + len(marks) :]]
        elif name == TYPES:
            control = [int(gguf.TokenType.CONTROL)] * len(marks)
            value = [*value[:FIRST], *control, *value[FIRST + len(marks) :]]
        elif name == TEMPLATE:
            value = template
        kind = field.types[0]
        writer.add_key_value(name, value, kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
