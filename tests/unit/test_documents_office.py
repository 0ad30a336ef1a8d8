"""Word, PowerPoint and Excel files made by other libraries: words change, runs and all other members do not."""

from __future__ import annotations

import io
import random
import re
import xml.etree.ElementTree as tree
import zipfile
from collections.abc import Callable, Mapping

import docx
import pptx
import pytest

from model.documents.archive import Archive
from model.documents.document import Document, DocumentLimits
from model.documents.formats import open_document
from model.errors import InvalidDocumentError

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def upper(fragment: str) -> str:
    """Return an XML fragment with its words, but neither tags nor entities, in capitals."""
    return re.sub(r"(<[^>]*>|&\w+;)|([^<&]+)", lambda found: found[1] or found[2].upper(), fragment)


def in_capitals(document: Document) -> bytes:
    return document.render([upper(text.text) for text in document.texts])


def unchanged(document: Document) -> bytes:
    return document.render([text.text for text in document.texts])


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(content: Mapping[str, bytes | str]) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return output.getvalue()


def word(body: str, extra: Mapping[str, bytes | str] | None = None) -> bytes:
    """Return the smallest file that counts as a Word document here."""
    main = f'<?xml version="1.0" encoding="UTF-8"?>\n<w:document {W}><w:body>{body}</w:body></w:document>'
    return packed({"[Content_Types].xml": "<Types/>", "word/document.xml": main, **(extra or {})})


def body_of(data: bytes) -> str:
    found = re.search(r"<w:body>(.*)</w:body>", members(data)["word/document.xml"].decode(), re.DOTALL)
    assert found is not None
    return found[1]


def word_file() -> bytes:
    document = docx.Document()
    document.add_heading("A title", 1)
    paragraph = document.add_paragraph("Hello ")
    paragraph.add_run("bold world").bold = True
    paragraph.add_run(" & <things>, 12.")
    document.add_paragraph("12.5")
    document.add_table(1, 1).cell(0, 0).text = "in a cell"
    document.sections[0].header.paragraphs[0].text = "Head"
    output = io.BytesIO()
    document.save(output)
    return output.getvalue()


def slides_file() -> bytes:
    presentation = pptx.Presentation()
    slide = presentation.slides.add_slide(presentation.slide_layouts[1])
    slide.shapes.title.text = "Our plan"
    paragraph = slide.placeholders[1].text_frame.paragraphs[0]
    paragraph.add_run().text = "First "
    run = paragraph.add_run()
    run.text, run.font.italic = "second", True
    slide.notes_slide.notes_text_frame.text = "say hello"
    output = io.BytesIO()
    presentation.save(output)
    return output.getvalue()


@pytest.mark.parametrize(("make", "name"), [(word_file, "a.docx"), (slides_file, "a.PPTX")])
def test_the_same_words_give_the_same_bytes(make: Callable[[], bytes], name: str) -> None:
    data = make()
    document = open_document(data, name)
    assert unchanged(document) == data
    assert document.suffix == name[1:].lower()


def test_a_word_document_keeps_runs_order_and_other_members() -> None:
    data = word_file()
    document = open_document(data, "a.docx")
    assert "Hello <r1>bold world</r1> &amp; &lt;things&gt;, 12." in [text.text for text in document.texts]
    assert "12.5" not in [text.text for text in document.texts]
    rendered = in_capitals(document)
    read = docx.Document(io.BytesIO(rendered))
    assert [[(run.text, run.bold) for run in paragraph.runs] for paragraph in read.paragraphs] == [
        [("A TITLE", None)],
        [("HELLO ", None), ("BOLD WORLD", True), (" & <THINGS>, 12.", None)],
        [("12.5", None)],
    ]
    assert read.paragraphs[0].style is not None
    assert read.paragraphs[0].style.name == "Heading 1"
    assert read.tables[0].cell(0, 0).text == "IN A CELL"
    assert read.sections[0].header.paragraphs[0].text == "HEAD"
    before, after = members(data), members(rendered)
    assert list(before) == list(after)
    changed = {name for name in before if before[name] != after[name]}
    assert "word/document.xml" in changed
    assert changed <= {name for name in before if re.fullmatch(r"word/(document|header\d*)\.xml", name)}


def test_slides_and_notes_keep_their_runs() -> None:
    read = pptx.Presentation(io.BytesIO(in_capitals(open_document(slides_file(), "a.pptx"))))
    slide = read.slides[0]
    assert slide.shapes.title.text == "OUR PLAN"
    runs = slide.placeholders[1].text_frame.paragraphs[0].runs
    assert [(run.text, run.font.italic) for run in runs] == [("FIRST ", None), ("SECOND", True)]
    assert slide.notes_slide.notes_text_frame.text == "SAY HELLO"


def test_runs_move_with_their_words() -> None:
    data = word("<w:p><w:r><w:t>a red </w:t></w:r><w:r><w:rPr><w:b/></w:rPr><w:t>house</w:t></w:r></w:p>")
    document = open_document(data, "a.docx")
    assert [text.text for text in document.texts] == ["a red <r1>house</r1>"]
    read = docx_paragraphs(document.render(["une <r1>maison</r1> rouge"]))
    assert read == [[("une ", False), ("maison", True), (" rouge", False)]]


def docx_paragraphs(data: bytes) -> list[list[tuple[str, bool]]]:
    """Return text and boldness of every run, read without the code under test."""
    space = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
    root = tree.fromstring(members(data)["word/document.xml"])
    return [
        [
            ("".join(text.text or "" for text in run.iter(space + "t")), run.find(f"{space}rPr/{space}b") is not None)
            for run in paragraph.iter(space + "r")
        ]
        for paragraph in root.iter(space + "p")
    ]


def test_runs_that_word_split_without_a_reason_are_one_text() -> None:
    data = word(
        '<w:p><w:r w:rsidR="1"><w:t>Hel</w:t></w:r><w:proofErr w:type="spellStart"/><w:r w:rsidR="2">'
        '<w:rPr><w:lang w:val="fr-FR"/></w:rPr><w:t>lo</w:t></w:r><w:r><w:lastRenderedPageBreak/></w:r></w:p>'
    )
    document = open_document(data, "a.docx")
    assert [text.text for text in document.texts] == ["Hello"]
    rendered = body_of(document.render(["Salut"]))
    assert '<w:t xml:space="preserve">Salut</w:t>' in rendered
    assert rendered.count("<w:proofErr") == rendered.count("<w:lastRenderedPageBreak") == 1


def test_links_notes_and_ranges_keep_their_order() -> None:
    data = word(
        '<w:p><w:r><w:t>see </w:t></w:r><w:bookmarkStart w:id="1"/><w:hyperlink r="x"><w:r><w:t>here</w:t></w:r>'
        '</w:hyperlink><w:r><w:t> now</w:t></w:r><w:bookmarkEnd w:id="1"/><w:r><w:tab/><w:t>please</w:t></w:r></w:p>'
    )
    document = open_document(data, "a.docx")
    [text] = document.texts
    assert text.text == "see <x1/><w2>here</w2> now<x3/>please"
    rendered = body_of(document.render(["<x3/>maintenant <w2>ici</w2><x1/> svp"]))
    assert rendered.index("bookmarkStart") < rendered.index("bookmarkEnd")
    assert '<w:hyperlink r="x"><w:r><w:t xml:space="preserve">ici</w:t></w:r></w:hyperlink>' in rendered


def field(instruction: str) -> str:
    return (
        '<w:r><w:fldChar w:fldCharType="begin"/></w:r>'
        f"<w:r><w:instrText>{instruction}</w:instrText></w:r>"
        '<w:r><w:fldChar w:fldCharType="separate"/></w:r><w:r><w:t>shown</w:t></w:r>'
        '<w:r><w:fldChar w:fldCharType="end"/></w:r>'
    )


def test_only_fields_of_prose_are_translated() -> None:
    words = "<w:r><w:t>before </w:t></w:r>", "<w:r><w:t> after</w:t></w:r>"
    for instruction, text in [(" DATE ", "before <x1/> after"), ('HYPERLINK "a"', "before <w1>shown</w1> after")]:
        data = word(f"<w:p>{words[0]}{field(instruction)}{words[1]}</w:p>")
        document = open_document(data, "a.docx")
        assert [each.text for each in document.texts] == [text]
        rendered = re.sub(r"</?w:r>", "", body_of(in_capitals(document)))  # equal runs may have become one
        assert re.sub(r"</?w:r>", "", field(instruction)).partition("<w:t>")[0] in rendered
        assert ("SHOWN" in rendered) == ("HYPERLINK" in instruction)


def test_text_boxes_inside_paragraphs_and_deleted_text() -> None:
    data = word(
        "<w:p><w:r><w:t>out</w:t></w:r><w:r><w:drawing><w:p><w:r><w:t>in</w:t></w:r></w:p></w:drawing></w:r>"
        "<w:r><w:t>side</w:t></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>"
    )
    document = open_document(data, "a.docx")
    assert [text.text for text in document.texts] == ["in", "out<x1/>side"]
    rendered = body_of(document.render(["IN", "OUT<x1/>SIDE"]))
    assert re.sub(r"<[^>]*>", "", rendered) == "OUTINSIDEgone"
    assert re.sub(r"<[^>]*>", "", body_of(document.render(["IN", "out<x1/>side"]))) == "outINsidegone"


@pytest.mark.parametrize(
    "answer", ["a red house", "<r1>a</r1> <r1>b</r1>", "<r1>a", "a <r2>b</r2>", "<i><r1>a</r1></i>"]
)
def test_other_tags_are_refused(answer: str) -> None:
    data = word("<w:p><w:r><w:t>a red </w:t></w:r><w:r><w:rPr><w:b/></w:rPr><w:t>house</w:t></w:r></w:p>")
    with pytest.raises(InvalidDocumentError):
        open_document(data, "a.docx").render([answer])


def test_strings_of_a_workbook_but_not_headings_of_tables() -> None:
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    data = packed(
        {
            "[Content_Types].xml": "<Types/>",
            "xl/workbook.xml": f"<workbook {space}/>",
            "xl/sharedStrings.xml": f"<sst {space}><si><t>Price</t></si><si><t>a pear</t></si></sst>",
            "xl/tables/table1.xml": f'<table {space}><tableColumns><tableColumn name="Price"/></tableColumns></table>',
        }
    )
    document = open_document(data, "a.xlsx")
    assert [text.text for text in document.texts] == ["a pear"]
    strings = members(in_capitals(document))["xl/sharedStrings.xml"].decode()
    assert strings.endswith('<si><t>Price</t></si><si><t xml:space="preserve">A PEAR</t></si></sst>')


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ({"../evil": "x"}, "relative member names"),
        ({"/evil": "x"}, "relative member names"),
        ({"C:/evil": "x"}, "relative member names"),
        ({"word/vbaProject.bin": "x"}, "no macros"),
        ({"[content_types].XML": "x"}, "each member once"),
        ({"big": b"\0" * 2**22}, "packed more than"),
    ],
)
def test_unsafe_archives_are_refused(content: Mapping[str, bytes | str], rule: str) -> None:
    with pytest.raises(InvalidDocumentError, match=rule):
        open_document(word("", content), "a.docx")


def test_links_and_encrypted_members_are_refused() -> None:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InvalidDocumentError, match="no links"):
        Archive(output.getvalue(), DocumentLimits())
    data = bytearray(packed({"a": "x"}))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(InvalidDocumentError, match="encrypted"):
        Archive(bytes(data), DocumentLimits())


@pytest.mark.parametrize(
    ("limits", "rule"),
    [
        (DocumentLimits(max_bytes=100), "bytes"),
        (DocumentLimits(max_unpacked_bytes=100), "unpacked"),
        (DocumentLimits(max_members=1), "members"),
        (DocumentLimits(max_depth=3), "inside one another"),
        (DocumentLimits(max_elements=3), "XML elements"),
        (DocumentLimits(max_texts=1), "texts"),
        (DocumentLimits(max_characters=3), "characters"),
    ],
)
def test_limits_are_kept(limits: DocumentLimits, rule: str) -> None:
    data = word("<w:p><w:r><w:t>one</w:t></w:r></w:p><w:p><w:r><w:t>two</w:t></w:r></w:p>")
    assert len(open_document(data, "a.docx").texts) == 2
    with pytest.raises(InvalidDocumentError, match=rule):
        open_document(data, "a.docx", limits)


def test_entities_are_refused() -> None:
    bomb = f'<!DOCTYPE w:document [<!ENTITY a SYSTEM "file:///etc/passwd">]><w:document {W}>&a;</w:document>'
    data = packed({"[Content_Types].xml": "<Types/>", "word/document.xml": bomb})
    with pytest.raises(InvalidDocumentError, match="entities"):
        open_document(data, "a.docx")


def test_damaged_files_are_refused_and_nothing_else_happens() -> None:
    data = word("<w:p><w:r><w:t>one &amp; two</w:t></w:r></w:p>", {"word/header1.xml": f"<w:hdr {W}/>"})
    generator = random.Random(5)
    damaged = [data[:length] for length in range(0, len(data), 7)]
    for _ in range(400):
        flipped = bytearray(data)
        flipped[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        damaged.append(bytes(flipped))
    refused = 0
    for each in damaged:
        try:
            unchanged(open_document(each, "a.docx"))
        except InvalidDocumentError:
            refused += 1
    assert refused > len(damaged) // 2


def test_damaged_xml_in_sound_archives_is_refused_and_nothing_else_happens() -> None:
    main = members(word_file())["word/document.xml"]
    start, generator = main.index(b"<w:body>"), random.Random(7)
    for _ in range(150):
        flipped = bytearray(main)
        for _ in range(generator.randrange(1, 4)):
            flipped[generator.choice([generator.randrange(100), generator.randrange(start, len(main))])] ^= (
                1 << generator.randrange(8)
            )
        try:
            document = open_document(packed({"[Content_Types].xml": "", "word/document.xml": bytes(flipped)}), "a.docx")
        except InvalidDocumentError:
            continue
        in_capitals(document)
    for length in range(0, len(main) - 1, 97):
        with pytest.raises(InvalidDocumentError):
            open_document(packed({"[Content_Types].xml": "", "word/document.xml": main[:length]}), "a.docx")
