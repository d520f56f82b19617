"""The conversation, `run` and `chat`, the log."""

from __future__ import annotations

SENTENCES: dict[str, str] = {
    "(stopped)": "(detenido)",
    "/set format json, or /set format off": "/set format json, o /set format off",
    "/set think on, or /set think off": "/set think on, o /set think off",
    "--json answers one question: give it as TEXT, or pipe it in.": (
        "--json contesta una sola pregunta: dela como TEXTO, o por una tubería."
    ),
    "There is nothing to ask: standard input is empty.": (
        "No hay nada que preguntar: la entrada estándar está vacía."
    ),
    "The text on standard input is not UTF-8 (byte {at}).": (
        "El texto de la entrada estándar no es UTF-8 (byte {at})."
    ),
    "{path} does not exist: no server was started in the background there.": (
        "{path} no existe: ahí no se ha arrancado ningún servidor en segundo plano."
    ),
    "Answers are a JSON object.": "Las respuestas son un objeto JSON.",
    "Answers are free again.": "Las respuestas vuelven a ser libres.",
    "Error": "Error",
    "Going on with {model}.": "Seguimos con {model}.",
    "No system message.": "Sin mensaje de sistema.",
    "System message set.": "Mensaje de sistema puesto.",
    "The conversation is forgotten.": "Conversación olvidada.",
    "There is no setting {name}. Settings: {known}.": "No existe el ajuste {name}. Ajustes: {known}.",
    "There is no {name}. Commands: {commands}.": "No existe {name}. Órdenes: {commands}.",
    "Thinking is off.": "Sin razonamiento.",
    "Thinking is on.": "Con razonamiento.",
    "Which adapter? /adapter NAME, /adapter A*0.7+B*0.3, or /adapter none": (
        "¿Qué adaptador? /adapter NOMBRE, /adapter A*0.7+B*0.3, o /adapter none"
    ),
    "Which model? /model NAME": "¿Qué modelo? /model NOMBRE",
    "{base} has no adapters.": "{base} no tiene adaptadores.",
    "{model}: /help lists the commands, Ctrl-C stops an answer.": (
        "{model}: /help enumera las órdenes, Ctrl-C detiene una respuesta."
    ),
    "{name} is as the model has it.": "{name} queda como lo trae el modelo.",
    "{name} is {value}.": "{name} es {value}.",
    (
        "/adapter NAME[*W][+...]  go on under other adapters; none: the base alone\n"
        "/model NAME              go on with another model\n"
        "/set system TEXT         the system message; without TEXT: none\n"
        "/set NAME VALUE          temperature, top_p, seed, max_tokens, stop, effort, ...\n"
        "/set think on|off        whether a model that can think does\n"
        "/set format json|off     answers that are a JSON object\n"
        "/show                    model and settings; /show adapters: what else there is\n"
        "/clear                   forget the conversation\n"
        "/bye                     leave; so does Ctrl-D. Ctrl-C stops an answer\n"
        '"""                      begins and ends a text of several lines'
    ): (
        "/adapter NOMBRE[*P][+...]  seguir con otros adaptadores; none: solo la base\n"
        "/model NOMBRE              seguir con otro modelo\n"
        "/set system TEXTO          el mensaje de sistema; sin TEXTO: ninguno\n"
        "/set NOMBRE VALOR          temperature, top_p, seed, max_tokens, stop, ...\n"
        "/set think on|off          si razona un modelo que sabe razonar\n"
        "/set format json|off       respuestas que son un objeto JSON\n"
        "/show                      modelo y ajustes; /show adapters: qué más hay\n"
        "/clear                     olvidar la conversación\n"
        "/bye                       salir; también Ctrl-D. Ctrl-C detiene una respuesta\n"
        '"""                        abre y cierra un texto de varias líneas'
    ),
}
