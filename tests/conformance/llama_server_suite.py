"""llama-server's own Python tests, run against this server.

    python -m tests.conformance.llama_server_suite LLAMA_CPP/tools/server/tests --write docs/conformance.md

The folder is part of llama.cpp, and of llama-cpp-python's source distribution (`vendor/llama.cpp`). Every
test is in the table: passed, failed, or not applicable, and why.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.conformance.llama_server_plugin import MODEL, RESULTS
from tests.data import DATA, REPOSITORY

# Why what fails fails, where the assertion does not say it.
KNOWN = {
    "test_server_models": "the model that ships is listed, too",
    "test_server_slots": "no slots: sequences share one cache",
    "test_cancel_request": "asks /slots: there are none (cancellation is tested in tests/unit/server/web)",
    "test_metrics_slots_idle_after_completion": "no slots: sequences share one cache",
    "test_no_ui": "their web page",
    "test_access_static_assets_without_api_key": "their web page",
    "test_chat_completion": "wants llama.cpp's build number as `system_fingerprint`",
    "test_chat_completion_with_openai_library": "wants llama.cpp's build number as `system_fingerprint`",
    "test_responses_with_openai_library": "other random numbers, other words: temperature 0.8",
    "test_responses_stream_with_llama_telemetry": "no progress of prompts inside a stream",
    "test_completion_with_openai_library": "wants llama.cpp's build number as `system_fingerprint`",
    "test_chat_completion_stream": "the first chunk has an empty text, as OpenAI's has",
    "test_chat_completion_with_timings_per_token": "the first chunk has an empty text, as OpenAI's has",
    "test_completion_without_tool_call_fast": "the first chunk has an empty text, as OpenAI's has",
    "test_chat_template": "wants `__verbose`, llama-server's own words for debugging",
    "test_chat_template_assistant_prefill": "wants `__verbose`",
    "test_chat_template_continue_final_message_vllm_compat": "wants `__verbose`",
    "test_verbose_debug": "wants `__verbose`",
    "test_context_size_exceeded": "the error is OpenAI's `context_length_exceeded`",
    "test_context_size_exceeded_stream": "the error is OpenAI's `context_length_exceeded`",
    "test_ctx_shift_disabled_long_prompt": "400, in other words than llama-server's",
    "test_logprobs_stream": "the first chunk has an empty text, as OpenAI's has",
    "test_anthropic_tool_result_with_image": "400: the model cannot see; llama-server has a 500 for it",
    "test_anthropic_vision_format_accepted": "400: the model cannot see; llama-server has a 500 for it",
    "test_anthropic_empty_messages": "400, as Anthropic's: no messages",
    "test_return_progress": "no progress of prompts inside a stream",
    "test_metrics_timings_on_prompt_progress": "no progress of prompts inside a stream",
    "test_completion": "other random numbers, other words: temperature 0.8",
    "test_completion_stream_with_openai_library": "other random numbers, other words: temperature 0.8",
    "test_completion_stream": "no adaptive-p sampler in `generation_settings`",
    "test_completion_response_fields": "`prompt` is what was sent, not its tokens as text",
    "test_n_probs_post_sampling": "`post_sampling_probs` is refused by name",
    "test_ignore_eos_populates_logit_bias": "the end tokens are banned, but not shown as biases",
    "test_metrics_disabled": "metrics are always there",
    "test_metrics_prometheus_format": "metrics have our own names, for each model",
    "test_metrics_prompt_processed_and_cached": "metrics have our own names, for each model",
    "test_metrics_predicted_total_matches_requests": "metrics have our own names, for each model",
    "test_metrics_generation_rate_excludes_first_token": "rates count every token drawn, the first too",
    "test_incorrect_api_key": "401 with OpenAI's type, not `authentication_error`",
    "test_cors_options": "CORS is off unless `--cors-origin` switches it on",
    "test_invalid_chat_completion_req": "two answers of the assistant in a row are no error here",
    "test_date_inside_prompt": "templates get what Hugging Face gives them; no `date_string` or `datetime`",
}
BEGIN, END = "<!-- llama-server suite: begin -->", "<!-- llama-server suite: end -->"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="tools/server/tests of llama.cpp")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the table in this file")
    parser.add_argument("-k", dest="only", default="", help="as pytest's")
    arguments = parser.parse_args()
    found = run(arguments.folder.resolve(), arguments.only)
    counts = Counter(outcome for _, outcome, _ in found)
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} not applicable")
    for test, outcome, why in found:
        if outcome == "failed":
            print(f"  {test}: {why}")
    if arguments.write is not None:
        text = arguments.write.read_text(encoding="utf-8")
        kept = re.compile(f"{BEGIN}.*{END}", re.DOTALL)
        arguments.write.write_text(kept.sub(lambda _: table(found), text), encoding="utf-8")
    return 0


def run(folder: Path, only: str) -> list[tuple[str, str, str]]:
    """(test, passed | failed | skipped, why) of each."""
    with tempfile.TemporaryDirectory() as kept:
        results = Path(kept) / "results.jsonl"
        environment = {
            **os.environ,
            MODEL: str(DATA / "stories260K" / "stories260K-f32.gguf"),
            RESULTS: str(results),
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(folder), os.environ.get("PYTHONPATH", "")]),
            "PYTEST_ADDOPTS": "",
        }
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conformance.llama_server_plugin"]
        command += [
            "--rootdir",
            str(folder),
            "-c",
            str(folder / "pytest.ini"),
            "--timeout",
            "120",
        ]
        command += ["-p", "no:cacheprovider", "-p", "no:schemathesis", "--tb=short", "unit", "-k", only]
        subprocess.run(command, cwd=folder, env=environment, check=False)
        lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    return [(one["test"], *judged(one["test"], one["outcome"], one["reason"])) for one in lines]


def judged(test: str, outcome: str, reason: str) -> tuple[str, str]:
    """A failure with the reason that is known for it, where one is."""
    if outcome == "failed":
        name = test.rpartition("::")[2].partition("[")[0]
        return outcome, KNOWN.get(name, reason)
    return outcome, reason


def table(found: list[tuple[str, str, str]]) -> str:
    counts = Counter(outcome for _, outcome, _ in found)
    lines = [
        BEGIN,
        f"{len(found)} tests: {counts['passed']} passed, {counts['failed']} failed, "
        f"{counts['skipped']} not applicable.",
        "",
        "| test | result | why |",
        "|---|---|---|",
    ]
    words = {"passed": "passed", "failed": "failed", "skipped": "not applicable"}
    lines += [
        f"| {_cell(test.removeprefix('unit/'))} | {words[outcome]} | {_cell(why)} |"
        for test, outcome, why in sorted(found)  # the suite runs in an order of its own
    ]
    return "\n".join([*lines, END])


def _cell(text: str) -> str:
    short = text if len(text) <= 160 else text[:157] + "..."
    return short.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


if __name__ == "__main__":
    sys.exit(main())
