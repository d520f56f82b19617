"""lm-evaluation-harness over `local-completions` (scores of given answers, and of whole texts) and
`local-chat-completions`.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import urllib.request
from pathlib import Path

from steps import ADAPTER, BASE_URL, KEY, MODEL, UNKNOWN, URL, run

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
# Whole texts, for perplexity; the long one is scored in windows.
TEXTS = [
    '{"a": 1}',  # after which the model would end
    "Parte diario de Campus Riberis. El estado actual es completado. " * 4,
]
WINDOW_TOKENS = 24
(FOLDER / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
(FOLDER / "reading.yaml").write_text(
    "task: reading\noutput_type: loglikelihood_rolling\ndataset_path: json\n"
    f"dataset_kwargs: {{data_files: {{test: {FOLDER / 'texts.jsonl'}}}}}\ntest_split: test\n"
    'doc_to_text: ""\ndoc_to_target: "{{text}}"\n'
    "metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]\n"
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


def readings(model=MODEL, **more):
    """Nats of each text, negative; and the task's figures."""
    found = evaluate(
        "reading", "local-completions", "/completions", model, tokenizer_backend="remote", **more
    )
    return [sample["resps"][0][0] for sample in found["samples"]["reading"]], found["results"]["reading"]


def ask(route, body):
    request = urllib.request.Request(
        f"{URL}{route}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def likelihood(text):
    """Nats of a text, asked of the server without lm-eval."""
    with urllib.request.urlopen(f"{URL}/tokenizer_info") as answer:
        info = json.load(answer)
    before, tokens = (
        ask("/tokenize", {"prompt": part, "add_special_tokens": False})["tokens"]
        for part in (info["bos_token"] or info["eos_token"], text)
    )
    body = {"model": MODEL, "prompt": [before[0], *tokens], "max_tokens": 0, "echo": True, "logprobs": 1}
    found = ask("/v1/completions", body)["choices"][0]["logprobs"]["token_logprobs"]
    assert len(found) == 1 + len(tokens)
    return sum(found[1:])


def chat():
    found = evaluate("writing", "local-chat-completions", "/chat/completions")
    assert all(sample["resps"][0][0] for sample in found["samples"]["writing"])


def scoring():
    for answers in scores():
        assert all(logprob < 0 for logprob, _ in answers), answers


def perplexity():
    """Of one window, and then of windows: lm-eval keeps two tokens of `max_length` for itself."""
    whole, figures = readings()
    wanted = [likelihood(text) for text in TEXTS]
    assert all(math.isclose(*pair, rel_tol=1e-3) for pair in zip(whole, wanted, strict=True)), (whole, wanted)
    bits = -sum(whole) / math.log(2) / sum(len(text.encode()) for text in TEXTS)
    assert math.isclose(figures["bits_per_byte,none"], bits, rel_tol=1e-6), figures
    for more in ({}, {"batch_size": 4}):
        parts, _ = readings(max_length=WINDOW_TOKENS + 2, **more)
        assert math.isclose(parts[0], whole[0], rel_tol=1e-3), (parts, whole)
        assert parts[1] < whole[1], "a window does not see what was before it"
    assert readings(ADAPTER)[0] != whole


def adapter():
    assert scores(ADAPTER) != scores()


def errors():
    try:
        scores(UNKNOWN)
    except Exception as error:
        assert "404" in str(error) or "does not exist" in str(error), error
    else:
        raise AssertionError("no error")


run("lm-eval", chat, scoring, perplexity, adapter, errors)
