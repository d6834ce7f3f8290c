"""Kraken's ids, made of the engine's numbers and read back: orders OXXXXX-XXXXX-XXXXXX, trades T…, ledgers L…."""

from __future__ import annotations

from typing import Literal

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
LENGTH = 16  # without the kind and the dashes: 5, 5 and 6
BITS = 5 * LENGTH
# Multiplication by an odd number mod 2^80 mixes the digits, so that neighbours look as little alike as the venue's.
SCRAMBLE = 0x9E3779B97F4A7C15F39D
UNSCRAMBLE = pow(SCRAMBLE, -1, 1 << BITS)

Kind = Literal["O", "T", "L", "Q"]  # Q: what a deposit or a withdrawal refers to


def kraken_id(kind: Kind, number: int) -> str:
    mixed = number * SCRAMBLE % (1 << BITS)
    digits = "".join(ALPHABET[mixed >> shift & 31] for shift in range(BITS - 5, -1, -5))
    return f"{kind}{digits[:5]}-{digits[5:10]}-{digits[10:]}"


def number_of(kind: Kind, text: str) -> int | None:
    """None: this is no such id; the number it stands for may be unknown nevertheless."""
    digits = text[1:].replace("-", "")
    if text[:1] != kind or len(digits) != LENGTH or not set(digits) <= set(ALPHABET):
        return None
    mixed = 0
    for digit in digits:
        mixed = mixed << 5 | ALPHABET.index(digit)
    return mixed * UNSCRAMBLE % (1 << BITS)
