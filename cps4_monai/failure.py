"""What went wrong, in one line for a person, with the whole traceback in a file."""

from __future__ import annotations

import dis
import os
import re
import tempfile
import traceback
from datetime import datetime, timezone
from pathlib import Path

FILE_NAME = "error.log"
_TOLD = (ValueError, TypeError, OSError)  # kinds whose message says what to do
_NOT_LOCATED = re.compile(r"Cannot locate class or function path: '([^']+)'")  # of MONAI's
_COMPONENT = re.compile(
    r"[Ff]ailed to (?:instantiate|evaluate) (?:component )?([^\s].{0,120}?)(?: with (?:args|keywords)|\.?$|:)"
)


def is_told(error: BaseException) -> bool:
    """Whether an error is of a kind that is raised for people, with a message that says what to do."""
    return isinstance(error, _TOLD) or bool(getattr(error, "told_to_users", False))


def speaks_for_itself(error: BaseException) -> bool:
    """Whether a message is worth telling alone: that of a ``raise``, not of Python itself (``float("a")``)."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if not is_told(error) or last is None or isinstance(error, OSError):
        return is_told(error)
    return dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"


def chain_of(error: BaseException) -> list[BaseException]:
    """An exception and all that it was raised from, the outermost first."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        hidden = following.__suppress_context__
        following = following.__cause__ or (None if hidden else following.__context__)
    return chain


def cause_of(error: BaseException) -> BaseException:
    """The exception of a chain that says most to a person.

    MONAI's parser raises a RuntimeError from another one at each level of a config. Of what is behind them, the
    outermost error of a kind that this package raises on purpose says what to do; what that was raised from says less.
    Without one, it is the innermost, where things went wrong.
    """
    chain = chain_of(error)
    told = [link for link in chain if is_told(link)]
    return told[0] if told else chain[-1]


def one_line(error: BaseException) -> str:
    """The cause in one line; where it does not speak for itself, with its kind and the component being built."""
    cause = cause_of(error)
    message = " ".join(str(cause).split())
    if speaks_for_itself(cause):
        return message or type(cause).__name__
    if missing := _NOT_LOCATED.search(message):
        return (
            f"{missing[1]}: no such class or function, as '_target_' of a config or an overlay; expected one that "
            "Python finds. Fix: correct the name, or put the folder of its module into PYTHONPATH"
        )
    built = [match[1] for link in chain_of(error) if (match := _COMPONENT.search(str(link)))]
    where = f", in {' '.join(built[-1].split())}" if built else ""
    return f"{type(cause).__name__}: {message}{where}"


def for_terminal(error: BaseException, folder: str | Path) -> str:
    """:func:`one_line`, and where the cause does not speak for itself, the place of its traceback."""
    line, log = one_line(error), Path(folder) / log_name()
    return line if speaks_for_itself(cause_of(error)) or not log.is_file() else f"{line}; the traceback is in {log}"


def log_name() -> str:
    """``error.log``; of the processes that torchrun starts, each but the first has a file of its own.

    When one process fails, the others lose their connection to it, and what they say of that is not the cause.
    """
    rank = os.environ.get("RANK", "0")
    return FILE_NAME if rank in ("", "0") else f"error_rank{rank}.log"


def write_traceback(error: BaseException, folder: str | Path | None) -> Path:
    """Appends the traceback to ``error.log`` in a run's folder; to one among the temporary files where that fails, or
    where the run has no folder yet and the message says it all: a name that was misspelt leaves none behind.
    """
    text = "".join(traceback.format_exception(error))
    stamp = datetime.now(timezone.utc).isoformat(timespec="seconds")
    refused = folder is not None and not Path(folder).is_dir() and speaks_for_itself(cause_of(error))
    places = [] if folder is None or refused else [Path(folder)]
    for place in (*places, Path(tempfile.gettempdir())):
        try:
            if place in places:
                place.mkdir(parents=True, exist_ok=True)
            with open(place / log_name(), "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{stamp}\n{text}\n")
            return place / log_name()
        except OSError:
            continue
    return Path("(no file can be written)")
