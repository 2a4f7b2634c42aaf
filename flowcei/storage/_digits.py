"""The compiled part of `flowcei.storage.cells`: rows of cells as text, numbers as printf's %g has them."""

from __future__ import annotations

import math

import numpy as np

from flowcei.storage._compilation import compiled, kernel

WORD, WHOLE = 30_000, 30_001  # in place of a power of ten: the number of a word, a whole number
_TEN = np.uint64(10)


@kernel
def decimals(numbers, logarithm, digits, powers, value, power) -> None:
    """Write the first `digits` of numbers (R,) as whole numbers (R,), and the power of ten of the first (R,).

    `logarithm` (R,) is to base 10, to a few roundings, `powers` (23,) of ten are exact. Where rounding could
    go either way, or a number is not finite, or its power is too large, it is left to others: its power is
    `WORD`.
    """
    limit = powers[digits]
    for k in range(len(numbers)):
        x = abs(numbers[k])
        power[k] = WORD
        if x == 0.0:
            if math.copysign(1.0, numbers[k]) > 0.0:
                value[k], power[k] = 0, 0
            continue
        if not 1e-30 < x < 1e30:
            continue
        first = math.floor(logarithm[k])
        shift = digits - 1 - first
        if shift < -22:
            x /= powers[22]
            shift += 22
        elif shift > 22:
            x *= powers[22]
            shift -= 22
        scaled = x * powers[shift] if shift >= 0 else x / powers[-shift]
        rest = scaled - math.floor(scaled)
        if abs(rest - 0.5) > scaled * 4.5e-16:  # two operations, each exact to 2^-53
            rounded = math.floor(scaled + 0.5)
            if rounded >= limit:
                rounded, first = limit / 10.0, first + 1
            value[k] = np.int64(rounded if numbers[k] > 0.0 else -rounded)
            power[k] = first


@compiled
def _put(number, width, after, out, at) -> int:
    """Write a whole number with so many digits, a point before the last `after`, if any; return the end."""
    end = at + width + (after > 0)
    k = end - 1
    for digit in range(width):
        if digit == after and after > 0:
            out[k] = 46
            k -= 1
        rest = number // _TEN
        out[k] = np.uint8(number - rest * _TEN) + 48
        number = rest
        k -= 1
    return end


@compiled
def _decimal(number, first, digits, out, at) -> int:
    """Write a number of some digits, of which the first stands for this power of ten."""
    count = digits
    while count > 1 and number % _TEN == 0:
        number //= _TEN
        count -= 1
    if first < -4 or first >= digits:
        at = _put(number, count, count - 1, out, at)
        out[at], out[at + 1] = 101, 45 if first < 0 else 43
        return _put(np.uint64(abs(first)), 2, 0, out, at + 2)
    while count < first + 1:
        number *= _TEN
        count += 1
    return _put(number, max(count, count - first), count - 1 - first, out, at)


@kernel
def join_cells(value, power, digits, words, ends, out) -> int:
    """Write rows of cells (R, C), with commas and line breaks, to `out`; return the length of the text.

    `words` is the text of all words, each from the end of the one before to its own.
    """
    at = 0
    for row in range(value.shape[0]):
        for column in range(value.shape[1]):
            number, first = value[row, column], power[row, column]
            if first == WORD:
                for k in range(ends[number - 1] if number > 0 else 0, ends[number]):
                    out[at] = words[k]
                    at += 1
            else:
                if number < 0:
                    out[at] = 45
                    at += 1
                size = np.uint64(abs(number))
                if first == WHOLE:
                    width, rest = 1, size // _TEN
                    while rest > 0:
                        width, rest = width + 1, rest // _TEN
                    at = _put(size, width, 0, out, at)
                else:
                    at = _decimal(size, first, digits, out, at)
            out[at] = 44
            at += 1
        out[at - 1] = 10
    return at
