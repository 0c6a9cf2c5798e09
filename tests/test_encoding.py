"""Names that are no UTF-8 in files, in JSON and on screens, in any locale."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from cps4_monai.encoding import ESCAPED, escape_on_screen, json_bytes, path_text, readable, text_bytes

LATIN1 = os.fsdecode(b"M\xfcller")


def test_bytes_that_are_no_utf8_are_escaped_and_the_rest_is_left():
    assert text_bytes(f"{LATIN1} 脊椎 –") == "M\\xfcller 脊椎 –".encode()
    assert readable(LATIN1) == "M\\xfcller"


def test_utf8_that_an_ascii_locale_did_not_understand_is_restored():
    assert readable("\udcc3\udcbcber") == "über"


def test_surrogates_that_carry_no_byte_are_named_by_their_number():
    assert text_bytes("a\ud800") == b"a\\ud800"


def test_json_keeps_the_name_exact():
    assert json.loads(json_bytes({"name": LATIN1, "other": "ü"})) == {"name": LATIN1, "other": "ü"}
    assert "ü".encode() in json_bytes("ü")


def test_an_ascii_stream_gets_escapes():
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii")
    escape_on_screen(stream)
    stream.write(f"{LATIN1} –")
    stream.flush()
    assert buffer.getvalue() == b"M\\xfcller \\u2013"


def test_decoding_errors_are_not_hidden():
    with pytest.raises(UnicodeDecodeError):
        b"\xfc".decode("utf-8", ESCAPED)


def test_a_name_in_a_file_is_the_name_on_disk_in_an_ascii_locale(tmp_path):
    (tmp_path / "ü.txt").touch()
    code = "import os; from cps4_monai.encoding import path_text; assert os.path.exists(path_text('\\xfc.txt'))"
    plain = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path))),
    }
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=plain).returncode == 0
    assert path_text("ü.txt") == "ü.txt"
