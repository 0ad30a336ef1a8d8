// The tour of the network on one sentence: asks for its explanation and shows the stations. It draws no figure itself.

import { attentionStation } from "./tour-attention.js";
import { make } from "./tour-dom.js";
import { networkMap, stationList } from "./tour-map.js";
import { NEUTRAL, playStation } from "./tour-play.js";
import { STATIONS, visit } from "./tour-station.js";
import { stepStation } from "./tour-steps.js";
import { exampleSentence, pageLanguage, wording } from "./tour-text.js";
import { joinStation, tokenStation } from "./tour-tokens.js";
import { embeddingStation, positionStation } from "./tour-vectors.js";

const PATH = "/v1/explain";
const NUM_DIMENSIONS = 32;
const NUM_CANDIDATES = 8;
const AUTO = "auto";
const STYLE_SHEETS = ["tour.css", "tour-controls.css", "tour-map.css", "tour-figures.css", "tour-steps.css"];

const tours = new WeakMap();

/**
 * Show the tour in an element, in place of what is there.
 *
 * text: the reader's text, of which the first sentence is shown; translation: its translation or null; source: code of
 * its language, null or "auto"; target: code of the translation's language; model: a model's name or null.
 * request(path, body, signal): returns a promise of the reply, or throws an error with `problem` (RFC 9457).
 * Returns an object whose `close` ends all requests and empties the element. A tour of the same text that is open
 * already stays as it is.
 */
export function openTour(container, options) {
  const before = tours.get(container);
  if (before?.shows(options)) return before;
  before?.close();
  const tour = new Tour(container, options);
  tours.set(container, tour);
  tour.start();
  return tour;
}

/** Cut a text into sentences; an ending as short as an abbreviation stays with what follows. */
export function sentences(text, language) {
  if (!text.trim()) return [];
  const lines = text.split(/\n+/).filter((line) => line.trim());
  if (!globalThis.Intl?.Segmenter) return lines.map((line) => line.trim());
  const segmenter = new Intl.Segmenter(language || undefined, { granularity: "sentence" });
  return lines.flatMap((line) => {
    const found = [];
    for (const { segment } of segmenter.segment(line)) {
      const before = found.at(-1);
      if (before && /(^|\s)\p{Lu}?\p{L}{0,2}\.\s*$/u.test(before)) found[found.length - 1] += segment;
      else found.push(segment);
    }
    return found.map((each) => each.trim()).filter(Boolean);
  });
}

class Tour {
  constructor(container, { text, translation = null, source = null, target, model = null, request }) {
    this.container = container;
    this.request = request;
    this.given = JSON.stringify([text, translation, source, target, model]);
    this.source = source || AUTO;
    this.target = target;
    this.model = model;
    this.sentences = sentences(text ?? "", this.source === AUTO ? null : this.source);
    this.text = this.sentences[0] ?? exampleSentence(this.source, target);
    this.translation = this.sentences.length === 1 ? translation || null : null;
    this.settings = { ...NEUTRAL };
    this.results = [];
    this.attention = { layer: null, head: null, token: 1 };
    this.steps = { step: 0, cross: { layer: null, head: "mean" }, own: { layer: null, head: "mean" } };
    this.reply = null;
    this.parts = [];
    this.settingsOf = new WeakMap(); // what each reply was asked with
    this.asked = { explain: null, reshape: null, translate: null };
    this.repaint = () => this.parts.forEach((part) => part.repaint?.());
  }

  /** Say whether this tour was opened with the same, and is not empty because of an error. */
  shows({ text, translation = null, source = null, target, model = null }) {
    return this.reply !== null && this.given === JSON.stringify([text, translation, source, target, model]);
  }

  start() {
    ensureStyle().then(() => this.repaint());
    this.theme = globalThis.matchMedia("(prefers-color-scheme: dark)");
    this.theme.addEventListener("change", this.repaint);
    this.watcher = new MutationObserver((changes) => {
      if (changes.some((change) => change.attributeName === "lang")) this.build();
      else this.repaint();
    });
    this.watcher.observe(document.documentElement, { attributes: true });
    this.build();
    this.explain();
  }

  close() {
    for (const controller of Object.values(this.asked)) controller?.abort();
    this.forget();
    this.theme?.removeEventListener("change", this.repaint);
    this.watcher?.disconnect();
    this.container.replaceChildren();
    if (tours.get(this.container) === this) tours.delete(this.container);
  }

  /** Build everything in the page's language. */
  build() {
    this.words = wording(pageLanguage());
    const { words } = this;
    const text = this.field?.value ?? this.text; // what was typed stays when the page's language changes
    this.field = make("textarea", { id: "tour-text", rows: "2", dir: "auto", value: text, spellcheck: "false" });
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.submit();
      }
    });
    this.direction = make("span", { class: "tour-direction" });
    this.swapButton = make("button", {
      type: "button",
      class: "tour-button",
      text: "⇄",
      "aria-label": words.swap,
      title: words.swap,
      on: { click: () => this.swap() },
    });
    this.status = make("p", { class: "tour-status", role: "status" });
    this.alert = make("div", { class: "tour-alert", role: "alert", id: "tour-alert" });
    this.alert.hidden = true;
    this.body = make("div", { class: "tour-body" });
    const submit = (event) => {
      event.preventDefault();
      this.submit();
    };
    const form = make(
      "form",
      { class: "tour-form", on: { submit } },
      this.sentencePicker(),
      make("label", { for: "tour-text", text: words.sentence }),
      this.field,
      make(
        "div",
        { class: "tour-form-row" },
        make("button", { type: "submit", class: "tour-button is-main", text: words.look }),
        this.direction,
        this.swapButton,
      ),
      this.alert,
      this.status,
    );
    this.root = make(
      "div",
      { class: "tour", lang: words.language },
      make("h2", { text: words.title }),
      make("p", { class: "tour-lead", text: words.lead }),
      form,
      this.body,
    );
    this.container.replaceChildren(this.root);
    this.showDirection();
    if (this.reply) this.show();
  }

  sentencePicker() {
    if (this.sentences.length < 2) return null;
    const select = make(
      "select",
      {
        on: {
          change: () => {
            this.field.value = this.sentences[Number(select.value)];
            this.submit();
          },
        },
      },
      this.sentences.map((sentence, i) => make("option", { value: String(i), text: shortened(sentence) })),
    );
    return make("label", { class: "tour-field tour-sentences" }, `${this.words.otherSentences} `, select);
  }

  /** Return the language of the text, null if it is not known before the service has detected it. */
  knownSource() {
    return this.reply?.source ?? (this.source === AUTO ? null : this.source);
  }

  showDirection() {
    const code = this.knownSource();
    this.swapButton.disabled = code === null;
    const name = code ? this.words.languageName(code) : this.words.anyLanguage;
    this.direction.textContent = this.words.direction(name, this.words.languageName(this.target));
  }

  submit() {
    this.text = this.field.value.trim() || exampleSentence(this.source, this.target);
    this.field.value = this.text;
    this.translation = null;
    this.explain();
  }

  /** Translate the other way round; what is shown of the translation becomes the text. */
  swap() {
    const source = this.knownSource();
    const text = this.reply?.explanation.target;
    [this.source, this.target] = [this.target, source];
    this.sentences = [];
    if (text) this.field.value = text;
    this.container.querySelector(".tour-sentences")?.remove();
    this.reply = null;
    this.forget();
    this.body.replaceChildren();
    this.submit();
  }

  /** Ask for something, ending what was asked before for the same purpose; null if this is ended itself. */
  async ask(purpose, fields) {
    this.asked[purpose]?.abort();
    const controller = new AbortController();
    this.asked[purpose] = controller;
    const settings = { ...this.settings };
    const body = {
      text: this.reply?.explanation.source,
      translation: null,
      source: this.reply?.source,
      target: this.target,
      ...settings,
      num_candidates: NUM_CANDIDATES,
      num_dimensions: NUM_DIMENSIONS,
      ...fields,
    };
    if (this.model) body.model = this.model;
    try {
      const reply = await this.request(PATH, body, controller.signal);
      if (controller.signal.aborted) return null;
      this.settingsOf.set(reply, settings);
      return reply;
    } catch (error) {
      if (controller.signal.aborted || error.name === "AbortError") return null;
      throw error;
    }
  }

  /** Ask for the explanation of the text and show it. */
  async explain() {
    this.busy(true);
    let reply;
    try {
      const { text, translation, source } = this;
      reply = await this.ask("explain", { text, translation, source });
    } catch (error) {
      this.busy(false);
      this.fail(error);
      return;
    }
    if (reply === null) return;
    for (const purpose of ["reshape", "translate"]) this.asked[purpose]?.abort();
    this.reply = reply;
    this.results = [];
    this.steps.step = 0;
    this.attention.token = 1;
    this.busy(false);
    this.fail(null);
    this.showDirection();
    this.show();
    this.status.textContent = this.words.ready(this.words.count(reply.explanation.source_tokens.length));
  }

  /** Ask for the same tokens with the settings of now, and show only what they change. */
  async reshape() {
    let reply;
    try {
      reply = await this.ask("reshape", { translation: this.reply.explanation.target });
    } catch (error) {
      for (const part of this.parts) part.fail?.(error);
      return;
    }
    if (reply === null) return;
    const ids = ({ explanation }) => explanation.target_tokens.map((token) => token.id).join();
    const same = ids(reply) === ids(this.reply);
    this.reply = reply;
    if (same) for (const part of this.parts) part.refresh?.(reply);
    else this.showAgain();
  }

  busy(now) {
    this.root.setAttribute("aria-busy", String(now));
    this.status.textContent = now ? this.words.busy : "";
  }

  /** Show what went wrong, or that nothing does. */
  fail(error) {
    this.alert.hidden = error === null;
    this.field.removeAttribute("aria-invalid");
    this.field.removeAttribute("aria-describedby");
    if (error === null) {
      this.alert.replaceChildren();
      return;
    }
    this.alert.replaceChildren(
      make("strong", { text: this.words.failed }),
      make("p", { text: this.complaint(error.problem) }),
    );
    this.field.setAttribute("aria-invalid", "true");
    this.field.setAttribute("aria-describedby", "tour-alert");
  }

  /** Say a problem in the reader's words, as far as the tour knows it. */
  complaint(problem) {
    const { words } = this;
    if (!problem) return words.unreachable;
    const limit = /at most (\d+) tokens/.exec(problem.detail);
    if (limit) return words.tooLong(limit[1]);
    if (/must be another language/.test(problem.detail)) return words.sameLanguage(words.languageName(this.target));
    return problem.detail || problem.title;
  }

  forget() {
    for (const part of this.parts) part.forget?.();
    this.parts = [];
    this.spy?.disconnect();
  }

  /** Show the stations of the reply. */
  show() {
    this.forget();
    const { reply, words } = this;
    const go = (name) => visit(this.container, name);
    const list = stationList(words, go);
    const steps = stepStation(reply, words, this.steps, (step) => play.show(step));
    const play = playStation(reply, words, {
      settings: this.settings,
      results: this.results,
      step: this.steps.step,
      reshape: () => this.reshape(),
      translate: (options) => this.ask("translate", { options }),
      open: (other) => this.openReply(other),
      go: (step) => steps.go(step),
      complaint: (error) => this.complaint(error.problem),
    });
    this.parts = [
      { element: tokenStation(reply, words) },
      embeddingStation(reply, words),
      { element: positionStation(reply, words) },
      attentionStation(reply, words, this.attention),
      steps,
      play,
      { element: joinStation(reply, words) },
    ];
    this.body.replaceChildren(
      this.sentencePair(),
      networkMap(reply.shape, words, go),
      list.element,
      ...this.parts.map((part) => part.element),
    );
    this.repaint();
    this.follow(list);
  }

  /** Show other tokens of the same text, and leave the focus on the slider that led to them. */
  showAgain() {
    const { setting } = document.activeElement.dataset;
    this.show();
    if (setting) this.body.querySelector(`[data-setting="${setting}"]`).focus({ preventScroll: true });
  }

  /** Say which sentence and translation the figures below belong to. */
  sentencePair() {
    const { explanation, source, target } = this.reply;
    return make(
      "p",
      { class: "tour-sentence-pair" },
      make("span", { lang: source, dir: "auto", text: explanation.source }),
      make("span", { class: "tour-arrow", "aria-hidden": "true", text: " → " }),
      make("strong", { lang: target, dir: "auto", text: explanation.target }),
    );
  }

  /** Show the inside of another translation of the same text. */
  openReply(reply) {
    this.reply = reply;
    this.steps.step = 0;
    this.show();
    visit(this.container, "decoder");
    const asked = this.settingsOf.get(reply);
    if (Object.keys(NEUTRAL).some((name) => asked[name] !== this.settings[name])) this.reshape();
  }

  /** Mark the station that is in view. */
  follow(list) {
    const seen = new Set();
    this.spy = new IntersectionObserver(
      (entries) => {
        for (const { target, isIntersecting } of entries) {
          if (isIntersecting) seen.add(target.dataset.station);
          else seen.delete(target.dataset.station);
        }
        list.mark(STATIONS.find((name) => seen.has(name)) ?? null);
      },
      { rootMargin: "-25% 0px -60% 0px" },
    );
    for (const part of this.parts) this.spy.observe(part.element);
  }
}

function shortened(text) {
  const letters = Array.from(text);
  return letters.length > 60 ? `${letters.slice(0, 59).join("")}…` : text;
}

/** Load the tour's style sheets once, from beside this file; the pictures are drawn again when they are there. */
function ensureStyle() {
  const waits = STYLE_SHEETS.map((name) => {
    const address = new URL(name, import.meta.url).href;
    const links = [...document.querySelectorAll('link[rel="stylesheet"]')];
    const there = links.some((link) => link.href.startsWith(address));
    if (there) return null;
    const link = make("link", { rel: "stylesheet", href: address });
    document.head.append(link);
    return new Promise((resolve) => {
      link.addEventListener("load", resolve, { once: true });
      link.addEventListener("error", resolve, { once: true });
    });
  });
  return Promise.all(waits);
}
