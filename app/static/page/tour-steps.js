// Shows the decoder step by step: what it has, what could come next, where it looks. It asks for nothing.

import { choices, hidden, make, rove, scrollable, setVariables } from "./tour-dom.js";
import { heatTable, legend, shade, shadedTokens } from "./tour-heat.js";
import { strongest } from "./tour-attention.js";
import { figure, station } from "./tour-station.js";

const PLAY_MILLISECONDS = 1400;
const MEAN = "mean";

/** Make the table of candidates; `set` shows a step. */
export function candidateTable(words, vocabularySize) {
  const body = make("tbody");
  const rest = make("p", { class: "tour-note" });
  const heads = ["candidate", "logit", "probability", "reshaped"].map((name) =>
    make("th", { scope: "col", class: `tour-${name}`, text: words.decoder[name] }),
  );
  const table = make("table", { class: "tour-candidates" }, make("thead", {}, make("tr", {}, heads)), body);
  const bar = (value, text, kind) =>
    make(
      "td",
      { class: `tour-${kind}`, data: { value } },
      make("span", { class: "tour-bar", vars: { p: value } }, make("span", { class: "tour-bar-text", text })),
    );
  return {
    element: scrollable(words.decoder.candidates, table),
    rest,
    set(step) {
      body.replaceChildren(
        ...step.candidates.map((candidate) => {
          const chosen = candidate.id === step.chosen.id;
          const row = make(
            "tr",
            { data: { id: candidate.id } },
            make(
              "th",
              { scope: "row" },
              make("span", { class: "tour-piece", text: candidate.piece }),
              chosen ? make("span", { class: "tour-badge", text: words.decoder.chosen }) : null,
            ),
            make("td", { class: "tour-logit", data: { value: candidate.logit }, text: words.short(candidate.logit) }),
            bar(candidate.probability, words.percent(candidate.probability), "probability"),
            bar(
              candidate.reshaped,
              candidate.survives ? words.percent(candidate.reshaped) : words.decoder.out,
              "reshaped",
            ),
          );
          row.classList.toggle("is-chosen", chosen);
          row.classList.toggle("is-out", !candidate.survives);
          return row;
        }),
      );
      const left = (kind) => Math.max(0, 1 - step.candidates.reduce((sum, candidate) => sum + candidate[kind], 0));
      rest.textContent = words.decoder.rest(
        words.count(vocabularySize - step.candidates.length),
        words.rough(left("probability")),
        words.rough(left("reshaped")),
      );
    },
  };
}

/** Make a piece of a list for one step: a token with its probability as a shade below it. */
export function likelyToken(step, name = "span") {
  const strength = shade(step.probability);
  return make(name, { class: "tour-likely", vars: { w: strength.toFixed(3) }, text: step.chosen.piece });
}

/** Return the mean over heads of weights (H, S), or the weights of one head. */
export function headWeights(heads, head) {
  if (head !== MEAN) return heads[head];
  return heads[0].map((_, i) => heads.reduce((sum, weights) => sum + weights[i], 0) / heads.length);
}

/**
 * Build station 5.
 *
 * chosen: step, and layer and head of both attentions; it is kept there. moved(step): called when the step changes.
 * Returns the element, `show(step)`, `refresh(reply)` for new candidates of the same tokens, and `forget`.
 */
export function stepStation(reply, words, chosen, moved) {
  let { explanation } = reply;
  const count = explanation.steps.length;
  chosen.step = Math.min(chosen.step, count - 1);
  const names = explanation.source_tokens.map((token) => token.piece);
  const controls = stepControls(count, words, (step) => go(step));
  const strip = stepStrip(explanation, words, (step) => go(step));
  const soFar = make("ol", { class: "tour-chips tour-so-far", "aria-label": words.decoder.inputs });
  const candidates = candidateTable(words, reply.shape.vocab_size);
  const facts = make("dl", { class: "tour-facts" });
  const cross = attentionView(words.decoder.cross, words, chosen.cross, explanation.steps[0].cross_attention, () =>
    showAttention(),
  );
  const own = attentionView(words.decoder.self, words, chosen.own, explanation.steps[0].self_attention, () =>
    showAttention(),
  );
  const alignment = alignmentTable(explanation, names, words, (step) => go(step));

  function showAttention() {
    const step = explanation.steps[chosen.step];
    const inputs = explanation.steps.slice(0, chosen.step + 1).map((each) => each.input.piece);
    cross.set(names, headWeights(step.cross_attention[chosen.cross.layer], chosen.cross.head));
    own.set(inputs, headWeights(step.self_attention[chosen.own.layer], chosen.own.head));
    alignment.set(
      explanation.steps.map((each) => headWeights(each.cross_attention[chosen.cross.layer], chosen.cross.head)),
    );
    alignment.mark(chosen.step);
  }

  function showStep() {
    const step = explanation.steps[chosen.step];
    const inputs = explanation.steps.slice(0, chosen.step + 1).map((each) => each.input);
    soFar.replaceChildren(
      ...inputs.map((token) => make("li", {}, plainChip(token))),
      make(
        "li",
        { class: "tour-next" },
        make("span", { class: "tour-arrow", "aria-hidden": "true", text: "→" }),
        plainChip(step.chosen, "is-chosen"),
        make("span", { class: "tour-badge", text: words.decoder.chooses }),
      ),
    );
    controls.set(chosen.step);
    strip.set(chosen.step);
    candidates.set(step);
    const total = explanation.steps.slice(0, chosen.step + 1).reduce((sum, each) => sum + each.log_prob, 0);
    facts.replaceChildren(
      ...fact(words.decoder.chosenProbability, words.percent(step.probability), "probability", step.probability),
      ...fact(
        words.decoder.entropy,
        words.decoder.bits(words.short(step.entropy), words.count(Math.round(2 ** step.entropy))),
        "entropy",
        step.entropy,
      ),
      ...fact(
        words.decoder.survivors,
        words.decoder.ofAll(words.count(step.num_survivors), words.count(reply.shape.vocab_size)),
        "survivors",
        step.num_survivors,
      ),
      ...fact(words.decoder.total, words.short(total), "total", total),
    );
  }

  function go(step) {
    chosen.step = Math.max(0, Math.min(count - 1, step));
    showStep();
    showAttention();
    moved(chosen.step);
  }

  showStep();
  showAttention();
  const element = station("decoder", words, words.decoder.text, [
    controls.element,
    figure(words.decoder.whole, strip.element),
    figure(words.decoder.inputs, soFar),
    make(
      "div",
      { class: "tour-pair tour-wide-left" },
      figure(words.decoder.candidates, [candidates.element, candidates.rest]),
      figure(words.decoder.facts, facts),
    ),
    cross.element,
    own.element,
    figure(words.decoder.alignment, [alignment.element, legend(words.weight)]),
  ]);
  return {
    element,
    go,
    refresh(next) {
      explanation = next.explanation;
      showStep();
    },
    forget: () => controls.stop(),
  };
}

function fact(name, text, key, value) {
  return [make("dt", { text: name }), make("dd", { text, data: { fact: key, value } })];
}

function plainChip(token, extra = "") {
  const chip = make("span", { class: `tour-chip ${extra}` }, make("span", { class: "tour-piece", text: token.piece }));
  chip.classList.toggle("is-special", token.special);
  return chip;
}

/** Make slider and buttons; playing goes on to the last step and stops there. */
function stepControls(count, words, go) {
  let step = 0;
  let timer = null;
  const position = make("output", { class: "tour-step-of", "aria-live": "polite" });
  const slider = make("input", {
    type: "range",
    min: "0",
    max: String(count - 1),
    "aria-label": words.decoder.step,
    on: {
      input: () => {
        stop();
        go(Number(slider.value));
      },
    },
  });
  const button = (name, sign, call) =>
    make("button", {
      type: "button",
      class: "tour-button",
      "aria-label": words.decoder[name],
      title: words.decoder[name],
      text: sign,
      data: { step: name },
      on: { click: call },
    });
  const move = (where) => () => {
    stop();
    go(where());
  };
  const play = button("play", "", () => (timer === null ? start() : stop()));
  const first = button("first", "«", move(() => 0));
  const previous = button("previous", "‹", move(() => step - 1));
  const next = button("next", "›", move(() => step + 1));
  const last = button("last", "»", move(() => count - 1));

  function start() {
    if (step === count - 1) go(0);
    showPlaying(true);
    const tick = () => {
      go(step + 1);
      timer = step < count - 1 ? setTimeout(tick, PLAY_MILLISECONDS) : null;
      if (timer === null) showPlaying(false);
    };
    timer = setTimeout(tick, PLAY_MILLISECONDS / 2);
  }

  function stop() {
    if (timer !== null) clearTimeout(timer);
    timer = null;
    showPlaying(false);
  }

  function showPlaying(playing) {
    const name = playing ? words.decoder.pause : words.decoder.play;
    play.textContent = playing ? "⏸\ufe0e" : "▶\ufe0e";
    play.setAttribute("aria-label", name);
    play.title = name;
  }

  showPlaying(false);
  return {
    element: make("div", { class: "tour-controls" }, first, previous, play, next, last, slider, position),
    stop,
    set(now) {
      step = now;
      slider.value = String(now);
      slider.setAttribute("aria-valuetext", words.decoder.stepOf(now + 1, count));
      position.textContent = words.decoder.stepOf(now + 1, count);
    },
  };
}

/** Make the row of all chosen tokens, each a button that leads to its step. */
function stepStrip(explanation, words, go) {
  const buttons = explanation.steps.map((step, i) => {
    const button = make(
      "button",
      {
        type: "button",
        class: "tour-step",
        tabindex: "-1",
        on: { click: () => go(i) },
      },
      hidden(words.decoder.stepNumber(i + 1)),
      likelyToken(step),
      make("span", { class: "tour-weight", text: words.rough(step.probability) }),
    );
    setVariables(button, { w: shade(step.probability).toFixed(3) });
    return button;
  });
  const element = make("div", { class: "tour-strip", role: "group", "aria-label": words.decoder.whole }, buttons);
  rove(element, () => buttons);
  return {
    element,
    set(now) {
      buttons.forEach((button, i) => {
        button.classList.toggle("is-later", i > now);
        if (i === now) button.setAttribute("aria-current", "step");
        else button.removeAttribute("aria-current");
      });
    },
  };
}

/** Make tokens shaded by one attention of the current step, with pickers of layer and head. */
function attentionView(title, words, chosen, layers, changed) {
  chosen.layer = chosen.layer === null ? layers.length - 1 : Math.min(chosen.layer, layers.length - 1);
  const tokens = shadedTokens(title, words.weight);
  const note = make("p", { class: "tour-finding" });
  const layer = choices(
    words.layer,
    layers.map((_, i) => ({ value: i, label: String(i + 1), name: words.layerNumber(i + 1) })),
    chosen.layer,
    (value) => {
      chosen.layer = value;
      changed();
    },
  );
  const heads = layers[0].map((_, i) => ({ value: i, label: String(i + 1), name: words.headNumber(i + 1) }));
  const head = choices(
    words.head,
    [{ value: MEAN, label: words.mean, name: words.meanSpoken }, ...heads],
    chosen.head,
    (value) => {
      chosen.head = value;
      changed();
    },
  );
  return {
    element: figure(title, [make("div", { class: "tour-pickers" }, layer.element, head.element), tokens.element, note]),
    set(names, weights) {
      tokens.set(names, weights);
      note.textContent = words.decoder.strongest(strongest(weights, names, words));
    },
  };
}

function alignmentTable(explanation, names, words, go) {
  const chosen = explanation.steps.map((step) => step.chosen.piece);
  return heatTable({
    hint: words.cellHint,
    label: words.decoder.alignment,
    corner: words.decoder.alignmentCorner,
    rows: chosen,
    columns: names,
    signed: false,
    numbers: names.length <= 24,
    cellText: words.weight,
    describe: (i, j, value) => words.decoder.cell(chosen[i], names[j], words.exact(value)),
    choose: go,
  });
}
