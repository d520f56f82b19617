"""How a job ended, for people: parity, base against adapter, and the lines of Python that use the result."""

from __future__ import annotations

import re

from rich.console import Console

from llamaleon_clients.api import Json
from llamaleon_clients.errors import ClientError
from llamaleon_clients.figures import job_table
from llamaleon_clients.training import Progress
from llamaleon_clients.words import say


class JobNotDeployed(ClientError):
    """The job ended without an adapter that answers; the message carries the server's reason."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


def print_outcome(console: Console, job: Json, progress: Progress) -> None:
    """Parity and evaluation, as far as the job came."""
    if progress.parity is not None:
        console.print(parity_line(progress.parity))
    if progress.evaluation is not None:
        console.print(job_table(progress.evaluation))
        console.print(say("Curves, answers and advice: llamaleon report {job}", job=job["id"]), markup=False)


def parity_line(parity: Json) -> str:
    """The trained adapter against the served one; KL in nats per token, the difference in logits."""
    return say(
        "Parity over {tokens} tokens: mean KL {mean}, largest difference {largest}",
        tokens=f"{parity['tokens']:,}",
        mean=f"{parity['mean_kl']:.1e}",
        largest=f"{parity['max_abs_diff']:.1e}",
    )


def served_name(job: Json) -> str:
    """`BASE+SUFFIX` reads best; a job without a suffix, or not deployed, has only `ft:BASE:ORG:SUFFIX:ID`."""
    fine_tuned_model = str(job["fine_tuned_model"])
    _, *base, _, suffix, _ = fine_tuned_model.split(":")
    return f"{':'.join(base)}+{suffix}" if suffix and job.get("deploy", True) else fine_tuned_model


def python_lines(url: str, model: str, prompt: str = "Hola") -> str:
    """Three lines that work when pasted, with the ordinary `openai` package."""
    messages = f'[{{"role": "user", "content": "{prompt}"}}]'
    return (
        "from openai import OpenAI\n"
        f'client = OpenAI(base_url="{url}/v1", api_key="-")\n'
        f'print(client.chat.completions.create(model="{model}", temperature=0, messages={messages})'
        ".choices[0].message.content)"
    )


def require_success(job: Json) -> None:
    """
    Raises:
        JobNotDeployed: the job failed or was cancelled.
    """
    if job["status"] == "succeeded":
        return
    error = job.get("error") or {}
    reason = _by_line(error.get("message") or say("no reason was given"))
    code = error.get("code")
    if job["status"] == "cancelled":
        raise JobNotDeployed(say("job {job} was cancelled.", job=job["id"]), "cancelled")
    if code in ("parity_failed", "worse_than_base"):
        raise JobNotDeployed(say("the adapter was kept but not deployed: {reason}", reason=reason), code)
    raise JobNotDeployed(say("job {job} failed: {reason}", job=job["id"], reason=reason), code)


def _by_line(reason: str) -> str:
    """Bad rows beneath each other: the server lists them as `line 3: ...; line 9: ...`."""
    return re.sub(r" (?=line \d+: )", "\n  ", reason)
