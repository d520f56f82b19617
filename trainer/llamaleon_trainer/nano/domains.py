"""The domains of nano's texts: projects, orders, appointments, tickets and invoices, in Spanish and English.

A domain is a function that draws the facts of one record; the fact that names the record comes first.
"""

from __future__ import annotations

from collections.abc import Callable

from llamaleon_trainer.nano import reports
from llamaleon_trainer.nano import words as w
from llamaleon_trainer.nano.facts import Fact, Lang, Value, kind

PROJECT_ES = {
    "client": (
        "cliente client empresa customer nombre_cliente client_name para_quien",
        "¿Quién es el cliente?|¿Para quién es?",
    ),
    "status": (
        "estado status situacion state estado_actual fase",
        "¿Cuál es el estado?|¿Cómo está el proyecto?",
    ),
    "budget": (
        "gasto budget presupuesto importe budget_eur gasto_eur spent cost_eur coste",
        "¿Cuánto se ha gastado?|¿Cuál es el gasto?",
    ),
    "milestone": (
        "hito milestone hito_completado terminado done completed key_milestone logro",
        "¿Qué hito se ha completado?|¿Qué se ha terminado?",
    ),
    "next": (
        "siguiente next_step proximo_paso next paso siguiente_paso to_do",
        "¿Cuál es el siguiente paso?|¿Qué toca ahora?",
    ),
}
PROJECT_KEYS = (
    "proyecto", "project", "name", "project_name", "nombre", "nombre_proyecto",
)  # fmt: skip
BLOCKER_KEYS = (
    "bloqueos", "blockers", "tickets", "incidencias", "retrasos", "issues", "bloqueos_hoy",
)  # fmt: skip
ITEM_KEYS = (("ticket", "hours"), ("id", "horas"), ("ticket", "delay"), ("id", "hours"), ("ref", "horas"),
             ("ticket_id", "hours"), ("id", "delay"), ("codigo", "retraso"))  # fmt: skip


def project_es(words: w.Words) -> list[Fact]:
    """A Spanish project report, in the demonstration's phrasings, every field with many names."""
    rng = words.rng
    report = reports.draw(words)
    said = reports.sentences(rng, report)
    values: dict[str, Value] = {
        "client": report.client,
        "status": report.status,
        "budget": report.budget_eur,
        "milestone": report.milestone,
        "next": report.next_step,
    }
    ask = ("¿Cómo se llama el proyecto?", "¿De qué proyecto se trata?")
    facts = [Fact(PROJECT_KEYS, ask, report.project, reports.opening(rng, report))]
    for name, (keys, questions) in PROJECT_ES.items():
        facts.append(Fact(tuple(keys.split()), tuple(questions.split("|")), values[name], said[name]))
    first, second = rng.choice(ITEM_KEYS)
    items: list[dict[str, str | int]] = [{first: ticket, second: hours} for ticket, hours in report.blockers]
    ask = ("¿Qué tickets hay?", "¿Qué bloqueos hay hoy?")
    facts.append(Fact(BLOCKER_KEYS, ask, items, said["blockers"], (first, second)))
    return facts


P_NAME = kind("project name project_name title", "What is the project called?|Which project is it?",
              "Report on project {v}.|Project {v}.|News from {v}.|This is the state of {v}.")  # fmt: skip
P_CLIENT = kind("client customer client_name company", "Who is the client?|Who is it for?",
                "The client is {v}.|Client: {v}.|We work for {v}.|It is for {v}.")  # fmt: skip
P_STATUS = kind("status state current_status", "What is the status?|How is the project?",
                "The project is {v}.|Status: {v}.|It is now {v}.")  # fmt: skip
P_COST = kind("budget cost spent cost_eur budget_eur", "How much has been spent?|What is the cost?",
              "We have spent {v} euros.|Budget used: {v} €.|The cost is {v} euros.")  # fmt: skip
P_DONE = kind("milestone done completed last_milestone", "What has been finished?|Which milestone is done?",
              "We finished the {v}.|Milestone completed: {v}.|The {v} is done.")  # fmt: skip
P_NEXT = kind("next next_step to_do", "What is the next step?|What comes next?",
              "The next step is to {v}.|Next step: {v}.|Tomorrow we will {v}.")  # fmt: skip


BLOCKER_EN = ("Ticket {t} delays us {h} hours.", "{t} blocks us, {h} hours late.")
NO_BLOCKERS_EN = ("No blockers today.", "Nothing blocks us today.")


def project_en(words: w.Words) -> list[Fact]:
    rng = words.rng
    amount = words.amount()
    blockers = [
        (words.identifier(), rng.randint(1, 72)) for _ in range(rng.choices((0, 1, 2, 3), (3, 4, 3, 2))[0])
    ]
    first, second = rng.choice(
        (("ticket", "hours"), ("id", "delay"), ("id", "hours"), ("ticket_id", "hours"))
    )
    items: list[dict[str, str | int]] = [{first: ticket, second: hours} for ticket, hours in blockers]
    said = " ".join(rng.choice(BLOCKER_EN).format(t=t, h=h) for t, h in blockers)
    said = said or rng.choice(NO_BLOCKERS_EN)
    return [
        P_NAME.fact(rng, words.project()),
        P_CLIENT.fact(rng, words.company()),
        P_STATUS.fact(rng, rng.choice(w.STATUSES_EN)),
        P_COST.fact(rng, amount, f"{amount:,}" if rng.random() < 0.6 else str(amount)),
        P_DONE.fact(rng, words.one_of(w.MILESTONES_EN)),
        P_NEXT.fact(rng, words.one_of(w.STEPS_EN)),
        Fact(
            ("blockers", "tickets", "issues", "delays"),
            ("Which tickets are there?",),
            items,
            said,
            (first, second),
        ),
    ]


ORDER_ES = {
    "id": kind(
        "pedido numero order order_id referencia id",
        "¿Cuál es el número de pedido?",
        "Pedido {v}.|Número de pedido: {v}.",
    ),
    "who": kind(
        "cliente nombre comprador customer",
        "¿Quién hace el pedido?",
        "Lo pide {v}.|Cliente: {v}.|A nombre de {v}.",
    ),
    "what": kind(
        "producto articulo product item", "¿Qué producto se pide?", "Quiere {v}.|Producto: {v}.|Se piden {v}."
    ),
    "count": kind(
        "cantidad unidades quantity units", "¿Cuántas unidades se piden?", "Son {v} unidades.|Cantidad: {v}."
    ),
    "sum": kind(
        "importe total precio amount total_eur",
        "¿Cuál es el importe?",
        "El importe es de {v} €.|Total: {v} euros.",
    ),
    "city": kind("ciudad destino city", "¿A qué ciudad va?", "Se envía a {v}.|Destino: {v}."),
}
ORDER_EN = {
    "id": kind(
        "order order_id number reference id", "What is the order number?", "Order {v}.|Order number: {v}."
    ),
    "who": kind(
        "customer name buyer", "Who places the order?", "It is for {v}.|Customer: {v}.|In the name of {v}."
    ),
    "what": kind(
        "product item goods", "Which product is it?", "They want {v}.|Product: {v}.|The goods are {v}."
    ),
    "count": kind("quantity units count", "How many units?", "It is {v} units.|Quantity: {v}."),
    "sum": kind(
        "amount total price total_eur", "What is the total?", "The total is {v} euros.|Amount: {v} €."
    ),
    "city": kind("city destination", "Which city does it go to?", "Ship it to {v}.|Destination: {v}."),
}


def order(words: w.Words, lang: Lang) -> list[Fact]:
    rng, es = words.rng, lang == "es"
    kinds = ORDER_ES if es else ORDER_EN
    amount = words.amount()
    return [
        kinds["id"].fact(rng, words.identifier()),
        kinds["who"].fact(rng, rng.choice((words.person, words.company))()),
        kinds["what"].fact(rng, words.one_of(w.PRODUCTS if es else w.PRODUCTS_EN)),
        kinds["count"].fact(rng, rng.randint(2, 400)),
        kinds["sum"].fact(rng, amount, w.spanish_number(amount) if es else f"{amount:,}"),
        kinds["city"].fact(rng, words.city()),
    ]


VISIT_ES = {
    "who": kind(
        "paciente nombre persona name",
        "¿De quién es la cita?",
        "Cita de {v}.|La cita es para {v}.|Nombre: {v}.",
    ),
    "day": kind("fecha dia day date", "¿Qué día es la cita?", "Es el {v}.|Fecha: {v}.|Será el {v}."),
    "hour": kind("hora time", "¿A qué hora es?", "A las {v}.|Hora: {v}.|Empieza a las {v}."),
    "where": kind("lugar sitio place", "¿Dónde es la cita?", "Es en {v}.|Lugar: {v}."),
    "why": kind("motivo asunto reason", "¿Cuál es el motivo?", "Motivo: {v}.|El motivo es {v}."),
    "phone": kind(
        "telefono contacto phone", "¿Cuál es el teléfono?", "Teléfono: {v}.|Su teléfono es el {v}."
    ),
}
VISIT_EN = {
    "who": kind("patient name person", "Whose appointment is it?", "Appointment for {v}.|Name: {v}."),
    "day": kind("date day", "Which day is it?", "It is on {v}.|Date: {v}."),
    "hour": kind("time hour", "What time is it?", "At {v}.|Time: {v}.|It starts at {v}."),
    "where": kind("place where", "Where is it?", "It is at {v}.|Place: {v}."),
    "why": kind("reason subject", "What is the reason?", "Reason: {v}.|The reason is {v}."),
    "phone": kind("phone contact", "What is the phone number?", "Phone: {v}.|The phone number is {v}."),
}


def appointment(words: w.Words, lang: Lang) -> list[Fact]:
    rng, es = words.rng, lang == "es"
    kinds = VISIT_ES if es else VISIT_EN
    day = rng.randint(1, 28)
    month = rng.choice(w.MONTHS if es else w.MONTHS_EN)
    dates = (f"{day} de {month}" if es else f"{month} {day}", rng.choice(w.DAYS if es else w.DAYS_EN))
    return [
        kinds["who"].fact(rng, words.person()),
        kinds["day"].fact(rng, rng.choice(dates)),
        kinds["hour"].fact(rng, f"{rng.randint(8, 19)}:{rng.choice(('00', '15', '30', '45'))}"),
        kinds["where"].fact(rng, words.company()),
        kinds["why"].fact(rng, words.one_of(w.REASONS if es else w.REASONS_EN)),
        kinds["phone"].fact(rng, str(rng.randint(600000000, 999999999))),
    ]


TICKET_ES = {
    "id": kind(
        "ticket incidencia id referencia codigo",
        "¿Cuál es el ticket?",
        "Ticket {v}.|Incidencia {v}.|Referencia: {v}.",
    ),
    "who": kind("usuario nombre persona user", "¿Quién avisa?", "Avisa {v}.|Usuario: {v}.|Lo comunica {v}."),
    "what": kind("sistema afectado system", "¿Qué falla?", "Falla {v}.|Sistema: {v}.|No funciona {v}."),
    "level": kind(
        "prioridad nivel priority", "¿Cuál es la prioridad?", "Prioridad {v}.|La prioridad es {v}."
    ),
    "hours": kind("horas retraso hours", "¿Cuántas horas lleva?", "Lleva {v} horas.|Retraso: {v} horas."),
    "team": kind("equipo asignado team", "¿A quién se asigna?", "Se asigna a {v}.|Equipo: {v}."),
}
TICKET_EN = {
    "id": kind(
        "ticket id reference code", "Which ticket is it?", "Ticket {v}.|Incident {v}.|Reference: {v}."
    ),
    "who": kind("user name reporter", "Who reports it?", "{v} reports it.|User: {v}.|Reported by {v}."),
    "what": kind("system affected", "What is broken?", "Broken: {v}.|System: {v}.|The problem is {v}."),
    "level": kind("priority level", "What is the priority?", "Priority {v}.|The priority is {v}."),
    "hours": kind("hours delay", "How many hours so far?", "It has taken {v} hours.|Delay: {v} hours."),
    "team": kind("team assigned", "Who is it assigned to?", "Assigned to {v}.|Team: {v}."),
}


def ticket(words: w.Words, lang: Lang) -> list[Fact]:
    rng, es = words.rng, lang == "es"
    kinds = TICKET_ES if es else TICKET_EN
    return [
        kinds["id"].fact(rng, words.identifier()),
        kinds["who"].fact(rng, words.person()),
        kinds["what"].fact(rng, words.one_of(w.SYSTEMS if es else w.SYSTEMS_EN)),
        kinds["level"].fact(rng, words.one_of(w.PRIORITIES if es else w.PRIORITIES_EN)),
        kinds["hours"].fact(rng, rng.randint(2, 96)),
        kinds["team"].fact(rng, words.stem()),
    ]


BILL_ES = {
    "id": kind(
        "factura numero invoice id", "¿Cuál es el número de factura?", "Factura {v}.|Número de factura: {v}."
    ),
    "who": kind(
        "empresa emisor company proveedor",
        "¿Qué empresa la emite?",
        "La emite {v}.|Empresa: {v}.|Proveedor: {v}.",
    ),
    "sum": kind(
        "importe total amount total_eur",
        "¿Cuál es el importe?",
        "Importe: {v} €.|Suma {v} euros.|El total es de {v} €.",
    ),
    "due": kind("vencimiento fecha due", "¿Cuándo vence?", "Vence el {v}.|Vencimiento: {v}."),
}
BILL_EN = {
    "id": kind("invoice number id", "What is the invoice number?", "Invoice {v}.|Invoice number: {v}."),
    "who": kind(
        "company supplier issuer", "Which company sends it?", "It is from {v}.|Company: {v}.|Supplier: {v}."
    ),
    "sum": kind("amount total total_eur", "What is the amount?", "Amount: {v} €.|The total is {v} euros."),
    "due": kind("due due_date date", "When is it due?", "It is due on {v}.|Due: {v}."),
}


def invoice(words: w.Words, lang: Lang) -> list[Fact]:
    """Besides its fields, the lines of the bill: a list of objects, up to three, in one enumeration."""
    rng, es = words.rng, lang == "es"
    kinds = BILL_ES if es else BILL_EN
    amount = words.amount()
    day, month = rng.randint(1, 28), rng.choice(w.MONTHS if es else w.MONTHS_EN)
    goods = rng.sample(w.PRODUCTS if es else w.PRODUCTS_EN, rng.choices((0, 1, 2, 3), (2, 3, 3, 2))[0])
    lines = [(rng.randint(2, 99), item) for item in goods]
    names = rng.choice(
        (("producto", "cantidad"), ("item", "units")) if es else (("item", "units"), ("product", "quantity"))
    )
    said = [f"{count} {item}" for count, item in lines]
    if not said:
        text = "Sin productos." if es else "No items."
    elif es:
        text = f"Incluye {reports.joined(said)}."
    else:
        text = f"It includes {reports.joined(said).replace(' y ', ' and ')}."
    items: list[dict[str, str | int]] = [{names[0]: item, names[1]: count} for count, item in lines]
    return [
        kinds["id"].fact(rng, words.identifier()),
        kinds["who"].fact(rng, words.company()),
        kinds["sum"].fact(rng, amount, w.spanish_number(amount) if es else f"{amount:,}"),
        kinds["due"].fact(rng, f"{day} de {month}" if es else f"{month} {day}"),
        Fact(("productos", "lineas", "articulos") if es else ("items", "lines", "products"),
             ("¿Qué productos incluye?",) if es else ("Which items does it include?",), items, text, names),
    ]  # fmt: skip


DOMAINS: tuple[Callable[[w.Words, Lang], list[Fact]], ...] = (order, appointment, ticket, invoice)


def draw(words: w.Words, lang: Lang, project_share: float = 0.4) -> list[Fact]:
    """The facts of one record, the one that names it first."""
    if words.rng.random() < project_share:
        return project_es(words) if lang == "es" else project_en(words)
    return words.rng.choice(DOMAINS)(words, lang)
