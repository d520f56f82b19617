"""Made models, names for a base with adapters and a preset: made of Modelfiles, copied, forgotten, described.

made = await make(registry, "mario", parse(text), folder=Path("/home/me"))
copy(registry, "mario", "luigi")
forget(registry, "luigi")
described = describe(registry, "mario")     # of a base, an adapter or a blend as well
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from llamaleon_server.chat.ask import Preset
from llamaleon_server.errors import BadRequest, Conflict, ModelNotFound, NotFound
from llamaleon_server.registry.go_template import jinja_of
from llamaleon_server.registry.hot import Offer, load_adapter
from llamaleon_server.registry.made import LATEST
from llamaleon_server.registry.modelfile import AdapterLine, Modelfile
from llamaleon_server.registry.names import MAX_NAME, Part, check_made_name, parse_blend
from llamaleon_server.registry.parameters import STOP, Meaning, meaning_of, typed
from llamaleon_server.registry.records import AdapterVersion, Base, MadeModel
from llamaleon_server.registry.registry import Registry

log = logging.getLogger(__name__)


class Description(Struct, frozen=True, kw_only=True):
    """A model by any form of its name. `modelfile` makes it again, on this machine."""

    name: str
    base: Base
    adapters: tuple[tuple[AdapterVersion, float], ...]
    preset: Preset
    modelfile: Modelfile
    made: MadeModel | None  # None: a base, an adapter or a blend
    created: int
    modified: int


async def make(
    registry: Registry,
    name: str,
    modelfile: Modelfile,
    *,
    folder: Path | None = None,
    replace: bool = True,
    own: bool = False,
    offer: Offer | None = None,
    say: Callable[[str], None] = lambda step: None,
) -> MadeModel:
    """Record `name` as what the Modelfile says; a made model of that name is replaced (running ones finish).

    FROM names a model of any kind (base, adapter, blend, made model), or a GGUF file, which is then
    registered as a base under its stem. What it says beyond that model is added: adapters on top of its own,
    parameters over its own one by one; SYSTEM, TEMPLATE and MESSAGE each replace. An ADAPTER file becomes an
    adapter of the base under its stem (MODEL-STEM if that is taken), in exactly this version; a registered
    ADAPTER is followed: whichever version is deployed, unless it is written as NAME@VERSION.

    Args:
        name: `:latest` at its end is dropped.
        folder: of the Modelfile: what relative paths in it begin from. None: they are refused.
        replace: False: a made model of that name is a Conflict.
        own: `name` is a base and FROM it: what the Modelfile says then goes with that base itself.
        offer: `residents.offer`: tries new adapters in the engine, if it runs.
        say: is told of each step, in words for people.

    Raises:
        ModelNotFound: FROM or an ADAPTER names nothing; NotFound: a file is not there.
        BadRequest: not a name, a parameter or template that cannot be; `param` says which.
        AdapterRefused: an adapter does not fit the base.
        Conflict: the name belongs to a base or an adapter.
        StorageFull: nothing was recorded.
    """
    if not own:
        name = check_name(registry, name, replace=replace)
    modelfile = msgspec.structs.replace(modelfile, parameters=typed(modelfile.parameters))
    say("reading the model")
    begin = await asyncio.to_thread(_begin, registry, modelfile, folder)
    parts = list(begin.parts)
    for line in modelfile.adapters:
        say(f"adapter {line.source}")
        parts.append(await _part(registry, begin.base, line, model=name, folder=folder, offer=offer))
    made = _made(name, begin, modelfile, tuple(parts))
    for note in made.notes:
        log.info("%s: %s", name, note)
    say("writing the model")
    return await asyncio.to_thread(registry.put_made, made)


def copy(registry: Registry, source: str, destination: str, *, replace: bool = True) -> MadeModel:
    """Let `destination` mean what `source` means now: a made model becomes two, of others it is an alias.

    Raises: ModelNotFound, BadRequest, Conflict as `make`.
    """
    destination = check_name(registry, destination, replace=replace, param="destination")
    written = registry.written(source)
    now = int(time.time())
    if written.made is not None and not written.extra:
        made = msgspec.structs.replace(written.made, name=destination, created=now, modified=now)
        return registry.put_made(made)
    base = registry.base(written.base)
    begin = _Begin(base=base, parts=written.parts, made=written.made, parent=source)
    return registry.put_made(_made(destination, begin, Modelfile(from_=source), written.parts))


def forget(registry: Registry, name: str) -> MadeModel:
    """Forget a made model. Its base and its adapters stay; answers under way are not disturbed.

    Raises: NotFound if there is no made model of that name.
    """
    made = registry.made(name)
    if made is None or not registry.remove_made(made.name):
        raise NotFound(f"There is no made model `{name}`.", param="model")
    return made


def describe(registry: Registry, name: str) -> Description:
    """Of whatever `name` means. Raises: as `registry.resolve`."""
    target = registry.resolve(name)
    written = registry.written(name)
    made = written.made if not written.extra else None
    if made is not None:
        modelfile, created, modified = made.modelfile, made.created, made.modified
    else:
        created = modified = max([target.base.created, *(version.created for version, _ in target.adapters)])
        begin = _Begin(base=target.base, parts=written.parts, made=written.made, parent=name)
        modelfile = _made(name, begin, Modelfile(from_=name), written.parts).modelfile
    return Description(
        name=name,
        base=target.base,
        adapters=target.adapters,
        preset=target.preset,
        modelfile=modelfile,
        made=made,
        created=created,
        modified=modified,
    )


def paths_of(modelfile: Modelfile, folder: Path | None = None) -> list[tuple[str, Path]]:
    """(field, file) of what on the server's disk it would read: for whoever decides who may."""
    found = []
    if is_path(modelfile.from_):
        found.append(("from", _file(modelfile.from_, folder, "from")))
    for line in modelfile.adapters:
        if line.path is None and is_path(line.source):
            found.append(("adapters", _file(line.source, folder, "adapters")))
    return found


def is_path(text: str) -> bool:
    """Whether FROM or ADAPTER means a file rather than a name. Names contain slashes, too."""
    return text.startswith(("/", "./", "../", "~/")) or text.lower().endswith(".gguf")


def check_name(registry: Registry, name: str, *, replace: bool, param: str = "model") -> str:
    """The name under which a made model is recorded. Raises: BadRequest, Conflict."""
    name = check_made_name(name.removesuffix(LATEST), param)
    if any(base in {name, name + LATEST} for base in registry.base_names()):
        raise Conflict(f"`{name}` is a base model: choose another name.", param=param)
    if registry.has_adapter(name):
        raise Conflict(f"`{name}` is an adapter: choose another name.", param=param)
    if not replace and registry.made(name) is not None:
        raise Conflict(f"`{name}` exists already.", param=param)
    return name


# ---------------------------------------------------------------- inside


class _Begin(Struct, frozen=True, kw_only=True):
    """What FROM means."""

    base: Base
    parts: tuple[Part, ...]
    made: MadeModel | None
    parent: str


def _begin(registry: Registry, modelfile: Modelfile, folder: Path | None) -> _Begin:
    name = modelfile.from_
    if is_path(name):
        path = _file(name, folder, "from")
        known = next((base for base in registry.bases() if base.path == path), None)
        base = registry.add_base(path) if known is None else known
        return _Begin(base=base, parts=(), made=None, parent=base.name)
    registry.resolve(name)  # what could not be answered is no model to begin with
    written = registry.written(name)
    return _Begin(base=registry.base(written.base), parts=written.parts, made=written.made, parent=name)


def _file(text: str, folder: Path | None, param: str) -> Path:
    try:
        path = Path(text).expanduser()
        if folder is not None:
            path = (folder / path).resolve()
    except (ValueError, OSError, RuntimeError) as error:  # a zero byte, a loop of links, nobody's home
        raise BadRequest(f"{text!r} is no path: {error}.", param=param) from error
    if not path.is_absolute():
        raise BadRequest(f"{text}: relative to what? Give an absolute path, or `folder`.", param=param)
    return path


async def _part(
    registry: Registry,
    base: Base,
    line: AdapterLine,
    *,
    model: str,
    folder: Path | None,
    offer: Offer | None,
) -> Part:
    """The adapter of one ADAPTER line, registered if it is a file."""
    if line.path is None and not is_path(line.source):
        name = line.source
        try:
            target = registry.resolve(f"{base.name}+{name}")
            name = f"{base.name}+{name}"
        except ModelNotFound:  # written with its base, or by its ft: name
            target = registry.resolve(name)
        written = registry.written(name)
        if target.base.name != base.name or len(written.parts) != 1:
            raise BadRequest(f"ADAPTER {line.source}: not an adapter of `{base.name}`.", param="adapters")
        part = written.parts[0]
        return msgspec.structs.replace(part, weight=part.weight * line.weight)
    path = line.path or _file(line.source, folder, "adapters")
    name = _adapter_name(registry, base, model, Path(line.source).stem)
    version = await load_adapter(registry, name, path, base.name, replace=True, offer=offer)
    return Part(version.adapter, version.version, line.weight)


def _adapter_name(registry: Registry, base: Base, model: str, stem: str) -> str:
    """Of an adapter that comes with a model: its file's, unless that is somebody else's."""
    mine = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in stem).strip("._-")
    if parse_blend(mine) and registry.deployed(base.name, mine) is None:
        return mine
    name = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in f"{model}-{mine}")
    return name.strip("._-")[-MAX_NAME:].strip("._-")


def _made(name: str, begin: _Begin, modelfile: Modelfile, parts: tuple[Part, ...]) -> MadeModel:
    whole = _whole(begin, modelfile, parts)
    meaning = meaning_of(whole.parameters)
    template, note = jinja_of(whole.template, has_own=begin.base.chat_template is not None)
    now = int(time.time())
    return MadeModel(
        name=name,
        base=begin.base.name,
        adapters=parts,
        parent=begin.parent,
        modelfile=whole,
        preset=_preset(whole, meaning, template),
        engine=meaning.engine,
        notes=meaning.notes + ((note,) if note else ()),
        created=now,
        modified=now,
    )


def _preset(whole: Modelfile, meaning: Meaning, template: str | None) -> Preset:
    return Preset(
        system=whole.system,
        template=template,
        messages=tuple({"role": role, "content": text} for role, text in whole.messages),
        wanted=meaning.wanted,
        stop=meaning.stop,
        max_tokens=meaning.max_tokens,
        context_tokens=meaning.engine.get("context_tokens"),
    )


def _whole(begin: _Begin, modelfile: Modelfile, parts: tuple[Part, ...]) -> Modelfile:
    """What it says, over what the model in FROM says."""
    old = begin.made.modelfile if begin.made is not None else Modelfile(from_=begin.base.name)
    new = modelfile.parameters
    named = {name for name, _ in new}
    return Modelfile(
        from_=begin.base.name,
        adapters=tuple(AdapterLine(source=str(Part(p.adapter, p.version)), weight=p.weight) for p in parts),
        parameters=tuple(pair for pair in old.parameters if pair[0] not in named)
        + tuple(pair for at, pair in enumerate(new) if pair[0] == STOP or not _again(new, at)),
        system=old.system if modelfile.system is None else modelfile.system,
        template=old.template if modelfile.template is None else modelfile.template,
        messages=modelfile.messages or old.messages,
        licenses=old.licenses + modelfile.licenses,
    )


def _again(parameters: tuple[tuple[str, object], ...], at: int) -> bool:
    """Whether the parameter there comes again later: then that one counts."""
    return any(name == parameters[at][0] for name, _ in parameters[at + 1 :])
