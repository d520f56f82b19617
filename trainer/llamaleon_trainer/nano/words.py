"""Inventories that nano's text is made of, and the split that keeps held-out names unseen.

Invented names join a head and a tail, so that they tokenise into two to four pieces that training has seen
while the name itself has not been. `is_heldout` decides by a checksum of the name which ones only the
held-out rows may use: neither nano's own text nor an adapter's training rows ever contain them.
"""

from __future__ import annotations

import random
import zlib
from typing import Literal

Split = Literal["train", "heldout"]

HEADS = (
    "Alba", "Aren", "Bel", "Bor", "Bruma", "Cal", "Canta", "Cor", "Dalma", "Del", "Dor", "Elan", "Esta",
    "Fara", "Fer", "Flor", "Gal", "Gran", "Hel", "Ibra", "Jara", "Kan", "Lar", "Lumi", "Mar", "Mela",
    "Mont", "Nava", "Nor", "Olme", "Or", "Pal", "Pina", "Quin", "Ral", "Ribe", "Rosa", "Sal", "Sera", "Sil",
    "Sol", "Tala", "Tor", "Ulma", "Val", "Vela", "Ver", "Xana", "Yel", "Zar",
)  # fmt: skip
TAILS = (
    "badia", "bel", "blanca", "cero", "dal", "deza", "dina", "dor", "fina", "gara", "gia", "gosa", "lan",
    "lara", "lia", "lonia", "mar", "mena", "mira", "mora", "nada", "nera", "nia", "nova", "pal", "queta",
    "rana", "rela", "rena", "rica", "rino", "ris", "rosa", "sana", "sela", "sol", "tal", "tana", "tec",
    "tera", "tia", "tona", "tora", "van", "vega", "vera", "vina", "vista", "zal", "zona",
)  # fmt: skip
FIRST_NAMES = (
    "Ana", "Luis", "Marta", "Pedro", "Elena", "Jorge", "Carmen", "Diego", "Laura", "Pablo", "Irene",
    "Sergio", "Nuria", "Hugo", "Clara", "Mario", "Julia", "Iván", "Alicia", "Rubén", "Sara", "Óscar", "Eva",
    "Bruno", "Anna", "Tom", "Emma", "Jack", "Olivia", "Paul", "Grace", "Peter", "Alice", "Mark", "Ruth",
)  # fmt: skip
COMPANY_FORMS = (
    "{n}", "{n}", "{n}", "{n} SL", "Grupo {n}", "Talleres {n}", "{n} Logística", "Hotel {n}", "Clínica {n}",
    "{n} Energía", "Bodegas {n}", "Editorial {n}", "{n} Seguros", "Café {n}",
)  # fmt: skip
PROJECT_FORMS = (
    "{n}", "{n}", "{n}", "Portal {n}", "Plan {n}", "{n} Móvil", "Red {n}", "Campus {n}", "{n} Web",
)  # fmt: skip
ID_PREFIXES = (
    "INC", "TIC", "OPS", "INF", "BUG", "REQ", "NET", "SEG", "WEB", "DAT", "APP", "SYS", "FAC", "PED", "LOG",
    "CRM", "ERP", "API", "DEV", "MAN", "REF", "COD", "LAB", "QA",
)  # fmt: skip
CITIES = (
    "Madrid", "Sevilla", "Bilbao", "Valencia", "Lugo", "Cádiz", "Toledo", "Murcia", "León", "Vigo",
    "Málaga", "Burgos", "Oviedo", "Soria", "London", "Paris", "Dublin", "Berlin", "Oslo", "Roma",
)  # fmt: skip
STATUSES = (
    "en curso", "retrasado", "en pausa", "completado", "en riesgo", "adelantado", "bloqueado",
    "en revisión",
)  # fmt: skip
STATUSES_EN = ("on track", "delayed", "on hold", "completed", "at risk", "ahead", "blocked", "in review")

# (article, noun) and what it is of: "la" + "migración" + "de datos".
MILESTONE_NOUNS = (
    ("la", "migración"), ("el", "diseño"), ("la", "instalación"), ("el", "análisis"), ("la", "revisión"),
    ("el", "despliegue"), ("la", "integración"), ("el", "prototipo"), ("la", "auditoría"),
    ("el", "inventario"), ("la", "validación"), ("el", "montaje"), ("la", "prueba"), ("el", "informe"),
    ("la", "configuración"), ("el", "estudio"), ("la", "primera fase"), ("el", "piloto"),
    ("la", "formación"), ("el", "plan"),
)  # fmt: skip
MILESTONE_OBJECTS = (
    "de datos", "de la web", "del almacén", "de los servidores", "de la tienda", "del catálogo",
    "de la red", "de usuarios", "de pagos", "del sistema", "de la aplicación", "de seguridad",
    "de la base de datos", "de facturas", "del panel", "de riesgos", "de las oficinas", "de calidad",
    "del archivo", "de costes", "de la fábrica", "de los sensores", "del correo", "de ventas",
)  # fmt: skip
VERBS = (
    "revisar", "enviar", "preparar", "firmar", "presentar", "actualizar", "probar", "validar", "cerrar",
    "comprar", "instalar", "documentar", "corregir", "publicar", "aprobar", "negociar", "entregar",
    "comprobar",
)  # fmt: skip
OBJECTS = (
    "el contrato", "la oferta", "el presupuesto", "las licencias", "el manual", "la factura",
    "los permisos", "el calendario", "la copia de seguridad", "el servidor", "los equipos", "la demo",
    "el acta", "las pruebas", "el pedido", "la versión final", "los datos", "el acuerdo",
    "la lista de precios", "los cambios",
)  # fmt: skip
OBJECT_TAILS = (
    "", "", "", " con el cliente", " con el proveedor", " del equipo", " de compras", " con la dirección",
    " antes del viernes", " del taller", " con el banco",
)  # fmt: skip
PRODUCTS = (
    "sillas", "mesas", "lámparas", "cables", "monitores", "teclados", "libros", "tornillos", "baterías",
    "cajas", "cámaras", "relojes", "mochilas", "tazas", "filtros", "sensores", "routers", "guantes",
)  # fmt: skip
PRODUCTS_EN = (
    "chairs", "tables", "lamps", "cables", "monitors", "keyboards", "books", "screws", "batteries", "boxes",
    "cameras", "watches", "bags", "mugs", "filters", "sensors", "routers", "gloves",
)  # fmt: skip
DAYS = ("lunes", "martes", "miércoles", "jueves", "viernes", "sábado", "domingo")
DAYS_EN = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "enero", "febrero", "marzo", "abril", "mayo", "junio", "julio", "agosto", "septiembre", "octubre",
    "noviembre", "diciembre",
)  # fmt: skip
MONTHS_EN = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip
PRIORITIES = ("alta", "media", "baja", "urgente")
PRIORITIES_EN = ("high", "medium", "low", "urgent")
SYSTEMS = (
    "el correo", "la impresora", "la wifi", "el portal", "la base de datos", "el teléfono", "la web",
    "el servidor",
)  # fmt: skip
SYSTEMS_EN = (
    "the mail", "the printer", "the network", "the portal", "the database", "the phone", "the website",
)  # fmt: skip
REASONS = ("revisión", "consulta", "entrevista", "vacuna", "análisis", "firma", "limpieza", "reunión")
REASONS_EN = ("checkup", "interview", "vaccine", "meeting", "cleaning", "review", "signing")

MILESTONES_EN = (
    "data migration", "web design", "network setup", "payment tests", "user training", "security audit",
    "server upgrade", "cost report", "mobile prototype", "first release", "warehouse survey",
)  # fmt: skip
STEPS_EN = (
    "review the contract", "send the offer", "sign the agreement", "update the manual", "test the server",
    "order the licenses", "prepare the demo", "close the invoice", "publish the changes",
    "approve the budget", "check the backup", "train the users",
)  # fmt: skip

ARTICLES = ("el", "la", "los", "las")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_ONSETS = (*"bcdfgjlmnprstvz", "ch", "ll", "br", "tr", "pl", "gu", "qu", "")
_NUCLEI = (*"aeiouaeiouáéíóú", "an", "es", "or", "io")
_SYLLABLES = tuple(onset + nucleus for onset in _ONSETS for nucleus in _NUCLEI)
_CODAS = ("", "", "", "", "n", "s", "r", "l", "z")
_HELDOUT_ONE_IN = 8


def is_heldout(text: str) -> bool:
    """Whether a name, an identifier or a phrase belongs to the held-out rows alone."""
    return zlib.crc32(text.encode()) % _HELDOUT_ONE_IN == 0


class Words:
    """Draws names and phrases of one split from one random source.

    A share of them, `odd_share`, follows no inventory: nano itself needs such names to copy anybody's.
    """

    def __init__(self, rng: random.Random, split: Split = "train", odd_share: float = 0.0) -> None:
        self.rng = rng
        self.split = split
        self._heldout = split == "heldout"
        self._odd_share = odd_share

    def _odd(self) -> bool:
        return self._odd_share > 0 and self.rng.random() < self._odd_share

    def odd_word(self) -> str:
        """A word of no language, in small letters."""
        if self.rng.random() < 0.8:
            return "".join(self.rng.choices(_SYLLABLES, k=self.rng.randint(2, 4))) + self.rng.choice(_CODAS)
        return "".join(self.rng.choices(_LETTERS, k=self.rng.randint(2, 7)))

    def odd_name(self) -> str:
        """One or two odd words with capitals, or an acronym."""
        while True:
            draw = self.rng.random()
            if draw < 0.7:
                name = self.odd_word().capitalize()
            elif draw < 0.85:
                name = f"{self.odd_word().capitalize()} {self.odd_word().capitalize()}"
            else:
                name = "".join(self.rng.choices(_LETTERS, k=self.rng.randint(2, 5))).upper()
            if self.allowed(name):
                return name

    def allowed(self, text: str) -> bool:
        """Whether it belongs to this split."""
        return is_heldout(text) == self._heldout

    def stem(self) -> str:
        """An invented name such as `Marbadia`."""
        if self._odd():
            return self.odd_name()
        while True:
            name = self.rng.choice(HEADS) + self.rng.choice(TAILS)
            if self.allowed(name):
                return name

    def company(self) -> str:
        """A firm, often with what it does."""
        return self.rng.choice(COMPANY_FORMS).format(n=self.stem())

    def project(self) -> str:
        return self.rng.choice(PROJECT_FORMS).format(n=self.stem())

    def person(self) -> str:
        return f"{self.rng.choice(FIRST_NAMES)} {self.stem()}"

    def identifier(self) -> str:
        """A reference such as `INC-482`."""
        while True:
            prefix = self.rng.choice(ID_PREFIXES)
            if self._odd():
                prefix = "".join(self.rng.choices(_LETTERS, k=self.rng.randint(1, 4))).upper()
            text = f"{prefix}-{self.rng.randint(10, 9999)}"
            if self.allowed(text):
                return text

    def milestone(self) -> tuple[str, str]:
        """The article, and the phrase without it."""
        while True:
            article, noun = self.rng.choice(MILESTONE_NOUNS)
            phrase = f"{noun} {self.rng.choice(MILESTONE_OBJECTS)}"
            if self._odd():
                phrase = f"{noun} de {self.odd_word()}"
            if self.allowed(phrase):
                return article, phrase

    def next_step(self) -> str:
        while True:
            phrase = f"{self.rng.choice(VERBS)} {self.rng.choice(OBJECTS)}{self.rng.choice(OBJECT_TAILS)}"
            if self._odd():
                phrase = f"{self.rng.choice(VERBS)} {self.rng.choice(ARTICLES)} {self.odd_word()}"
            if self.allowed(phrase):
                return phrase

    def one_of(self, inventory: tuple[str, ...]) -> str:
        """A word of the inventory, or an odd one."""
        return self.odd_word() if self._odd() else self.rng.choice(inventory)

    def city(self) -> str:
        return self.odd_name() if self._odd() else self.rng.choice(CITIES)

    def amount(self) -> int:
        """A sum in euros: one to six digits, round more often than not."""
        ranges = ((5, 999), (1000, 9999), (1000, 99999), (10000, 99999), (100000, 999999))
        value = self.rng.choice([self.rng.randint(low, high) for low, high in ranges])
        return value // 10 * 10 if self.rng.random() < 0.5 and value > 99 else value


def spanish_number(value: int) -> str:
    """Thousands with a dot.

    >>> spanish_number(12450)
    '12.450'
    """
    return f"{value:,}".replace(",", ".")
