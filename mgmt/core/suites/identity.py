"""UUIDs of what the queue numbers: derived from the queue's own 64 random bits, never stored.

Version 8 (RFC 9562): the number in the low bits and the kind in the high ones, everything through a permutation
that the queue id keys, so that they are as scattered as random ones and their number can be read back. They are
names, not secrets: what may be done with a task is asked of its group.
"""

from __future__ import annotations

import hashlib
import struct
from enum import IntEnum
from functools import lru_cache

_ROUNDS = 4
_HALF_BITS = 61  # 122 free bits of a version 8 UUID
_HALF = (1 << _HALF_BITS) - 1
_WORD = (1 << 64) - 1
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
    for key in _keys(queue_id):
        left, right = right, left ^ _mixed(key, right)
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
    for key in reversed(_keys(queue_id)):
        left, right = right ^ _mixed(key, left), left
    value = left << _HALF_BITS | right
    number = value & (1 << _NUMBER_BITS) - 1
    return number if value >> _NUMBER_BITS == kind and number else None


@lru_cache(maxsize=16)
def _keys(queue_id: int) -> tuple[int, ...]:
    """One of 64 bits for each round."""
    digest = hashlib.blake2b(queue_id.to_bytes(8, "big"), digest_size=8 * _ROUNDS).digest()
    return struct.unpack(f">{_ROUNDS}Q", digest)


def _mixed(key: int, half: int) -> int:
    """Every bit of the half depends on every one of both: a multiplicative hash, as cheap as Python has one."""
    mixed = (half ^ key) * 0x9E3779B97F4A7C15 & _WORD
    mixed = (mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93 & _WORD
    return (mixed ^ mixed >> 32) & _HALF
