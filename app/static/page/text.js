// The view of texts: translates as the reader types, shows segments as they come, and rewrites one of them on demand.

import { AlternativesList } from "./alternatives.js";
import { request, stream } from "./api.js";
import { Places, TranslatedText, words } from "./segments.js";
import { make } from "./tour-dom.js";
import { LANGUAGE, say } from "./wording.js";

const PAUSE_MS = 350;
const DOUBTFUL = 0.4;
/** Estimated probability below which a word is marked. */
const PERCENT = new Intl.NumberFormat(LANGUAGE, { style: "percent" });
const byId = (id) => document.getElementById(id);

export class TextView {
  /** `glossaries()` returns the ids that apply; `tell(message, retry)` and `fail(error, retry)` speak to the reader. */
  constructor({ languages, options, glossaries, tell, fail }) {
    Object.assign(this, { languages, options, glossaries, tell, fail });
    this.source = byId("source");
    this.target = byId("target");
    this.translated = null;
    this.text = "";
    this.asked = null;
    this.timer = 0;
    this.list = new AlternativesList(byId("alternatives"), () => this.languages.actual);
    this.source.addEventListener("input", () => this.soon());
    this.source.addEventListener("scroll", () => this.follow());
    this.target.addEventListener("keydown", (event) => this.onKey(event));
    this.target.addEventListener("click", (event) => this.openAt(event.target));
    byId("clear").addEventListener("click", () => this.write(""));
    byId("copy").addEventListener("click", () => this.copy());
    byId("swap").addEventListener("click", () => this.swap());
    this.refresh();
  }

  /** Put a text into the source's pane and translate it. */
  write(text) {
    this.source.value = text;
    this.source.focus();
    this.now();
  }

  swap() {
    const text = this.text;
    this.languages.swap();
    if (text) this.source.value = text;
    this.now();
  }

  async copy() {
    if (!this.text) return;
    try {
      await navigator.clipboard.writeText(this.text);
      this.tell(say("copied"));
    } catch {
      this.tell(say("notCopied"));
    }
  }

  /** Translate when the reader has paused. */
  soon() {
    clearTimeout(this.timer);
    this.asked?.abort();
    this.refresh();
    if (!this.source.value.trim()) return this.now();
    this.timer = setTimeout(() => this.now(), PAUSE_MS);
  }

  /** Translate at once; what is under way for an older text is given up. */
  async now() {
    clearTimeout(this.timer);
    this.asked?.abort();
    this.list.close();
    const text = this.source.value;
    if (!text.trim()) return this.empty();
    this.asked = new AbortController();
    const { signal } = this.asked;
    this.target.setAttribute("aria-busy", "true");
    this.tell(say("translating"));
    const isPlain = this.options.isPlain;
    const translated = new TranslatedText(text);
    try {
      const body = { texts: [text], ...this.languages.asked, ...this.options.translation(), glossaries: this.glossaries() };
      await stream("/v1/translate", body, signal, (name, data) => {
        if (signal.aborted) return;
        if (name === "segment" && isPlain) {
          translated.put(data.segment, data);
          this.showSegments(translated);
        } else if (name === "translation") this.finish(translated, data, isPlain);
      });
    } catch (error) {
      if (error.name === "AbortError") return;
      this.target.setAttribute("aria-busy", "false");
      this.fail(error, () => this.now());
    }
  }

  finish(translated, reply, isPlain) {
    this.target.setAttribute("aria-busy", "false");
    if (this.languages.note(reply.detected?.language)) return this.now();
    if (isPlain) reply.segments.forEach((segment, number) => translated.put(number, segment));
    translated.isWhole = true;
    // The service has the last word: should the parts not make its text, that is shown, without words to click.
    if (isPlain && translated.text === reply.text) this.showSegments(translated);
    else this.showPlain(reply.text);
    this.showWarnings(reply.warnings);
    this.showHits(reply.glossary_hits);
    this.tell(say(reply.finish_reason === "unchanged" ? "unchanged" : "translated"));
  }

  empty() {
    this.target.setAttribute("aria-busy", "false");
    this.showPlain("");
    this.showWarnings([]);
    this.showHits([]);
    this.tell("");
  }

  showPlain(text) {
    this.translated = null;
    this.text = text;
    this.target.replaceChildren(text);
    this.refresh();
  }

  showSegments(translated) {
    this.translated = translated;
    this.text = translated.text;
    this.target.replaceChildren(
      ...translated.parts().map((part) => (typeof part === "string" ? part : this.segment(part.number, part.segment))),
    );
    this.refresh();
  }

  segment(number, segment) {
    const parts = [];
    let position = 0;
    for (const word of words(segment.text)) {
      parts.push(segment.text.slice(position, word.start));
      const doubt = segment.doubtful.find((each) => each.start < word.end && word.start < each.end);
      const isDoubtful = doubt !== undefined && doubt.quality < DOUBTFUL;
      parts.push(
        make("span", {
          class: isDoubtful ? "word doubtful" : "word",
          role: "button",
          "aria-haspopup": "listbox",
          tabIndex: -1,
          title: isDoubtful ? say("doubtful", { percent: PERCENT.format(doubt.quality) }) : null,
          data: { segment: number, start: word.start, end: word.end },
          text: word.text,
        }),
      );
      position = word.end;
    }
    parts.push(segment.text.slice(position));
    return make("span", { class: "segment", data: { number } }, parts);
  }

  /** Mark a part of the source, given by places in its string; without them, nothing. */
  highlight(start = 0, end = 0) {
    const text = this.source.value;
    const marked = make("mark", { text: text.slice(start, end) });
    byId("mirror").replaceChildren(...(start < end ? [text.slice(0, start), marked, text.slice(end)] : []));
    this.follow();
  }

  /** Keep the marked part under its words where the text is longer than its pane. */
  follow() {
    byId("mirror").scrollTop = this.source.scrollTop;
  }

  refresh() {
    this.highlight();
    const count = [...this.source.value].length;
    byId("count").textContent = count ? say("count", { count: count.toLocaleString(LANGUAGE) }) : "";
    byId("clear").hidden = !this.source.value;
    byId("copy").hidden = !this.text;
    byId("hint").hidden = !this.translated?.segments.length;
    const first = this.target.querySelector(".word");
    if (first) first.tabIndex = 0;
  }

  showWarnings(warnings) {
    const places = new Places(this.source.value);
    byId("warnings").hidden = !warnings.length;
    byId("warnings").replaceChildren(
      ...warnings.map((each) => {
        const show = () => {
          this.source.focus();
          this.source.setSelectionRange(places.of(each.start), places.of(each.end));
        };
        const part = this.options.isPlain ? this.source.value.slice(places.of(each.start), places.of(each.end)) : "";
        const light = () => part && this.highlight(places.of(each.start), places.of(each.end));
        const dim = () => this.highlight();
        return make(
          "li",
          { on: { pointerenter: light, pointerleave: dim, focusin: light, focusout: dim } },
          make("span", { class: "mark", "aria-hidden": "true", text: "!" }),
          make("span", { text: each.message }),
          part ? make("button", { class: "quiet part", text: part, on: { click: show } }) : null,
        );
      }),
    );
  }

  showHits(hits) {
    byId("hits").hidden = !hits.length;
    byId("hits").replaceChildren(
      ...hits.map((each) => {
        const status = say(each.status, { reason: each.reason });
        return make("li", { text: say("hit", { source: each.source, target: each.target, status }) });
      }),
    );
  }

  onKey(event) {
    const all = [...this.target.querySelectorAll(".word")];
    const at = all.indexOf(event.target);
    if (at < 0) return;
    const moves = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 };
    if (event.key in moves) {
      event.preventDefault();
      const next = all[Math.max(0, Math.min(all.length - 1, moves[event.key]))];
      all[at].tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.openAt(event.target);
    }
  }

  openAt(element) {
    if (!element.classList?.contains("word") || this.target.getAttribute("aria-busy") === "true") return;
    const number = Number(element.dataset.segment);
    const translated = this.translated;
    const segment = translated.segments[number];
    const word = { start: Number(element.dataset.start), end: Number(element.dataset.end), text: element.textContent };
    this.list.open(element, segment, word, {
      onWord: (prefix) => this.complete(translated, number, prefix),
      onSentence: (text) => this.rewrite(translated, number, text, 0),
      onError: (error) => this.fail(error, () => this.openAt(element)),
    });
  }

  /** Let the service write the rest of a segment after the reader's beginning. */
  async complete(translated, number, prefix) {
    this.asked?.abort();
    this.asked = new AbortController();
    const { signal } = this.asked;
    const { source } = translated.segments[number];
    const body = { text: source, prefix, ...this.languages.actual, options: this.options.decoding() };
    this.target.setAttribute("aria-busy", "true");
    try {
      const reply = await request("/v1/complete", body, signal);
      if (signal.aborted) return;
      this.rewrite(translated, number, reply.text, prefix.length);
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error, () => this.complete(translated, number, prefix));
    } finally {
      if (!signal.aborted) this.target.setAttribute("aria-busy", "false");
    }
  }

  rewrite(translated, number, text, place) {
    if (this.translated !== translated) return;
    translated.rewrite(number, text);
    this.showSegments(translated);
    this.tell(say("chosen"));
    const own = [...this.target.querySelectorAll(`[data-segment="${number}"]`)];
    const next = own.findLast((each) => Number(each.dataset.start) < place) ?? own[0];
    if (!next) return;
    for (const each of this.target.querySelectorAll(".word")) each.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
}
