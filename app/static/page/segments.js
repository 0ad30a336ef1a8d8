// A translated text as segments: put together, one of them written anew, cut into words. It draws and asks nothing.

const WORD = /[\p{L}\p{M}\p{N}]+(?:['’\-‑][\p{L}\p{M}\p{N}]+)*|[^\s\p{L}\p{M}\p{N}]+/gu;

/** Turns the service's offsets, which count characters (code points), into those of a string of the browser. */
export class Places {
  constructor(text) {
    this.length = text.length;
    this.starts = [...text].length === text.length ? null : starts(text);
  }

  of(place) {
    return this.starts ? (this.starts[place] ?? this.length) : Math.min(place, this.length);
  }
}

function starts(text) {
  const found = [0];
  for (const character of text) found.push(found.at(-1) + character.length);
  return found;
}

/** Return the words of a text with their places in it; a row of punctuation marks is a word too. */
export function words(text) {
  return [...text.matchAll(WORD)].map((match) => ({ start: match.index, end: match.index + match[0].length, text: match[0] }));
}

/**
 * The translation of a plain text, segment by segment as they come.
 *
 * What stands between segments is the same in source and target. A segment that has no translation yet is left out, and
 * so is what follows the last one until `isWhole` is set: nobody can tell it from a segment that is still to come.
 */
export class TranslatedText {
  constructor(source) {
    this.source = source;
    this.places = new Places(source);
    this.segments = [];
    this.isWhole = false;
  }

  /** Add a segment of the service, or replace it. */
  put(number, reply) {
    const start = this.places.of(reply.start);
    const end = this.places.of(reply.end);
    const text = reply.text;
    const places = new Places(text);
    this.segments[number] = {
      start,
      end,
      source: this.source.slice(start, end),
      text,
      alternatives: reply.alternatives,
      doubtful: (reply.words ?? []).map((word) => ({ ...word, start: places.of(word.start), end: places.of(word.end) })),
    };
  }

  /** Write one segment anew, as the reader chose. */
  rewrite(number, text) {
    const segment = this.segments[number];
    const others = [segment.text, ...segment.alternatives].filter((each) => each !== text);
    this.segments[number] = { ...segment, text, alternatives: [...new Set(others)].slice(0, 6), doubtful: [] };
  }

  /** Return what to show, in order: strings between segments, and {number, segment}. */
  parts() {
    const found = [];
    let position = 0;
    let next = 0;
    this.segments.forEach((segment, number) => {
      if (number === next) found.push(this.source.slice(position, segment.start));
      else if (found.length) found.push(" … ");
      found.push({ number, segment });
      position = segment.end;
      next = number + 1;
    });
    if (this.isWhole && this.segments.length) found.push(this.source.slice(position));
    return found;
  }

  get text() {
    return this.parts().map((part) => (typeof part === "string" ? part : part.segment.text)).join("");
  }
}
