"""UUIDs of what the queue numbers: derived from the queue's own 64 random bits, never stored.

Version 8 (RFC 9562): the number in the low bits and the kind in the high ones, everything encrypted by a keyed
permutation of the queue, so that they are as scattered as random ones and their number can be read back.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

_ROUNDS = 4
_HALF_BITS = 61  # 122 free bits of a version 8 UUID
_HALF = (1 << _HALF_BITS) - 1
_NUMBER_BITS = 63


class Kind(IntEnum):
    SUITE = 1
    TASK = 2
    BLOB = 3


def uuid_of(queue_id: int, kind: Kind, number: int) -> str:
    """The UUID of a numbered thing as text; `number` from 1 to 2**63 - 1."""
    if not 0 < number < 1 << _NUMBER_BITS:
        raise ValueError(f"{number} is the number of nothing")
    value = kind << _NUMBER_BITS | number
    left, right = value >> _HALF_BITS, value & _HALF
    for step in range(_ROUNDS):
        left, right = right, left ^ _mixed(queue_id, step, right)
    bits = left << _HALF_BITS | right
    whole = (bits >> 74) << 80 | 8 << 76 | (bits >> 62 & 0xFFF) << 64 | 2 << 62 | bits & (1 << 62) - 1
    text = f"{whole:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def number_of(queue_id: int, kind: Kind, uuid: str) -> int | None:
    """The number in a UUID; None when it is not of this kind and queue."""
    text = uuid.replace("-", "")
    if len(text) != 32 or not all(digit in "0123456789abcdefABCDEF" for digit in text):
        return None
    whole = int(text, 16)
    if whole >> 76 & 0xF != 8 or whole >> 62 & 3 != 2:
        return None
    bits = (whole >> 80) << 74 | (whole >> 64 & 0xFFF) << 62 | whole & (1 << 62) - 1
    left, right = bits >> _HALF_BITS, bits & _HALF
    for step in reversed(range(_ROUNDS)):
        left, right = right ^ _mixed(queue_id, step, left), left
    value = left << _HALF_BITS | right
    number = value & (1 << _NUMBER_BITS) - 1
    return number if value >> _NUMBER_BITS == kind and number else None


def _mixed(queue_id: int, step: int, half: int) -> int:
    data = half.to_bytes(8, "big")
    digest = hashlib.blake2b(data, digest_size=8, key=queue_id.to_bytes(8, "big"), salt=bytes([step]))
    return int.from_bytes(digest.digest(), "big") & _HALF
