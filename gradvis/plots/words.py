"""Numbers and names as people read them."""

from __future__ import annotations

from math import isfinite


def number(value: float) -> str:
    """A value for people, four digits at most.

    >>> number(0.04312), number(-2.0), number(1e20)
    ('0.04312', '−2', '1e20')
    """
    return tidy(f"{value:.4g}")


def percent(share: float) -> str:
    """A share as people read it: two digits at most, and no line break in it.

    >>> [percent(share).replace("\N{NO-BREAK SPACE}", " ") for share in (0.8312, 0.0042, 0.99996, 0.00001)]
    ['83 %', '0.4 %', '100 %', '< 0.1 %']
    """
    hundredths = 100 * float(share)
    small = f"{hundredths:.1f}" if hundredths < 0.95 else f"{hundredths:.0f}"
    text = "<\u00a00.1" if 0 < hundredths < 0.05 else small
    return f"{text}\u00a0%"


def tidy(text: str) -> str:
    """A formatted number with a real minus sign and a short exponent."""
    mantissa, _, exponent = text.partition("e")
    return (mantissa + (f"e{int(exponent)}" if exponent else "")).replace("-", "−")


def shortened(name: str, most: int) -> str:
    """A long name without its middle: its beginning and its end tell most.

    >>> shortened("a-very-long-name-of-a-checkpoint-001.pt", 28)
    'a-very-long-n…ckpoint-001.pt'
    """
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most // 2) :]}"


def own_and_plane(own: float, plane: float) -> str:
    """A checkpoint's own value, and that of its place on the plane where it is another by over 1 %.

    >>> own_and_plane(0.8, 0.801), own_and_plane(0.4, 0.8), own_and_plane(float("nan"), 2.0)
    ('0.8', '0.4, 0.8 on the plane', '2 on the plane')
    """
    if isfinite(own) and abs(plane - own) <= 0.01 * abs(own):
        return number(own)
    said = ((own, ""), (plane, " on the plane"))
    return ", ".join(f"{number(value)}{where}" for value, where in said if isfinite(value))


def listing(words: list[str]) -> str:
    """Words as a sentence has them.

    >>> listing(["a"]), listing(["a", "b"]), listing(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
