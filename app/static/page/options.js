// The form of options: how texts are read and decoded. It returns what a request needs of it.

import { make } from "./tour-dom.js";
import { say } from "./wording.js";

const FORMATS = ["text", "html", "xml", "markdown"];
const NUM_HYPOTHESES = 3;

export class Options {
  constructor(form, onChange) {
    this.form = form;
    this.format = make("select", { id: "format" }, FORMATS.map((each) => make("option", { value: each, text: each === "text" ? say("plain") : each })));
    this.guard = make("input", { type: "checkbox", id: "guard", checked: true });
    this.quality = make("input", { type: "checkbox", id: "quality" });
    this.beam = number("beam", 4, 1, 32, 1);
    this.sampling = make("input", { type: "checkbox", id: "sampling" });
    this.temperature = number("temperature", 1, 0.05, 5, 0.05);
    this.topK = number("topK", 0, 0, 1000, 1);
    this.topP = number("topP", 1, 0.05, 1, 0.05);
    this.protect = make("input", { type: "text", id: "protect", autocomplete: "off" });
    form.append(
      field("format", this.format),
      field("beam", this.beam),
      ticked("guard", this.guard),
      ticked("quality", this.quality),
      ticked("sampling", this.sampling),
      field("temperature", this.temperature),
      field("topK", this.topK),
      field("topP", this.topP),
      field("protect", this.protect, "whole"),
    );
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => {
      this.refresh();
      onChange();
    });
    this.refresh();
  }

  refresh() {
    this.beam.disabled = this.sampling.checked;
    for (const each of [this.temperature, this.topK, this.topP]) each.disabled = !this.sampling.checked;
  }

  /** Whether segments lie in the text as they are, so that their words can be clicked. */
  get isPlain() {
    return this.format.value === "text";
  }

  /** What /v1/translate is asked for, besides text and languages. */
  translation() {
    const literals = this.protect.value.split(",").map((each) => each.trim()).filter(Boolean);
    return {
      format: this.format.value,
      guard: this.guard.checked,
      return_quality: this.quality.checked,
      protect: { literals },
      options: this.decoding(),
    };
  }

  /** How to decode. Values that are out of range are the service's to refuse. */
  decoding() {
    if (this.sampling.checked) {
      return { sampling: true, beam_size: 1, temperature: value(this.temperature), top_k: value(this.topK), top_p: value(this.topP) };
    }
    const beam = value(this.beam);
    return { beam_size: beam, num_hypotheses: Math.max(1, Math.min(NUM_HYPOTHESES, beam)) };
  }
}

function value(input) {
  return Number.isFinite(input.valueAsNumber) ? input.valueAsNumber : Number(input.defaultValue);
}

function number(id, start, min, max, step) {
  const input = make("input", { type: "number", id, min, max, step, inputmode: "decimal" });
  input.defaultValue = String(start);
  return input;
}

function field(key, input, kind = "") {
  return make("label", { class: `field ${kind}` }, make("span", { text: say(key) }), input);
}

function ticked(key, input) {
  return make("label", { class: "ticked" }, input, make("span", { text: say(key) }));
}
