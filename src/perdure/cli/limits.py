"""Limits as they are typed: times, counts and sizes, or none."""

from __future__ import annotations

import argparse
import re

NONE = "none"
TIMES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
SIZES = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def read_time(text: str) -> float | str:
    """Read for how long something is kept, such as 30d; in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text, re.ASCII)
    if text == NONE or (found and float(found[1]) > 0):
        return NONE if found is None else float(found[1]) * TIMES[found[2]]
    raise argparse.ArgumentTypeError(f"{text!r} is no time: give a number with s, m, h, d or w, such as 30d, or {NONE}")


def read_count(text: str) -> int | str:
    """Read how many there may be."""
    if text == NONE or (text.isascii() and text.isdecimal()):
        return NONE if text == NONE else int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no limit: give a whole number from 0, or {NONE}")


def read_size(text: str) -> int | str:
    """Read how many bytes there may be, such as 500MB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]b)?", text.lower(), re.ASCII)
    if text == NONE or found:
        return NONE if found is None else int(float(found[1]) * SIZES[found[2] or ""])
    raise argparse.ArgumentTypeError(f"{text!r} is no size: give bytes, or a number with kB, MB, GB or TB, or {NONE}")
