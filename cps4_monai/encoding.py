"""Text in files and on screens: always UTF-8 in files, and one way to write what is no UTF-8. Standard library only.

A file name may hold any bytes. Python keeps those that the system's encoding does not know as lone surrogates, which no
file can hold. Here they become the text that they are in UTF-8 and, where they are none, ``\\xfc``: one scan's odd name
never costs a table. JSON keeps the name exact (``\\udcfc``), so that the file is found again.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from typing import Any, TextIO

ESCAPED = "cps4.escaped"  # for every ``errors=``: of open, of pandas, of a log's file


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    run = error.object[error.start : error.end]
    # Surrogates that carry no byte (a damaged UTF-16 name) have no other form than their number.
    try:
        text = run.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        text = run
    return text.encode(error.encoding, "backslashreplace"), error.end


codecs.register_error(ESCAPED, _escape)


def printable(text: str) -> str:
    """Text on one line: a file's name may hold anything, line breaks too."""
    return "".join(c if c.isprintable() else "?" for c in text)


def text_bytes(text: str) -> bytes:
    """UTF-8, with what is none escaped."""
    return text.encode("utf-8", ESCAPED)


def readable(text: object) -> str:
    """The same as text, for pictures and pages."""
    return text_bytes(str(text)).decode("utf-8")


def json_bytes(content: Any, indent: int | None = None) -> bytes:
    """JSON in UTF-8; names that are no UTF-8 are escaped as JSON does, and read back as they were."""
    return json.dumps(content, indent=indent, ensure_ascii=False).encode("utf-8", "backslashreplace")


def path_text(text: str) -> str:
    """A file name read from a file as this system's encoding has it, whatever the one of the writer was."""
    try:
        return os.fsdecode(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return text


def escape_on_screen(*streams: TextIO) -> None:
    """Lets standard output and error (or the given streams) print any name and any message, in any locale."""
    for stream in streams or (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPED)
