"""SubRip, WebVTT and SubStation subtitles: where the texts of cues are, and how each format is written."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Sequence

from model.documents.cues import Cue, Dialect, cue_slots
from model.documents.document import DocumentLimits, Opened, SlottedText, invalid
from model.documents.encodings import decode

_LINE = re.compile(r"([^\r\n]*+)(\r\n|\r|\n|\Z)")
_SRT_TIMES = re.compile(
    r"\s*-?\d{1,3}:\d{1,2}:\d{1,2}[,.:]\d{1,3}\s*-->\s*-?\d{1,3}:\d{1,2}:\d{1,2}[,.:]\d{1,3}(\s.*)?"
)
_VTT_TIMES = re.compile(r"(?:\d{2,}:)?\d\d:\d\d\.\d{3}[ \t]+-->[ \t]+(?:\d{2,}:)?\d\d:\d\d\.\d{3}([ \t].*)?")
_SRT_TAG = re.compile(r"</?[A-Za-z][^<>\r\n]*>|\{\\[^{}\r\n]*\}")
_VTT_TAG = re.compile(r"<[^<>]*>")
_ASS_TAG = re.compile(r"(?<!\\)\{[^{}\r\n]*\}")
_DRAWING = re.compile(r"\{[^{}]*\\p[1-9]")
_ASS_FIELDS = ["layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"]


def _without_srt_tags(text: str) -> str:
    # There is no escape: an invisible word joiner keeps characters from being read as a tag.
    return _SRT_TAG.sub(lambda found: found[0][0] + "\u2060" + found[0][1:], text)


def _read_ass(text: str) -> str:
    return text.replace("\\h", "\xa0").replace("\\{", "{").replace("\\}", "}")


def _write_ass(text: str) -> str:
    text = re.sub(r"\\(?=[Nnh{}])", "\\\\\u2060", text)
    return text.replace("{", "\\{").replace("}", "\\}").replace("\xa0", "\\h")


def _write_vtt(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_NEWLINE = re.compile(r"\r\n|\r|\n")
_SRT = Dialect(_SRT_TAG, _NEWLINE, str, _without_srt_tags)
_VTT = Dialect(_VTT_TAG, _NEWLINE, html.unescape, _write_vtt)
_ASS = Dialect(_ASS_TAG, re.compile(r"\\[Nn]"), _read_ass, _write_ass)


def open_srt(data: bytes, limits: DocumentLimits) -> Opened:  # noqa: ARG001 - one signature for all openers
    """Open SubRip subtitles."""
    return _open(data, _srt_cues, _SRT)


def open_vtt(data: bytes, limits: DocumentLimits) -> Opened:  # noqa: ARG001 - as above
    """Open WebVTT subtitles; notes, styles and regions stay."""
    return _open(data, _vtt_cues, _VTT)


def open_ass(data: bytes, limits: DocumentLimits) -> Opened:  # noqa: ARG001 - as above
    """Open SubStation Alpha subtitles; comments and drawings stay."""
    return _open(data, _ass_cues, _ASS)


def _open(data: bytes, cues: Callable[[str], Iterator[Cue]], dialect: Dialect) -> Opened:
    file = decode(data)
    slotted = SlottedText(file.text, cue_slots(file.text, cues(file.text), dialect))
    return slotted.texts, lambda new: file.encode(slotted.render(new))


def _lines(text: str) -> list[tuple[int, int, str]]:
    """Return start, end and line break of every line."""
    return [(found.start(), found.end(1), found[2]) for found in _LINE.finditer(text)]


def _paragraphs(text: str, lines: Sequence[tuple[int, int, str]]) -> Iterator[Cue]:
    """Yield the runs of lines that are not blank."""
    start: int | None = None
    for line_start, line_end, line_break in lines:
        if text[line_start:line_end].strip():
            if start is None:
                start, newline = line_start, line_break or "\n"
            end = line_end
        elif start is not None:
            yield Cue(start, end, newline)
            start = None
    if start is not None:
        yield Cue(start, end, newline)


def _srt_cues(text: str) -> Iterator[Cue]:
    lines = _lines(text)
    times = [index for index, (start, end, _) in enumerate(lines) if _SRT_TIMES.fullmatch(text, start, end)]
    if not times and text.strip():
        raise invalid("must have a cue with its times", text[:40])
    head = [text[start:end].strip() for start, end, _ in lines[: times[0] if times else 0]]
    if any(line and not line.isdecimal() for line in head):
        raise invalid("must begin with a cue's number or its times", text[:40])
    for index, following in zip(times, [*times, len(lines)][1:], strict=True):
        last = following
        if following < len(lines) and last - 1 > index:
            start, end, _ = lines[last - 1]
            last -= text[start:end].strip().isdecimal()
        for start, end, _ in lines[index + 1 : last]:
            if "-->" in text[start:end]:
                raise invalid("must have valid times", text[start:end])
        yield from _paragraphs(text, lines[index + 1 : last])


def _vtt_cues(text: str) -> Iterator[Cue]:
    if not re.match(r"WEBVTT(?:[ \t\r\n]|\Z)", text):
        raise invalid("must begin with WEBVTT", text[:10])
    lines = _lines(text)
    index = 0
    while index < len(lines):
        first = index
        while index < len(lines) and text[lines[index][0] : lines[index][1]].strip():
            index += 1
        block = lines[first:index]
        index += 1
        times = next((at for at, (start, end, _) in enumerate(block) if "-->" in text[start:end]), None)
        if times is None:
            continue  # a note, a style, a region, the header or nothing
        start, end, _ = block[times]
        if times > 1 or not _VTT_TIMES.fullmatch(text[start:end].strip()):
            if re.match(r"NOTE(\s|$)", text[block[0][0] : block[0][1]]):
                continue
            raise invalid("must have valid times", text[start:end])
        if any("-->" in text[start:end] for start, end, _ in block[times + 1 :]):
            raise invalid("must have an empty line before the times of a cue", text[start:end])
        yield from _paragraphs(text, block[times + 1 :])


def _ass_cues(text: str) -> Iterator[Cue]:
    section, names = "", _ASS_FIELDS
    found_events = False
    for start, end, _ in _lines(text):
        line = text[start:end]
        if re.fullmatch(r"\s*\[[^\]]+\]\s*", line):
            section = line.strip().lower()
            found_events |= section == "[events]"
        kind, colon, rest = line.partition(":")
        if section != "[events]" or not colon:
            continue
        kind = kind.strip().lower()
        if kind == "format":
            names = [name.strip().lower() for name in rest.split(",")]
            if names[-1] != "text":
                raise invalid("must have the text as the last field of an event", rest)
        elif kind == "dialogue":
            values = rest.split(",", len(names) - 1)
            if len(values) < len(names):
                raise invalid(f"must have {len(names)} fields in every event", line)
            if not _DRAWING.search(values[-1]):
                fields = dict(zip(names, values, strict=True))
                voice = "\0".join(fields.get(name, "") for name in ("layer", "style", "name", "effect"))
                yield Cue(end - len(values[-1]), end, "\\N", voice)
    if not found_events:
        raise invalid("must have the section [Events]", text[:40])
