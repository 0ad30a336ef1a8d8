// Shows the vectors of the source tokens, the map of them, and what positions add. It asks for nothing.

import { draw, followWidth, make, rove, setAttributes } from "./tour-dom.js";
import { heatTable, legend } from "./tour-heat.js";
import { figure, station } from "./tour-station.js";

const SUM_DIMENSIONS = 16;

function largest(matrix) {
  return Math.max(1e-9, ...matrix.flat().map(Math.abs));
}

function numbered(count) {
  return Array.from({ length: count }, (_, i) => String(i + 1));
}

/** Build station 2. Returns the element and what must be forgotten with it. */
export function embeddingStation(reply, words) {
  const { explanation, shape } = reply;
  const names = explanation.source_tokens.map((token) => token.piece);
  const vectors = explanation.embeddings;
  const size = vectors[0].length;
  const limit = largest(vectors);
  const longest = Math.max(...explanation.embedding_norms);
  const strip = heatTable({
    hint: words.cellHint,
    label: words.embeddings.strip(size, shape.d_model),
    corner: "",
    rows: names,
    columns: numbered(size),
    signed: true,
    limit,
    numbers: false,
    cellText: words.short,
    describe: (i, j, value) => words.embeddings.cell(names[i], j + 1, words.exact(value)),
    extra: {
      label: words.embeddings.norm,
      cell: (i) => {
        const norm = explanation.embedding_norms[i];
        return make(
          "span",
          { class: "tour-bar", vars: { p: norm / longest } },
          make("span", { class: "tour-bar-text", text: words.decimal(norm) }),
        );
      },
    },
  });
  strip.set(vectors);
  const plane = planeMap(explanation, words);
  const element = station("embeddings", words, words.embeddings.text(words.count(shape.d_model)), [
    figure(words.embeddings.strip(size, words.count(shape.d_model)), [
      strip.element,
      legend(words.decimal, limit),
    ]),
    figure(words.embeddings.mapTitle, plane.element, words.embeddings.mapHint),
  ]);
  return { element, forget: plane.forget };
}

/** Build station 3. */
export function positionStation(reply, words) {
  const { explanation } = reply;
  if (!explanation.positions.length) {
    return station("positions", words, words.positions.relative, []);
  }
  const names = explanation.source_tokens.map((token) => token.piece);
  const table = explanation.positions;
  const size = table[0].length;
  const limit = largest(table);
  const heat = heatTable({
    hint: words.cellHint,
    label: words.positions.heat,
    corner: "",
    rows: names.map((name, i) => words.positions.position(i, name)),
    columns: numbered(size),
    signed: true,
    limit,
    numbers: false,
    cellText: words.short,
    describe: (i, j, value) => words.positions.cell(i, j + 1, words.exact(value)),
  });
  heat.set(table);
  return station("positions", words, words.positions.text, [
    figure(words.positions.heat, [heat.element, legend(words.decimal, limit)]),
    figure(words.positions.sum, sumView(explanation, words)),
  ]);
}

/** Show vector, position and their sum for one token that can be chosen. */
function sumView(explanation, words) {
  const shown = (matrix) => matrix.map((vector) => vector.slice(0, SUM_DIMENSIONS));
  const embeddings = shown(explanation.embeddings);
  const positions = shown(explanation.positions);
  const sums = embeddings.map((vector, i) => vector.map((value, j) => value + positions[i][j]));
  const limit = Math.max(largest(embeddings), largest(positions), largest(sums));
  const rows = [words.positions.embedding, words.positions.added, words.positions.total];
  const heat = heatTable({
    hint: words.cellHint,
    label: words.positions.sum,
    corner: "",
    rows,
    columns: numbered(embeddings[0].length),
    signed: true,
    limit,
    numbers: true,
    cellText: words.decimal,
    describe: (i, j, value) => words.positions.sumCell(rows[i], j + 1, words.exact(value)),
  });
  const show = (i) => heat.set([embeddings[i], positions[i], sums[i]]);
  const start = Math.min(1, embeddings.length - 1);
  const select = make(
    "select",
    { on: { change: () => show(Number(select.value)) } },
    explanation.source_tokens.map((token, i) =>
      make("option", { value: String(i), text: words.positions.position(i, token.piece) }),
    ),
  );
  select.value = String(start);
  show(start);
  return [make("label", { class: "tour-field" }, `${words.positions.sumOf} `, select), heat.element];
}

/** Draw the vectors on their two principal components, with labels that keep out of each other's way. */
function planeMap(explanation, words) {
  const dots = distinct(explanation);
  const describe = ({ piece, point, norm }) =>
    words.embeddings.place(piece, words.decimal(point[0]), words.decimal(point[1]), words.decimal(norm));
  const readout = make("p", { class: "tour-readout", text: words.embeddings.pointHint });
  const picture = draw("svg", { class: "tour-plane", role: "group", "aria-label": words.embeddings.mapTitle });
  const axes = draw("g", { class: "tour-axes" }, draw("line"), draw("line"));
  const marks = dots.map((dot) => {
    const mark = draw(
      "g",
      { class: "tour-point", role: "img", tabindex: "-1", "aria-label": describe(dot) },
      draw("line"),
      draw("circle", { r: 5 }),
      draw("text", { text: dot.label }),
    );
    mark.classList.toggle("is-special", dot.special);
    for (const event of ["pointerenter", "focus"]) {
      mark.addEventListener(event, () => {
        readout.textContent = describe(dot);
      });
    }
    return mark;
  });
  picture.append(axes, ...marks);
  rove(picture, () => marks);
  const holder = make("div", { class: "tour-plane-holder" }, picture, readout);
  const forget = followWidth(holder, (available) => {
    const width = Math.max(300, Math.min(available, 900));
    const height = Math.round(Math.min(480, width * 0.8));
    setAttributes(picture, { viewBox: `0 0 ${width} ${height}`, width, height });
    const points = dots.map(({ point }) => point);
    const scale = scaleTo(points, width, height);
    const [zeroX, zeroY] = scale([0, 0]);
    setAttributes(axes.firstChild, { x1: 0, x2: width, y1: zeroY, y2: zeroY });
    setAttributes(axes.lastChild, { x1: zeroX, x2: zeroX, y1: 0, y2: height });
    const spots = points.map(scale);
    placeLabels(spots, dots, width, height).forEach((label, i) => {
      const [x, y] = spots[i];
      const [line, circle, text] = marks[i].children;
      setAttributes(line, { x1: x, y1: y, x2: label.anchorX, y2: label.anchorY });
      setAttributes(circle, { cx: x, cy: y });
      setAttributes(text, { x: label.x, y: label.y + 13 });
    });
  });
  return { element: holder, forget };
}

/** Return one dot for each vector: a token that stands several times in the sentence has one. */
function distinct(explanation) {
  const dots = new Map();
  explanation.source_tokens.forEach((token, i) => {
    const known = dots.get(token.id);
    if (known) known.count += 1;
    else {
      const point = explanation.projection[i];
      dots.set(token.id, { ...token, point, norm: explanation.embedding_norms[i], count: 1 });
    }
  });
  return [...dots.values()].map((dot) => ({
    ...dot,
    label: dot.count > 1 ? `${dot.piece} \u00d7${dot.count}` : dot.piece,
  }));
}

/** Return a function from the plane of the components to the picture, with the same scale both ways. */
function scaleTo(points, width, height) {
  const margin = 46;
  const range = [0, 1].map((k) => {
    const values = points.map((point) => point[k]);
    return [Math.min(...values), Math.max(...values)];
  });
  const scale = Math.min(
    (width - 2 * margin - 40) / Math.max(1e-6, range[0][1] - range[0][0]),
    (height - 2 * margin) / Math.max(1e-6, range[1][1] - range[1][0]),
  );
  const middle = range.map(([low, high]) => (low + high) / 2);
  return ([x, y]) => [width / 2 - 20 + (x - middle[0]) * scale, height / 2 - (y - middle[1]) * scale];
}

/** Find a place for each label near its point that covers as little as possible of the points and labels before it. */
function placeLabels(spots, dots, width, height) {
  const taken = spots.map(([x, y]) => ({ x: x - 6, y: y - 6, width: 12, height: 12 }));
  return spots.map(([x, y], i) => {
    const size = { width: dots[i].label.length * 8.2 + 6, height: 18 };
    let best = null;
    for (const radius of [9, 20, 34, 52]) {
      for (let turn = 0; turn < 12; turn += 1) {
        const angle = (turn * Math.PI) / 6;
        const centreX = x + Math.cos(angle) * (radius + size.width / 2);
        const centreY = y - Math.sin(angle) * (radius + size.height / 2 - 4);
        const box = { x: centreX - size.width / 2, y: centreY - size.height / 2, ...size };
        const outside = box.x < 0 || box.y < 0 || box.x + box.width > width || box.y + box.height > height;
        const cost =
          taken.reduce((sum, other, t) => (t === i ? sum : sum + overlap(box, other)), 0) +
          (outside ? 4000 : 0) +
          radius * 1.5 +
          turn * 0.1;
        if (best === null || cost < best.cost) {
          best = { ...box, cost, anchorX: nearest(x, box.x, size.width), anchorY: centreY };
        }
      }
    }
    taken.push(best);
    return best;
  });
}

function nearest(x, start, width) {
  return Math.min(Math.max(x, start), start + width);
}

function overlap(one, other) {
  const across = Math.min(one.x + one.width, other.x + other.width) - Math.max(one.x, other.x);
  const down = Math.min(one.y + one.height, other.y + other.height) - Math.max(one.y, other.y);
  return across > 0 && down > 0 ? across * down * 4 : 0;
}
