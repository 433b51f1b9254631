"""Writes a Python source with each statement on the line it began on, and with few blanks."""

import io
import tokenize

# What is in f-strings stays as it is: from Python 3.12 on they are tokens of their own, before that one string.
OPENING = {getattr(tokenize, name, None) for name in ("FSTRING_START", "TSTRING_START")} - {None}
CLOSING = {getattr(tokenize, name, None) for name in ("FSTRING_END", "TSTRING_END")} - {None}
NO_TEXT = {tokenize.ENCODING, tokenize.NL, tokenize.ENDMARKER}


def tight(text: bytes) -> bytes:
    """`text`, which has no comments but for the interpreter's line, with one space for each level of indentation and no
    blank that nothing needs. A statement of several lines becomes one; empty ones follow it, so that the next stays
    where it was. Strings stay as they are."""
    parts: "list[str]" = []
    row, depth, before = 1, 0, None  # row: the line that is written; before: the token before, on it
    groups: "list[list[int]]" = []
    for token in whole_strings(text):
        if token.type in (tokenize.INDENT, tokenize.DEDENT):
            depth += 1 if token.type == tokenize.INDENT else -1
        elif token.type == tokenize.NEWLINE:
            before = None
        else:
            if before is None:
                parts += ["\n" * (token.start[0] - row), " " * depth]
                row = token.start[0]
            elif must_part(before, token):
                parts.append(" ")
            if last_comma(groups, token) and parts[-1] == ",":
                parts.pop()
            parts.append(token.string)
            row += token.string.count("\n")
            before = None if token.type == tokenize.COMMENT else token
    return ("".join([*parts, "\n"]) if parts else "").encode()


def whole_strings(text: bytes) -> "list[tokenize.TokenInfo]":
    """The tokens of `text` that are something, an f-string as one of them."""
    found = []
    lines = io.BytesIO(text).readlines()
    inside = 0
    for token in tokenize.tokenize(io.BytesIO(text).readline):
        if token.type in OPENING:
            if inside == 0:
                begun = token.start
            inside += 1
        elif token.type in CLOSING:
            inside -= 1
            if inside == 0:
                string = between(lines, begun, token.end)
                found.append(tokenize.TokenInfo(tokenize.STRING, string, begun, token.end, token.line))
        elif not inside and token.type not in NO_TEXT:
            found.append(token)
    return found


def between(lines: "list[bytes]", start: "tuple[int, int]", end: "tuple[int, int]") -> str:
    """The text from `start` to `end`: (line from 1, letter from 0)."""
    text = [line.decode() for line in lines[start[0] - 1 : end[0]]]
    text[-1] = text[-1][: end[1]]
    text[0] = text[0][start[1] :]
    return "".join(text)


def must_part(one: tokenize.TokenInfo, other: tokenize.TokenInfo) -> bool:
    """Would two tokens become something else without a blank between them? (And so that it can be read: one stays
    between a word and a string.)"""
    last, first = one.string[-1], other.string[0]
    if one.type == tokenize.NUMBER and first == ".":
        return True
    return (of_word(last) or last in "'\"") and (first in "'\"" or (of_word(last) and of_word(first)))


def of_word(letter: str) -> bool:
    """Can it be in a name or a number?"""
    return ("_" + letter).isidentifier()


def last_comma(groups: "list[list[int]]", token: tokenize.TokenInfo) -> bool:
    """Keeps account of brackets in `groups`: [commas in it, lambdas in it]. Is `token` one that ends a group in which a
    comma before it says nothing? The only comma makes a tuple."""
    if token.type == tokenize.OP and token.string in "([{":
        groups.append([0, 0])
    elif token.type == tokenize.OP and token.string in ")]}":
        commas, lambdas = groups.pop()
        return commas > 1 and not lambdas
    elif groups:
        groups[-1][0] += token.string == ","
        groups[-1][1] += token.string == "lambda"
    return False
