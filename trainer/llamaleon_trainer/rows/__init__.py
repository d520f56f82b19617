"""Dataset rows: which shape a file has, and what is wrong with each malformed row. No torch here.

Shapes, detected from the keys of the first well-formed row; every later row must have the same:

    chat        {"messages": [{"role", "content", "weight"?, "tool_calls"?...}], "tools"?}    OpenAI
    prompt      {"prompt", "completion"}     two strings: raw text, as /v1/completions sees it;
                                             two lists of messages: only the completion is learnt
    alpaca      {"instruction", "input"?, "output"}     becomes one user and one assistant message
    sharegpt    {"conversations": [{"from", "value"}], "system"?, "tools"?}
    vertex      {"input_text", "output_text"}, or {"messages": [{"author", "content"}], "context"?}
    gemini      {"contents": [{"role", "parts": [{"text"}]}], "systemInstruction"?}
    preference  {"prompt", "chosen", "rejected"} and its kin (`preferences`), for dpo
    text        {"text"}                     learnt from the first token to the last

Any other columns become a text by a template (`template`). Other packages may add shapes: `shapes.py`.
"""

from ..records import Problem
from .messages import ROLES
from .reading import SHAPES, read_dataset
from .row import DataRow, Dataset
from .template import check_template

__all__ = ["ROLES", "SHAPES", "DataRow", "Dataset", "Problem", "check_template", "read_dataset"]
