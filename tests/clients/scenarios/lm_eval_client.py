"""lm-evaluation-harness over `local-completions` (scores of given answers) and `local-chat-completions`."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from steps import ADAPTER, BASE_URL, KEY, MODEL, UNKNOWN, run

FOLDER = Path(tempfile.mkdtemp())
# Before lm_eval is imported: it keeps datasets and its own cache there.
os.environ |= {"OPENAI_API_KEY": KEY, "HF_HOME": str(FOLDER / "hf"), "HF_HUB_OFFLINE": "1"}

import lm_eval  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

ROWS = [
    {"question": "Parte diario de Campus Riberis.", "choices": ["Gracias.", "zzz qqq"], "label": 0},
    {"question": "El estado actual es", "choices": ["completado", "jjj"], "label": 0},
]
(FOLDER / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
COMMON = f"""
dataset_path: json
dataset_kwargs: {{data_files: {{test: {FOLDER / "rows.jsonl"}}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
"""
(FOLDER / "choices.yaml").write_text(
    "task: choices\noutput_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: label\n"
    f"metric_list: [{{metric: acc}}]\n{COMMON}"
)
(FOLDER / "writing.yaml").write_text(
    'task: writing\noutput_type: generate_until\ndoc_to_target: "{{choices[0]}}"\n'
    "generation_kwargs: {until: ['.'], max_gen_toks: 12}\n"
    f"metric_list: [{{metric: exact_match}}]\n{COMMON}"
)


def evaluate(task, kind, route, model=MODEL, **more):
    return lm_eval.simple_evaluate(
        model=kind,
        model_args={"model": model, "base_url": f"{BASE_URL}{route}", "max_retries": 1, **more},
        tasks=[task],
        task_manager=TaskManager(include_path=str(FOLDER), include_defaults=False),
        apply_chat_template=route.startswith("/chat"),
        bootstrap_iters=0,
        log_samples=True,
    )


def scores(model=MODEL):
    found = evaluate("choices", "local-completions", "/completions", model, tokenizer_backend="remote")
    return [sample["filtered_resps"] for sample in found["samples"]["choices"]]


def chat():
    found = evaluate("writing", "local-chat-completions", "/chat/completions")
    assert all(sample["resps"][0][0] for sample in found["samples"]["writing"])


def scoring():
    for answers in scores():
        assert all(logprob < 0 for logprob, _ in answers), answers


def adapter():
    assert scores(ADAPTER) != scores()


def errors():
    try:
        scores(UNKNOWN)
    except Exception as error:
        assert "404" in str(error) or "does not exist" in str(error), error
    else:
        raise AssertionError("no error")


run("lm-eval", chat, scoring, adapter, errors)
