"""The names that `pull` understands. Pure text.

hf.co/OWNER/REPO[:QUANT]            the Hugging Face hub; also huggingface.co/...
OWNER/REPO[:QUANT]                  the same
OWNER/REPO/[FOLDER/]FILE.gguf       one file of it
https://huggingface.co/OWNER/REPO   the same; or, of any host, .../resolve/REVISION/FILE.gguf
NAME[:TAG]                          Ollama's registry, `library/`
ollama.com/USER/NAME[:TAG]          a user's model there
HOST[:PORT]/USER/NAME[:TAG]         another Ollama registry; with http:// in front where it has no TLS
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from llamaleon_server.errors import BadRequest

HUB_HOSTS = ("hf.co", "huggingface.co", "www.huggingface.co")
OLLAMA_HOSTS = ("ollama.com", "registry.ollama.ai", "www.ollama.com")
OLLAMA_REGISTRY = "registry.ollama.ai"
_WORD = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?")
_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(?::\d{1,5})?")  # a folder too
_FILE_PAGE = re.compile(r"/(?:resolve|blob)/")
MAX_NAME = 200


class HubName(Struct, frozen=True, kw_only=True):
    """Files of a repository of the Hugging Face hub."""

    repo: str  # OWNER/REPO
    quant: str | None = None
    file: str | None = None  # path inside the repository
    revision: str = "main"
    endpoint: str | None = None  # None: the one of HF_ENDPOINT, else the public one


class OllamaName(Struct, frozen=True, kw_only=True):
    """A model of an Ollama registry."""

    name: str
    tag: str = "latest"
    namespace: str = "library"
    host: str = OLLAMA_REGISTRY
    scheme: str = "https"

    def __str__(self) -> str:
        """As Ollama lists it: what is the default is left out, except the tag."""
        short = f"{self.name}:{self.tag}"
        if self.host != OLLAMA_REGISTRY:
            return f"{self.host}/{self.namespace}/{short}"
        return short if self.namespace == "library" else f"{self.namespace}/{short}"


def parse_name(name: str, *, ollama: bool = False) -> HubName | OllamaName:
    """What is to be pulled. `ollama`: two parts mean a user of Ollama's registry, as for Ollama's clients.

    Raises: BadRequest naming the forms.
    """
    text = name.strip()
    if not text or len(text) > MAX_NAME:
        raise _unreadable(name)
    scheme, host, path = _located(text)
    if host is not None and not _HOST.fullmatch(host):
        raise _unreadable(name)
    if host in HUB_HOSTS:  # these mean "the hub", which HF_ENDPOINT may place elsewhere
        return _hub(path, name, None)
    if scheme and _FILE_PAGE.search(path):
        return _hub(path, name, f"{scheme}://{host}")
    parts = path.split("/")
    if host is None and (len(parts) > 2 or (len(parts) == 2 and not ollama)):
        return _hub(path, name, None)
    return _ollama(scheme or "https", host, parts, name)


def _located(text: str) -> tuple[str, str | None, str]:
    """(scheme or "", host or None, path without a leading slash)."""
    if "://" in text:
        try:
            url = urlsplit(text)
        except ValueError as error:  # half an IPv6 address
            raise _unreadable(text) from error
        if url.scheme not in {"http", "https"}:
            raise _unreadable(text)
        return url.scheme, url.netloc.lower(), unquote(url.path).strip("/")
    first, slash, rest = text.partition("/")
    # An owner of the hub, or a user of Ollama's, has no dot and no colon in the name.
    if slash and ("." in first or ":" in first or first == "localhost"):
        return "", first.lower(), rest
    return "", None, text


def _hub(path: str, name: str, endpoint: str | None) -> HubName:
    parts = path.split("/")
    if len(parts) < 2:
        raise _unreadable(name)
    owner, (repo, _, quant), rest = parts[0], parts[1].partition(":"), parts[2:]
    revision = "main"
    if rest and rest[0] in {"resolve", "blob", "tree"}:
        revision, rest = (rest[1] if len(rest) > 1 else "main"), rest[2:]
    if not _WORD.fullmatch(owner) or not _WORD.fullmatch(repo) or (quant and not _WORD.fullmatch(quant)):
        raise _unreadable(name)
    if any(part in {"", ".", ".."} or "\\" in part for part in [revision, *rest]):
        raise _unreadable(name)
    file = "/".join(rest) or None
    if file is not None and not file.endswith(".gguf"):
        raise BadRequest(f"`{file}` is no GGUF file: only those can be served.", param="model")
    return HubName(
        repo=f"{owner}/{repo}", quant=quant or None, file=file, revision=revision, endpoint=endpoint
    )


def _ollama(scheme: str, host: str | None, parts: list[str], name: str) -> OllamaName:
    *namespace, last = parts
    model, _, tag = last.partition(":")
    words = [*namespace, model, tag or "latest"]
    if len(namespace) > 1 or not all(_WORD.fullmatch(word) for word in words):
        raise _unreadable(name)
    return OllamaName(
        name=model,
        tag=tag or "latest",
        namespace=namespace[0] if namespace else "library",
        host=OLLAMA_REGISTRY if host is None or host in OLLAMA_HOSTS else host,
        scheme="https" if host in OLLAMA_HOSTS else scheme,
    )


def _unreadable(name: str) -> BadRequest:
    return BadRequest(
        f"{name!r} names nothing that can be pulled: write OWNER/REPO[:QUANT] or OWNER/REPO/FILE.gguf for "
        "the Hugging Face hub, NAME[:TAG] or HOST/USER/NAME[:TAG] for an Ollama registry.",
        param="model",
    )
