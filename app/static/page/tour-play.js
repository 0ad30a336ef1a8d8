// Lets people play with temperature, top-k and top-p and draw translations. It asks through the calls it is given.

import { make, scrollable } from "./tour-dom.js";
import { candidateTable, likelyToken } from "./tour-steps.js";
import { figure, station } from "./tour-station.js";

export const NEUTRAL = { temperature: 1, top_k: 0, top_p: 1 };
const DEBOUNCE_MILLISECONDS = 200;
const MOST_DRAWS = 6;
const BEAM_SIZES = [2, 4, 8];

/**
 * Build station 6.
 *
 * settings: temperature, top_k, top_p; they are kept there. results: what was compared so far; kept there, too.
 * reshape(): called when the settings were changed and rest. translate(options): returns a promise of a reply for
 * other decoding options. open(reply): shows the inside of such a reply. go(step): moves to a step. complaint(error):
 * what to say of an error.
 */
export function playStation(reply, words, { settings, results, step, reshape, translate, open, go, complaint }) {
  let { explanation } = reply;
  let current = step;
  let timer = null;
  const sliders = {
    temperature: slider(words.play.temperature, 0.1, 3, 0.05, settings.temperature, words.short),
    top_k: slider(words.play.topK, 0, 50, 1, settings.top_k, (value) => (value ? words.count(value) : words.play.all)),
    top_p: slider(words.play.topP, 0.05, 1, 0.05, settings.top_p, words.short),
  };
  for (const [name, each] of Object.entries(sliders)) {
    each.input.dataset.setting = name;
    each.input.addEventListener("input", () => {
      settings[name] = each.value();
      changed();
    });
  }
  const reset = make("button", {
    type: "button",
    class: "tour-button",
    text: words.play.reset,
    on: {
      click: () => {
        Object.assign(settings, NEUTRAL);
        for (const [name, each] of Object.entries(sliders)) each.set(NEUTRAL[name]);
        changed();
      },
    },
  });

  function changed() {
    clearTimeout(timer);
    timer = setTimeout(reshape, DEBOUNCE_MILLISECONDS);
  }

  const heading = make("h4", { "aria-live": "polite" });
  const candidates = candidateTable(words, reply.shape.vocab_size);
  const survivors = make("p", { class: "tour-finding" });
  const trouble = make("p", { class: "tour-trouble", role: "alert" });
  const move = (name, sign, by) =>
    make("button", {
      type: "button",
      class: "tour-button",
      "aria-label": words.decoder[name],
      text: sign,
      on: { click: () => go(current + by) },
    });
  const moves = make("div", { class: "tour-controls" }, move("previous", "‹", -1), move("next", "›", 1));

  function showStep() {
    const now = explanation.steps[current];
    const pieces = explanation.target_tokens.slice(0, current).map((token) => token.piece);
    const before = pieces.join("").replaceAll("\u2581", " ").trim();
    heading.textContent = current ? words.play.atStep(current + 1, before) : words.play.atStart;
    candidates.set(now);
    survivors.textContent = `${words.decoder.survivors}: ${words.decoder.ofAll(
      words.count(now.num_survivors),
      words.count(reply.shape.vocab_size),
    )}`;
  }

  const comparison = comparisonView(reply, words, { settings, results, translate, open, complaint });
  showStep();
  const element = station("play", words, words.play.text, [
    make("div", { class: "tour-sliders" }, Object.values(sliders).map((each) => each.element), reset),
    trouble,
    figure(heading, [moves, candidates.element, survivors]),
    figure(words.play.compare, comparison.element, words.play.hint),
  ]);
  return {
    element,
    show(now) {
      current = now;
      showStep();
    },
    refresh(next) {
      explanation = next.explanation;
      trouble.textContent = "";
      showStep();
    },
    fail(error) {
      trouble.textContent = complaint(error);
    },
    forget: () => clearTimeout(timer),
  };
}

function slider(label, min, max, step, value, format) {
  const output = make("output", { text: format(value) });
  const input = make("input", { type: "range", min: String(min), max: String(max), step: String(step) });
  const show = () => {
    const text = format(Number(input.value));
    output.textContent = text;
    input.setAttribute("aria-valuetext", text);
  };
  const set = (next) => {
    input.value = String(next);
    show();
  };
  input.addEventListener("input", show);
  set(value);
  const element = make("label", { class: "tour-slider" }, make("span", { text: label }), output, input);
  return { element, input, set, value: () => Number(input.value) };
}

/** Make the buttons that ask for translations, and the table of what came back. */
function comparisonView(reply, words, { settings, results, translate, open, complaint }) {
  const status = make("p", { class: "tour-note", role: "status", text: results.length ? "" : words.play.none });
  const seed = make("input", { type: "number", min: "0", max: "999999", step: "1" });
  seed.value = String(1 + Math.max(0, ...results.map((each) => each.options.seed ?? 0)));
  const size = make(
    "select",
    {},
    BEAM_SIZES.map((each) => make("option", { value: String(each), text: String(each) })),
  );
  size.value = "4";
  const body = make("tbody");
  const heads = [words.play.method, words.play.translation, words.play.perToken, words.play.column];
  const table = make(
    "table",
    { class: "tour-comparison" },
    make("thead", {}, make("tr", {}, heads.map((text) => make("th", { scope: "col", text })))),
    body,
  );

  async function ask(options) {
    tell(words.busy, false);
    let answer;
    try {
      answer = await translate(options);
    } catch (error) {
      tell(complaint(error), false);
      return;
    }
    if (answer === null) return;
    keep(results, options, answer);
    tell(answer.explanation.target, true);
    show();
  }

  /** Tell what happens; a translation is only read out, as the table shows it. */
  function tell(text, unseen) {
    status.textContent = text;
    status.classList.toggle("tour-hidden", unseen);
  }

  const button = (text, key, call) =>
    make("button", { type: "button", class: "tour-button", text, data: { ask: key }, on: { click: call } });
  const buttons = make(
    "div",
    { class: "tour-asks" },
    button(words.play.greedy, "greedy", () => ask({ beam_size: 1 })),
    make(
      "span",
      { class: "tour-ask" },
      button(words.play.beam, "beam", () => ask({ beam_size: Number(size.value) })),
      make("label", { class: "tour-field" }, `${words.play.beamSize} `, size),
    ),
    make(
      "span",
      { class: "tour-ask" },
      button(words.play.draw, "draw", () => {
        const number = Math.max(0, Math.round(Number(seed.value) || 0));
        seed.value = String(number + 1);
        return ask({ sampling: true, beam_size: 1, ...settings, seed: number });
      }),
      make("label", { class: "tour-field" }, `${words.play.seed} `, seed),
    ),
  );

  function show() {
    const order = ({ options }) => (options.sampling ? 1 : 0);
    body.replaceChildren(
      ...[...results]
        .sort((one, other) => order(one) - order(other))
        .map((result) => resultRow(result, reply.explanation.target, words, open)),
    );
    table.hidden = results.length === 0;
  }

  show();
  return { element: [buttons, status, scrollable(words.play.compare, table)] };
}

/** Keep a result in place of one of the same options; of draws, only the latest are kept. */
function keep(results, options, reply) {
  const key = JSON.stringify(options);
  const place = results.findIndex((each) => each.key === key);
  if (place >= 0) results.splice(place, 1);
  results.push({ key, options, reply });
  const draws = results.filter((each) => each.options.sampling);
  if (draws.length > MOST_DRAWS) results.splice(results.indexOf(draws[0]), 1);
}

function resultRow({ key, options, reply }, shownTarget, words, open) {
  const { steps, target } = reply.explanation;
  const mean = steps.reduce((sum, step) => sum + step.log_prob, 0) / steps.length;
  const [name, detail] = methodName(options, words);
  const inside =
    target === shownTarget
      ? make("span", { class: "tour-badge", text: words.play.shown })
      : make("button", {
          type: "button",
          class: "tour-button",
          "aria-label": words.play.insideOf(name),
          text: words.play.inside,
          on: { click: () => open(reply) },
        });
  return make(
    "tr",
    { data: { result: key } },
    make("th", { scope: "row" }, name, detail && make("span", { class: "tour-detail", text: detail })),
    make(
      "td",
      { lang: reply.target, dir: "auto" },
      make("span", { class: "tour-hidden", text: target }),
      make("span", { class: "tour-likelies", "aria-hidden": "true" }, steps.slice(0, -1).map(shownToken)),
    ),
    make("td", { class: "tour-logit", data: { value: mean }, text: words.short(mean) }),
    make("td", {}, inside),
  );
}

/** Return the name of a way to decode, and its settings where it has some. */
function methodName(options, words) {
  if (options.sampling) {
    const { temperature, top_k: topK, top_p: topP } = options;
    const detail = words.decoder.settings(words.short(temperature), topK || words.play.all, words.short(topP));
    return [words.play.drawn(options.seed), detail];
  }
  return [options.beam_size === 1 ? words.play.greedy : words.play.beamOf(options.beam_size), null];
}

/** Write a token as text with a line whose strength is its probability. */
function shownToken(step, index) {
  const token = likelyToken(step);
  const text = step.chosen.piece.replaceAll("\u2581", " ");
  token.textContent = index ? text : text.trimStart();
  return token;
}
