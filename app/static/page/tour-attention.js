// Shows the encoder's self-attention: all heads small, one head large as lines and as a table. It asks for nothing.

import { choices, make, rove } from "./tour-dom.js";
import { heatTable, legend, lineView, thumbnail } from "./tour-heat.js";
import { figure, station } from "./tour-station.js";

/**
 * Say what a head mostly looks at.
 *
 * Returns the name of the pattern with the largest mean weight, if that is at least 0.4, and the weight; otherwise
 * "spread" with the mean number of tokens that are looked at (two to the power of the rows' entropy).
 */
export function headPattern(matrix) {
  const count = matrix.length;
  const mean = (rows, column) => {
    const weights = rows.map((i) => matrix[i][column(i)]);
    return weights.length ? weights.reduce((sum, weight) => sum + weight, 0) / weights.length : 0;
  };
  const rows = Array.from({ length: count }, (_, i) => i);
  const shares = {
    self: mean(rows, (i) => i),
    previous: mean(rows.slice(1), (i) => i - 1),
    next: mean(rows.slice(0, -1), (i) => i + 1),
    first: mean(rows, () => 0),
    last: mean(rows, () => count - 1),
  };
  const [name, share] = Object.entries(shares).sort((one, other) => other[1] - one[1])[0];
  if (share >= 0.4) return { name, amount: share };
  const breadths = matrix.map((row) => {
    const bits = row.reduce((sum, weight) => (weight > 0 ? sum - weight * Math.log2(weight) : sum), 0);
    return 2 ** bits;
  });
  return { name: "spread", amount: breadths.reduce((sum, breadth) => sum + breadth, 0) / count };
}

/** Return the largest weights of a row as text. */
export function strongest(weights, names, words, most = 3) {
  return weights
    .map((weight, i) => [weight, i])
    .sort((one, other) => other[0] - one[0])
    .slice(0, most)
    .filter(([weight]) => weight >= 0.05)
    .map(([weight, i]) => `${names[i]} ${words.rough(weight)}`)
    .join(", ");
}

/** Return layer and head of the one that looks at most tokens at a time: the most interesting one to start with. */
function leastObvious(weights) {
  const all = weights.flatMap((heads, layer) => heads.map((matrix, head) => ({ layer, head, ...headPattern(matrix) })));
  const rank = ({ name, amount }) => (name === "spread" ? amount : 1 - amount);
  return all.reduce((best, each) => (rank(each) > rank(best) ? each : best));
}

/** Build station 4. `chosen` has layer (null: the tour chooses a head), head and token, and keeps them. */
export function attentionStation(reply, words, chosen) {
  const { explanation, shape } = reply;
  const weights = explanation.encoder_attention;
  const names = explanation.source_tokens.map((token) => token.piece);
  if (!weights[chosen.layer ?? -1]?.[chosen.head]) ({ layer: chosen.layer, head: chosen.head } = leastObvious(weights));
  chosen.token = Math.min(chosen.token, names.length - 1);

  const phrase = (layer, head) => {
    const { name, amount } = headPattern(weights[layer][head]);
    const text = name === "spread" ? words.count(Math.round(amount)) : words.rough(amount);
    return words.attention.pattern(layer + 1, head + 1, words.attention.patterns[name](text));
  };
  const layers = choices(
    words.layer,
    weights.map((_, i) => ({ value: i, label: String(i + 1), name: words.layerNumber(i + 1) })),
    chosen.layer,
    (value) => pick(value, chosen.head),
  );
  const heads = choices(
    words.head,
    weights[0].map((_, i) => ({ value: i, label: String(i + 1), name: words.headNumber(i + 1) })),
    chosen.head,
    (value) => pick(chosen.layer, value),
  );
  const overview = headOverview(weights, words, phrase, (layer, head) => pick(layer, head));
  const pattern = make("p", { class: "tour-finding", "aria-live": "polite" });
  const lineTitle = make("h4");
  const lines = lineView({
    label: words.attention.linesHint,
    tokens: names,
    describe: (i, row) => words.attention.looks(names[i], strongest(row, names, words)),
    choose: (i) => pickToken(i),
    percent: words.rough,
  });
  const tableTitle = make("h4");
  const table = heatTable({
    hint: words.cellHint,
    label: words.attention.title,
    corner: words.attention.corner,
    rows: names,
    columns: names,
    signed: false,
    numbers: names.length <= 24,
    cellText: words.weight,
    describe: (i, j, value) => words.attention.cell(names[i], names[j], words.exact(value)),
    choose: (i) => pickToken(i),
  });

  function pick(layer, head) {
    chosen.layer = layer;
    chosen.head = head;
    layers.select(layer);
    heads.select(head);
    overview.select(layer, head);
    pattern.textContent = phrase(layer, head);
    lineTitle.textContent = words.attention.lines(layer + 1, head + 1);
    tableTitle.textContent = words.attention.matrix(layer + 1, head + 1);
    lines.set(weights[layer][head]);
    table.set(weights[layer][head]);
    pickToken(chosen.token);
  }

  function pickToken(token) {
    chosen.token = token;
    lines.select(token);
    table.mark(token);
  }

  pick(chosen.layer, chosen.head);
  const text = words.attention.text(words.count(shape.num_heads), words.count(shape.num_encoder_layers));
  const element = station("attention", words, text, [
    make("div", { class: "tour-pickers" }, layers.element, heads.element),
    pattern,
    make(
      "div",
      { class: "tour-pair" },
      figure(words.attention.all, overview.element, words.attention.allHint),
      figure(lineTitle, lines.element, words.attention.linesHint),
    ),
    figure(tableTitle, [table.element, legend(words.weight)]),
  ]);
  return { element, forget: lines.forget, repaint: overview.repaint };
}

/** Make the small pictures of all heads, which are also buttons. */
function headOverview(weights, words, phrase, pick) {
  const pictures = [];
  const rows = weights.map((heads, layer) =>
    make(
      "div",
      { class: "tour-heads-row", role: "group", "aria-label": words.layerNumber(layer + 1) },
      make("span", { class: "tour-heads-label", "aria-hidden": "true", text: String(layer + 1) }),
      heads.map((matrix, head) => {
        const picture = thumbnail(64);
        const button = make(
          "button",
          {
            type: "button",
            class: "tour-head",
            tabindex: "-1",
            "aria-label": phrase(layer, head),
            title: phrase(layer, head),
            data: { layer, head },
            on: { click: () => pick(layer, head) },
          },
          picture.element,
        );
        pictures.push({ picture, matrix, button });
        return button;
      }),
    ),
  );
  const element = make("div", { class: "tour-heads" }, rows);
  const buttons = pictures.map(({ button }) => button);
  rove(
    element,
    () => buttons,
    () => weights[0].length,
  );
  return {
    element: make("div", { class: "tour-scroll" }, element),
    select(layer, head) {
      for (const { button } of pictures) {
        const mine = Number(button.dataset.layer) === layer && Number(button.dataset.head) === head;
        button.setAttribute("aria-pressed", String(mine));
      }
    },
    repaint() {
      for (const { picture, matrix } of pictures) picture.paint(matrix);
    },
  };
}
