// Shows the network as boxes with its own numbers, each a link to its station. It draws no data.

import { make } from "./tour-dom.js";
import { STATIONS, stationId } from "./tour-station.js";

/** Build the map; `visit(name)` brings a station into view. */
export function networkMap(shape, words, visit) {
  const { map } = words;
  const count = words.count;
  const box = (station, title, detail, extra = "") =>
    make(
      "a",
      { class: `tour-box ${extra}`, href: `#${stationId(station)}`, on: { click: follow(station, visit) } },
      make("strong", { text: title }),
      make("span", { text: detail }),
    );
  const heads = map.heads(count(shape.num_heads));
  const widths = map.widths(count(shape.d_model), count(shape.d_ff));
  const stack = (station, name, layers, boxes) =>
    make(
      "div",
      { class: "tour-stack" },
      make(
        "p",
        { class: "tour-stack-title" },
        make("strong", { text: name }),
        ` × ${count(layers)}`,
        make("span", { class: "tour-hidden", text: ` (${map.layers(count(layers))})` }),
      ),
      boxes,
    );
  const arrow = () => make("span", { class: "tour-arrow", "aria-hidden": "true" });
  const encoder = stack("attention", map.encoder, shape.num_encoder_layers, [
    box("attention", map.selfAttention, heads),
    box("attention", map.feedForward, widths, "is-quiet"),
  ]);
  const decoder = stack("decoder", map.decoder, shape.num_decoder_layers, [
    box("decoder", map.maskedAttention, map.soFar),
    box("decoder", map.crossAttention, map.toSource, "is-cross"),
    box("decoder", map.feedForward, widths, "is-quiet"),
  ]);
  const column = (...boxes) => make("div", { class: "tour-column" }, boxes);
  return make(
    "nav",
    { class: "tour-map", "aria-label": words.mapTitle },
    make("h3", { text: words.mapTitle }),
    make("p", { class: "tour-note", text: words.mapLead }),
    make(
      "div",
      { class: "tour-flow" },
      column(
        box("tokens", map.tokens, map.vocabulary(count(shape.vocab_size))),
        box("embeddings", map.embeddings, map.vector(count(shape.d_model))),
        box("positions", map.positions, map.added),
      ),
      arrow(),
      encoder,
      arrow(),
      decoder,
      arrow(),
      column(
        box("decoder", map.softmax, map.over(count(shape.vocab_size))),
        box("play", map.choice, `↺ ${map.back}`),
        box("join", map.join, map.joined),
      ),
    ),
  );
}

/** Build the list of stations that stays in view. */
export function stationList(words, visit) {
  const links = STATIONS.map((name, i) =>
    make(
      "li",
      {},
      make(
        "a",
        { href: `#${stationId(name)}`, data: { to: name }, on: { click: follow(name, visit) } },
        make("span", { class: "tour-number", "aria-hidden": "true", text: String(i + 1) }),
        make("span", { text: words[name].title }),
      ),
    ),
  );
  const element = make("nav", { class: "tour-stations", "aria-label": words.stations }, make("ol", {}, links));
  return {
    element,
    mark(name) {
      for (const link of element.querySelectorAll("a")) {
        if (link.dataset.to !== name) link.removeAttribute("aria-current");
        else {
          link.setAttribute("aria-current", "true");
          element.scrollLeft = link.offsetLeft - (element.clientWidth - link.offsetWidth) / 2;
        }
      }
    },
  };
}

function follow(name, visit) {
  return (event) => {
    event.preventDefault(); // the address belongs to the page around
    visit(name);
  };
}
