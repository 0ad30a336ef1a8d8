// The two language pickers: filled from the service, what is detected, and the swap. They translate nothing.

import { call } from "./api.js";
import { make } from "./tour-dom.js";
import { languageName, say } from "./wording.js";

const AUTO = "auto";

export class Languages {
  constructor(source, target, onChange) {
    this.source = source;
    this.target = target;
    this.detected = null;
    this.known = [];
    source.addEventListener("change", () => {
      this.detected = null;
      this.refresh();
      onChange();
    });
    target.addEventListener("change", () => onChange());
  }

  /** Ask the service which languages there are. */
  async load() {
    this.known = (await call("GET", "/v1/languages")).languages;
    const options = () => this.known.map((each) => make("option", { value: each.code, text: languageName(each.code, each.name) }));
    this.source.replaceChildren(make("option", { value: AUTO, text: say("detect") }), ...options());
    this.target.replaceChildren(...options());
    const own = navigator.language.slice(0, 2).toLowerCase();
    this.target.value = this.known.some((each) => each.code === own) ? own : this.known[0]?.code;
  }

  /** What a request is to say: the source's code or null, and the target's. */
  get asked() {
    return { source: this.source.value === AUTO ? null : this.source.value, target: this.target.value };
  }

  /** The same with the detected language in the place of null. */
  get actual() {
    return { source: this.asked.source ?? this.detected, target: this.target.value };
  }

  /**
   * Take note of the language that a text turned out to be in.
   *
   * Returns whether the target had to change, because it was that language.
   */
  note(code) {
    if (this.source.value !== AUTO || !code) return false;
    this.detected = code;
    this.refresh();
    if (code !== this.target.value) return false;
    const other = this.targetsOf(code)[0];
    if (!other) return false;
    this.target.value = other;
    return true;
  }

  /** Change the languages' places; the detected one becomes the chosen one. */
  swap() {
    const { source, target } = this.actual;
    this.source.value = target;
    this.target.value = source && source !== target ? source : this.targetsOf(target)[0];
    this.detected = null;
    this.refresh();
  }

  targetsOf(code) {
    return this.known.find((each) => each.code === code)?.targets ?? [];
  }

  refresh() {
    const [auto] = this.source.options;
    if (!auto) return;
    auto.textContent = this.detected ? say("detected", { language: languageName(this.detected) }) : say("detect");
  }
}
