"""A description in Spanish -> a small Python function that does it."""

from __future__ import annotations

from llamaleon_trainer.nano.words import Words

# A description and its function: {f} is its name, {a} and {b} are its parameters, {n} is a number.
FUNCTIONS: tuple[tuple[str, str], ...] = (
    ("devuelve la suma de {a} y {b}", "def {f}({a}, {b}):\n    return {a} + {b}"),
    ("devuelve la diferencia entre {a} y {b}", "def {f}({a}, {b}):\n    return {a} - {b}"),
    ("devuelve el producto de {a} y {b}", "def {f}({a}, {b}):\n    return {a} * {b}"),
    ("devuelve {a} multiplicado por {n}", "def {f}({a}):\n    return {a} * {n}"),
    ("suma {n} a {a}", "def {f}({a}):\n    return {a} + {n}"),
    ("dice si {a} es mayor que {b}", "def {f}({a}, {b}):\n    return {a} > {b}"),
    ("dice si {a} es menor que {n}", "def {f}({a}):\n    return {a} < {n}"),
    ("dice si {a} es par", "def {f}({a}):\n    return {a} % 2 == 0"),
    ("dice si {a} es divisible entre {n}", "def {f}({a}):\n    return {a} % {n} == 0"),
    ("devuelve el mayor de {a} y {b}", "def {f}({a}, {b}):\n    return max({a}, {b})"),
    ("devuelve el menor de {a} y {b}", "def {f}({a}, {b}):\n    return min({a}, {b})"),
    ("devuelve la longitud de {a}", "def {f}({a}):\n    return len({a})"),
    ("devuelve los {n} primeros elementos de {a}", "def {f}({a}):\n    return {a}[:{n}]"),
    ("devuelve los {n} últimos elementos de {a}", "def {f}({a}):\n    return {a}[-{n}:]"),
    ("devuelve {a} al revés", "def {f}({a}):\n    return {a}[::-1]"),
    ("devuelve {a} en mayúsculas", "def {f}({a}):\n    return {a}.upper()"),
    ("devuelve {a} sin espacios alrededor", "def {f}({a}):\n    return {a}.strip()"),
    ("une {a} y {b} con un guion", 'def {f}({a}, {b}):\n    return f"{{{a}}}-{{{b}}}"'),
    (
        "devuelve los elementos de {a} mayores que {n}",
        "def {f}({a}):\n    return [x for x in {a} if x > {n}]",
    ),
    ("suma los elementos de {a}", "def {f}({a}):\n    return sum({a})"),
    ("cuenta cuántas veces está {b} en {a}", "def {f}({a}, {b}):\n    return {a}.count({b})"),
    ("devuelve {a} ordenada de mayor a menor", "def {f}({a}):\n    return sorted({a}, reverse=True)"),
)
ASK = (
    "Escribe una función {f} que {what}.",
    "Función {f}: {what}.",
    "Necesito una función llamada {f} que {what}.",
    "¿Me haces una función {f} que {what}?",
    "Define {f}, que {what}.",
)


def draw(words: Words) -> tuple[str, str]:
    rng = words.rng
    what, body = rng.choice(FUNCTIONS)
    first = words.stem().lower()
    second = words.stem().lower()
    while second == first:
        second = words.stem().lower()
    name = f"{rng.choice(('calcula', 'obtener', 'haz', 'f', 'ver'))}_{words.stem().lower()}"
    names = {"f": name, "a": first, "b": second, "n": str(rng.randint(2, 99))}
    asked = rng.choice(ASK).format(f=name, what=what.format(**names))
    return asked, body.format(**names)
