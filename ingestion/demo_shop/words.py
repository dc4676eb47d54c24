"""The words that the shop's systems use. The status words are also the rows of dbt's `statuses` seed (README.md)."""

from __future__ import annotations

import pyarrow as pa

from ingestion.demo_shop.text import strings

PENDING, COMPLETED, CANCELLED = "pending", "completed", "cancelled"
STATUSES = {
    PENDING: ("pending", "open", "new", "awaiting payment"),
    COMPLETED: ("completed", "complete", "shipped", "paid", "delivered"),
    CANCELLED: ("cancelled", "canceled", "void"),
}


def spellings(status: str) -> pa.Array:
    """All ways in which systems write a status; the plain word is the most frequent."""
    plain = [status] * 20
    return strings(
        plain
        + [form for word in STATUSES[status] for form in (word, word.title(), word.upper(), f" {word} ", f"{word}  ")]
    )


REASONS = strings(["damaged", "wrong size", "not as described", "late delivery", "changed my mind", "defective", ""])
EVENT_TYPES = strings(["purchase", "add_to_cart", "view", "click"])
BAD_AGES = strings(["null"] * 6 + ['""', '"n/a"', '"unknown"', "0", "-1", "150", '"thirty"', "34.5"])
COUNTRIES = strings(
    ["Germany"] * 10
    + ["Austria"] * 3
    + ["France"] * 3
    + ["Netherlands"] * 2
    + ["Switzerland"] * 2
    + ["Spain", "Italy", "Poland", "Denmark", "United Kingdom"]
)
MAIL_DOMAINS = strings(["example.com", "example.org", "example.net", "mail.example.com", "post.example.org"])

_FIRST = [
    "Anna", "Ben", "Clara", "David", "Emma", "Finn", "Greta", "Hannes", "Ida", "Jonas", "Katharina", "Leon",
    "Mia", "Noah", "Olivia", "Paul", "Quirin", "Rosa", "Simon", "Tilda", "Uwe", "Vera", "Walter", "Xenia",
    "Yusuf", "Zoë", "Jürgen", "Søren", "Łukasz", "Chloé", "Björn", "Amélie", "Marta", "Pablo", "Giulia", "Marco",
    "Jean-Luc", "Aoife",
]  # fmt: skip
_LAST = [
    "Müller", "Schmidt", "Schneider", "Fischer", "Weber", "Meyer", "Wagner", "Becker", "Schulz", "Hoffmann",
    "Koch", "Richter", "Klein", "Wolf", "Schröder", "Neumann", "Schwarz", "Braun", "Krüger", "Hartmann", "Lange",
    "Werner", "Krause", "Lehmann", "Dupont", "Martin", "Bernard", "García", "Rossi", "Kowalski", "Jensen",
    "O'Neill", "van-Dijk", "Janssen", "Novak", "Silva", "Ferrari", "Moreau", "Lefèvre", "Nielsen",
]  # fmt: skip
_PLAIN = str.maketrans("äöüëéèíøłÄÖÜŁØ", "aoueeeiolAOULO")


def _mail(name: str) -> str:
    return name.translate(_PLAIN).lower().replace("'", "")


FIRST_NAMES, LAST_NAMES = strings(_FIRST), strings(_LAST)
FIRST_MAIL, LAST_MAIL = strings([_mail(name) for name in _FIRST]), strings([_mail(name) for name in _LAST])

_CATALOGUE = {
    "Electronics": "Headphones Speaker Keyboard Monitor Charger Webcam",
    "Home & Kitchen": "Kettle Pan Lamp Blanket Knife Toaster",
    "Clothing": "Shirt Jacket Trousers Scarf Socks Pullover",
    "Books": "Novel Atlas Cookbook Biography Thriller Guide",
    "Toys": "Puzzle Train Doll Blocks Kite Marbles",
    "Sports": "Ball Racket Mat Dumbbell Bottle Helmet",
    "Beauty": "Cream Perfume Soap Brush Balm Shampoo",
    "Garden": "Spade Hose Planter Gloves Lantern Seeds",
}
CATEGORIES = strings(list(_CATALOGUE))
NOUNS_PER_CATEGORY = 6
NOUNS = strings([noun for nouns in _CATALOGUE.values() for noun in nouns.split()])
ADJECTIVES = strings(["Classic", "Compact", "Eco", "Large", "Light", "Nordic", "Premium", "Quiet", "Red", "Smart"])
