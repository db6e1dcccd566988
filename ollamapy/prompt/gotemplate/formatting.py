"""Numbers and texts as Go's package fmt writes them, one operand with its flags, width and precision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from ollamapy.prompt.gotemplate.values import bytes_string

_ESCAPED = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
_EXPONENT_FROM = 6  # powers of ten from which %g writes an exponent
_REPLACEMENT = "\ufffd"


@dataclass(slots=True)
class Flags:
    """What stands between % and the verb. plus_v and sharp_v: the forms %+v and %#v."""

    plus: bool = False
    minus: bool = False
    sharp: bool = False
    space: bool = False
    zero: bool = False
    plus_v: bool = False
    sharp_v: bool = False
    width: int | None = None
    precision: int | None = None


def pad(text: str, flags: Flags, zeros: bool = True) -> str:
    """Fill up to the width, to the left with zeros if the flags say so."""
    if not flags.width:
        return text
    if flags.minus:
        return text.ljust(flags.width)
    return text.rjust(flags.width, "0" if flags.zero and zeros else " ")


def truncated(text: str, flags: Flags) -> str:
    return text if flags.precision is None else text[: flags.precision]


def format_integer(value: int, base: int, verb: str, flags: Flags) -> str:
    """An integer in base 2, 8, 10 or 16; verb X writes capitals, O a 0o before it."""
    precision = 0
    if flags.precision is not None:
        precision = flags.precision
        if precision == 0 and value == 0:
            return " " * (flags.width or 0)
    elif flags.zero and not flags.minus and flags.width:
        precision = flags.width - (value < 0 or flags.plus or flags.space)
    digits = format(abs(value), {2: "b", 8: "o", 10: "d", 16: "x"}[base]).rjust(precision, "0")
    if flags.sharp:
        if base == 8:
            digits = digits if digits.startswith("0") else "0" + digits
        elif base != 10:
            digits = {2: "0b", 16: "0x"}[base] + digits
    if verb == "X":
        digits = digits.upper()
    if verb == "O":
        digits = "0o" + digits
    sign = "-" if value < 0 else "+" if flags.plus else " " if flags.space else ""
    return pad(sign + digits, flags, zeros=False)


def format_code_point(value: int, flags: Flags) -> str:
    """%U: U+0041, and with # the character behind it."""
    digits = format(value if value >= 0 else value + (1 << 64), "X").rjust(max(flags.precision or 0, 4), "0")
    shown = f" '{chr(value)}'" if flags.sharp and _is_rune(value) and chr(value).isprintable() else ""
    return pad(f"U+{digits}{shown}", flags, zeros=False)


def _is_rune(value: int) -> bool:
    return 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000


def format_character(value: int, flags: Flags) -> str:
    return pad(chr(value) if _is_rune(value) else _REPLACEMENT, flags)


def quote(text: str, mark: str = '"', ascii_only: bool = False) -> str:
    """A text as a Go constant."""
    written = [mark]
    for character in text:
        code = ord(character)
        if character in ("\\", mark):
            written.append("\\" + character)
        elif 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
            written.append(f"\\x{code - 0xDC00:02x}")
        elif character.isprintable() and (code < 0x80 or not ascii_only):
            written.append(character)
        elif character in _ESCAPED:
            written.append(_ESCAPED[character])
        elif code < 0x20 or code == 0x7F:
            written.append(f"\\x{code:02x}")
        else:
            written.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    written.append(mark)
    return "".join(written)


def format_quoted(text: str, flags: Flags) -> str:
    """%q of a text; with # in backquotes where Go can."""
    text = truncated(text, flags)
    if flags.sharp and not any(c in "`\x7f\ufeff" or (c < " " and c != "\t") or _is_byte(c) for c in text):
        return pad(f"`{text}`", flags)
    return pad(quote(text, ascii_only=flags.plus), flags)


def _is_byte(character: str) -> bool:
    return "\udc80" <= character <= "\udcff"


def format_quoted_character(value: int, flags: Flags) -> str:
    shown = chr(value) if _is_rune(value) else _REPLACEMENT
    return pad(quote(shown, "'", flags.plus), flags)


def format_hex(data: bytes, verb: str, flags: Flags) -> str:
    """%x and %X of bytes."""
    if flags.precision is not None:
        data = data[: flags.precision]
    if not data:
        return " " * (flags.width or 0) if not (flags.zero and not flags.minus) else "0" * (flags.width or 0)
    mark = ("0X" if verb == "X" else "0x") if flags.sharp else ""
    pairs = [format(byte, "02X" if verb == "X" else "02x") for byte in data]
    text = " ".join(mark + pair for pair in pairs) if flags.space else mark + "".join(pairs)
    return pad(text, flags)


def _digits(value: float) -> tuple[str, int]:
    """The shortest digits that read back, and where their point is: 0.d1d2d3 times ten to that power."""
    _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    return "".join(map(str, digits)), len(digits) + exponent


def _shortest(value: float, verb: str) -> str:
    """A finite number of at least 0 in its shortest form; g chooses e below 1e-4 and from 1e6."""
    digits, point = ("0", 1) if value == 0 else _digits(value)
    if verb == "g":
        verb = "e" if point - 1 < -4 or point - 1 >= _EXPONENT_FROM else "f"
    if verb == "e":
        mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
        return f"{mantissa}e{point - 1:+03d}"
    if point <= 0:
        return "0." + "0" * -point + digits
    if len(digits) <= point:
        return digits.ljust(point, "0")
    return digits[:point] + "." + digits[point:]


def float_text(value: float, verb: str, precision: int | None) -> str:
    """strconv.FormatFloat with the sign always written; verbs e E f g G b x X, precision None: the shortest."""
    if math.isnan(value):
        return "+NaN"
    sign = "-" if math.copysign(1, value) < 0 else "+"
    if math.isinf(value):
        return sign + "Inf"
    magnitude, lower = abs(value), verb.lower()
    if verb == "b":
        mantissa, exponent = math.frexp(magnitude)
        whole = int(mantissa * (1 << 53))
        while exponent - 53 < -1074 and magnitude:  # subnormal
            whole, exponent = whole >> 1, exponent + 1
        text = f"{whole}p{exponent - 53 if magnitude else -1074:+d}"
    elif lower == "x":
        text = _hexadecimal(magnitude, precision)
    elif precision is None:
        text = _shortest(magnitude, lower)
    else:
        text = format(magnitude, f".{precision}{lower}")
    return sign + (text.upper() if verb in "EGX" else text)


def _hexadecimal(magnitude: float, precision: int | None) -> str:
    if magnitude == 0:
        return "0x0" + ("." + "0" * precision if precision else "") + "p+00"
    fraction, exponent = math.frexp(magnitude)
    bits, exponent = int(fraction * (1 << 53)), exponent - 1  # 1.xxx in 53 bits
    if precision is not None and precision < 13:
        drop = 4 * (13 - precision)
        kept, rest = bits >> drop, bits & ((1 << drop) - 1)
        half = 1 << (drop - 1)
        kept += rest > half or (rest == half and kept & 1)
        if kept >> (53 - drop):
            kept, exponent = kept >> 1, exponent + 1
        bits = kept << drop
    digits = format(bits & ((1 << 52) - 1), "013x")
    digits = digits.rstrip("0") if precision is None else digits.ljust(precision, "0")[:precision]
    return f"0x1{'.' + digits if digits else ''}p{exponent:+03d}"


def format_float(value: float, verb: str, precision: int | None, flags: Flags) -> str:
    """A float with its flags; precision is the verb's own, which one in the flags replaces."""
    if flags.precision is not None:
        precision = flags.precision
    text = float_text(value, verb, precision)
    if flags.space and text[0] == "+" and not flags.plus:
        text = " " + text[1:]
    if text[1] in "IN":
        if text[0] == "+" and not flags.plus:
            text = text[1:]
        return pad(text, flags, zeros=False)
    if flags.sharp and verb != "b":
        text = _with_point(text, verb, precision)
    if flags.plus or text[0] != "+":
        if flags.zero and not flags.minus and flags.width and flags.width > len(text):
            return text[0] + text[1:].rjust(flags.width - 1, "0")
        return pad(text, flags)
    return pad(text[1:], flags)


def _with_point(text: str, verb: str, precision: int | None) -> str:
    """The # flag: always a point, and the zeros that g would drop."""
    digits = (6 if precision is None else precision) if verb in "gGx" else 0
    tail, body = "", text
    for i, character in enumerate(text):
        if character in "pP" or (character in "eE" and verb not in "xX"):
            body, tail = text[:i], text[i:]
            break
    seen = False
    for character in body[1:]:
        if character == ".":
            continue
        seen = seen or character != "0"
        digits -= seen
    if "." not in body:
        if body[1:] == "0":
            digits -= 1
        body += "."
    return body + "0" * max(digits, 0) + tail


def json_float(value: float) -> str:
    """A float64 as encoding/json writes it."""
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    magnitude = abs(value)
    verb = "f" if 1e-6 <= magnitude < 1e21 else "e"
    text = _shortest(magnitude, verb)
    if verb == "e" and text[-4:-1] == "e-0":
        text = text[:-2] + text[-1]
    return ("-" if value < 0 else "") + text


def format_bytes_text(data: bytes, flags: Flags) -> str:
    """%s of bytes."""
    return pad(truncated(bytes_string(data), flags), flags)


def format_text(text: str, flags: Flags) -> str:
    """%s of a text."""
    return pad(truncated(text, flags), flags)
