"""Catalogues of gettext: polib reads what is written, and only missing and fuzzy translations change."""

from __future__ import annotations

import random
import re

import polib
import pytest

from model.documents.formats import open_document
from model.errors import InvalidDocumentError

FILE = r"""# A translator's note
msgid ""
msgstr ""
"Project-Id-Version: x\n"
"Content-Type: text/plain; charset=UTF-8\n"
"Plural-Forms: nplurals=3; plural=(n%10==1 && n%100!=11 ? 0 : n != 0 ? 1 : 2);\n"

#. extracted
#: a.c:10
msgid "Open \"file\"\tnow\\n"
msgstr ""

msgid "done"
msgstr "fertig"

#, fuzzy, c-format
#| msgid "old"
msgctxt "menu"
msgid "%d words"
msgstr "alte"

msgid ""
"\n"
"a long text that "
"goes on\n"
"and on\n"
msgstr ""
msgid "%d file"
msgid_plural "%d files"
msgstr[0] "eine"
msgstr[1] ""

msgid "100 %"
msgstr ""

#~ msgid "gone"
#~ msgstr "weg"
"""
TEXTS = [r'Open "file"	now\n', "%d words", "a long text that goes on\nand on", "%d files"]


def test_missing_and_fuzzy_translations_are_written_and_nothing_else() -> None:
    document = open_document(FILE.encode(), "a.po")
    assert [text.text for text in document.texts] == TEXTS
    rendered = document.render([text.upper() for text in TEXTS]).decode()
    before, after = polib.pofile(FILE), polib.pofile(rendered)
    assert [entry.msgstr for entry in after] == [
        'OPEN "FILE"\tNOW\\N',
        "fertig",
        "%D WORDS",
        "\nA LONG TEXT THAT GOES ON\nAND ON\n",
        "",
        "",
        "weg",
    ]
    assert after[4].msgstr_plural == {0: "eine", 1: "%D FILES", 2: "%D FILES"}
    assert after[2].fuzzy
    assert [entry.msgid for entry in after] == [entry.msgid for entry in before]
    assert after.metadata == before.metadata
    targets = r'msgstr(\[\d\])? ".*"(\n".*")*\n'
    assert re.sub(targets, "", rendered) == re.sub(targets, "", FILE)
    again = open_document(rendered.encode(), "a.po")
    assert [text.text for text in again.texts] == ["%d words"]  # it is still fuzzy
    assert again.render(["%D WORDS"]).decode() == rendered


def test_line_breaks_and_encoding_stay() -> None:
    data = FILE.replace("UTF-8", "ISO-8859-1").replace("fertig", "é").replace("\n", "\r\n").encode("latin-1")
    rendered = open_document(data, "a.po").render(["Ä\nB", *TEXTS[1:]])
    assert b"\xe9" in rendered
    assert b'msgstr "\xc4\\nB"\r\n' in rendered
    assert rendered.count(b"\n") == rendered.count(b"\r\n")
    with pytest.raises(InvalidDocumentError, match="save it as UTF-8"):
        open_document(data, "a.po").render(["Ж", *TEXTS[1:]])


def test_templates_and_files_without_a_header() -> None:
    data = b'#: a\nmsgid "one file"\nmsgid_plural "many files"\nmsgstr[0] ""\nmsgstr[1] ""\n'
    document = open_document(data, "a.pot")
    assert [text.text for text in document.texts] == ["one file", "many files"]
    assert document.render(["eine Datei", 'viele "Dateien" \\']) == data.replace(
        b'[0] ""', b'[0] "eine Datei"'
    ).replace(b'[1] ""', b'[1] "viele \\"Dateien\\" \\\\"')


def test_the_number_of_plural_forms_is_the_headers() -> None:
    entry = 'msgid "one"\nmsgid_plural "many"\nmsgstr[0] ""\nmsgstr[1] ""\n'

    def plurals(forms: str) -> dict[int, str]:
        data = f'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n"Plural-Forms: {forms}\\n"\n\n{entry}'
        document = open_document(data.encode(), "a.po")
        rendered = document.render([text.text.upper() for text in document.texts])
        return dict(polib.pofile(rendered.decode())[0].msgstr_plural)

    assert plurals("nplurals=1; plural=0;") == {0: "MANY", 1: ""}
    assert plurals("nplurals=2; plural=(n > 1);") == {0: "ONE", 1: "MANY"}
    arabic = "nplurals=6; plural=n==0 ? 0 : n==1 ? 1 : n==2 ? 2 : n%100>=3 && n%100<=10 ? 3 : n%100>=11 ? 4 : 5;"
    assert plurals(arabic) == {0: "MANY", 1: "ONE", 2: "MANY", 3: "MANY", 4: "MANY", 5: "MANY"}


def test_long_targets_of_wrapped_sources_are_wrapped() -> None:
    document = open_document(FILE.encode(), "a.po")
    new = " ".join(["worte"] * 60)
    rendered = document.render([*TEXTS[:2], new, TEXTS[3]]).decode()
    assert polib.pofile(rendered)[3].msgstr == f"\n{new}\n"
    assert max(len(line) for line in rendered.splitlines() if "worte" in line) <= 80


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b'msgid "a"\n',
        b'msgstr "a"\n',
        b'msgid "a"\nmsgstr "b\n',
        b'msgid "a"\nmsgstr "b\\"\n',
        b'msgid "a"\nmsgid "b"\nmsgstr ""\n',
        b'msgid "a"\nmsgstr ""\nmsgstr ""\n',
        b'msgid "a"\nmsgstr[0] ""\n',
        b'msgid "a"\nmsgid_plural "b"\nmsgstr ""\n',
        b'"a"\n',
        b'msgid "\\q"\nmsgstr ""\n',
        b'msgid "a" x\nmsgstr ""\n',
        b'msgid ""\nmsgstr "Content-Type: text/plain; charset=utf-7\\n"\n',
    ],
)
def test_bad_files_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidDocumentError):
        open_document(data, "a.po")


def test_damaged_files_are_refused_and_nothing_else_happens() -> None:
    data, generator = FILE.encode(), random.Random(13)
    damaged = [data[:length] for length in range(0, len(data), 3)]
    for _ in range(400):
        flipped = bytearray(data)
        flipped[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        damaged.append(bytes(flipped))
    opened = 0
    for each in damaged:
        try:
            document = open_document(each, "a.po")
        except InvalidDocumentError:
            continue
        document.render([text.text.upper() for text in document.texts])
        opened += 1
    assert 0 < opened < len(damaged)
