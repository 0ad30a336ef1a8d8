// Makes the frame of one station: number, heading, explanation and figures. It knows none of their contents.

import { make } from "./tour-dom.js";

/** The stations in their order; the words of each are found under its name. */
export const STATIONS = ["tokens", "embeddings", "positions", "attention", "decoder", "play", "join"];

/** Return the id of a station's section. */
export function stationId(name) {
  return `tour-${name}`;
}

/** Build one station. */
export function station(name, words, text, contents) {
  const heading = make(
    "h3",
    { id: `${stationId(name)}-title`, tabindex: "-1" },
    make("span", { class: "tour-number", "aria-hidden": "true", text: String(STATIONS.indexOf(name) + 1) }),
    words[name].title,
  );
  return make(
    "section",
    { class: "tour-station", id: stationId(name), data: { station: name }, "aria-labelledby": heading.id },
    heading,
    make("p", { class: "tour-explanation", text }),
    contents,
  );
}

/** Build one figure: a heading, what is shown, and a note below. */
export function figure(title, contents, note = null) {
  const heading = typeof title === "string" ? make("h4", { text: title }) : title;
  const below = note && make("p", { class: "tour-note", text: note });
  return make("div", { class: "tour-figure" }, heading, contents, below);
}

/** Bring a station to the top of the view and its heading into focus. */
export function visit(container, name) {
  const section = container.querySelector(`[data-station="${name}"]`);
  if (!section) return;
  const still = globalThis.matchMedia("(prefers-reduced-motion: reduce)").matches;
  section.scrollIntoView({ behavior: still ? "auto" : "smooth", block: "start" });
  section.querySelector("h3").focus({ preventScroll: true });
}
