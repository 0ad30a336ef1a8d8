// The list that opens at a word: other words that could stand there, and other sentences. It changes no text itself.

import { request } from "./api.js";
import { make } from "./tour-dom.js";
import { LANGUAGE, say } from "./wording.js";

const NUM_ALTERNATIVES = 8;

export class AlternativesList {
  /** `popup` is an empty element; `languages()` returns {source, target}. */
  constructor(popup, languages) {
    this.popup = popup;
    this.languages = languages;
    this.asked = null;
    this.anchor = null;
    popup.addEventListener("keydown", (event) => this.onKey(event));
    document.addEventListener("pointerdown", (event) => {
      if (!popup.hidden && !popup.contains(event.target) && event.target !== this.anchor) this.close();
    });
    addEventListener("resize", () => this.close());
  }

  /**
   * Open at the element of a word of a segment.
   *
   * onWord(prefix) and onSentence(text) are called with what the reader chooses; onError(error) if nothing can be found.
   */
  async open(anchor, segment, word, { onWord, onSentence, onError }) {
    this.close();
    this.anchor = anchor;
    anchor.setAttribute("aria-expanded", "true");
    this.asked = new AbortController();
    const signal = this.asked.signal;
    const prefix = segment.text.slice(0, word.start);
    this.popup.replaceChildren(make("p", { class: "muted", text: say("loading") }));
    this.popup.hidden = false;
    this.place();
    let found;
    try {
      const body = { text: segment.source, prefix, num_alternatives: NUM_ALTERNATIVES, ...this.languages() };
      found = (await request("/v1/alternatives", body, signal)).alternatives;
    } catch (error) {
      if (error.name === "AbortError") return;
      this.close();
      onError(error);
      return;
    }
    if (signal.aborted) return;
    this.show(found, segment, word, onWord, onSentence);
  }

  show(found, segment, word, onWord, onSentence) {
    const percent = new Intl.NumberFormat(LANGUAGE, { style: "percent", maximumFractionDigits: 1 });
    const options = found.map((each) =>
      this.option(each.word || say("endHere"), percent.format(each.probability), each.word === word.text, () => onWord(each.prefix)),
    );
    const sentences = segment.alternatives.map((text) => this.option(text, "", false, () => onSentence(text)));
    this.popup.replaceChildren(...[group("alternatives", options), group("wholeSentence", sentences)].filter(Boolean));
    if (!options.length && !sentences.length) this.popup.append(make("p", { class: "muted", text: say("noAlternatives") }));
    this.place();
    (this.popup.querySelector("[aria-selected=true]") ?? this.popup.querySelector("[role=option]"))?.focus();
  }

  option(text, note, isCurrent, choose) {
    const act = () => {
      this.close();
      choose();
    };
    return make(
      "div",
      { role: "option", tabIndex: -1, "aria-selected": String(isCurrent), on: { click: act } },
      make("span", { text }),
      note ? make("span", { class: "muted", text: note }) : null,
    );
  }

  onKey(event) {
    const options = [...this.popup.querySelectorAll("[role=option]")];
    const at = options.indexOf(document.activeElement);
    const moves = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: options.length - 1 };
    if (event.key in moves) {
      event.preventDefault();
      options[(moves[event.key] + options.length) % options.length]?.focus();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      options[at]?.click();
    } else if (event.key === "Escape" || event.key === "Tab") {
      if (event.key === "Escape") event.preventDefault();
      this.close(true);
    }
  }

  place() {
    const word = this.anchor.getBoundingClientRect();
    const size = this.popup.getBoundingClientRect();
    const left = Math.max(8, Math.min(word.left, document.documentElement.clientWidth - size.width - 8));
    const below = word.bottom + 6;
    const top = below + size.height > innerHeight && word.top > size.height + 6 ? word.top - size.height - 6 : below;
    this.popup.style.setProperty("left", `${left + scrollX}px`);
    this.popup.style.setProperty("top", `${top + scrollY}px`);
  }

  close(withFocus = false) {
    this.asked?.abort();
    this.popup.hidden = true;
    this.anchor?.removeAttribute("aria-expanded");
    if (withFocus) this.anchor?.focus();
    this.anchor = null;
  }
}

function group(key, options) {
  if (!options.length) return null;
  const id = `group-${key}`;
  return make(
    "div",
    { class: "group" },
    make("p", { id, class: "muted", text: say(key) }),
    make("div", { role: "listbox", "aria-labelledby": id }, options),
  );
}
