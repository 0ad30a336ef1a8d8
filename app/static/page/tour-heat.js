// Draws matrices: as tables whose cells are shaded, and as small pictures of a whole matrix. It decides no colour;
// the style sheet mixes it from a cell's weight.

import { draw, followWidth, make, rove, setAttributes, setVariables } from "./tour-dom.js";

/** Return how strongly a weight between 0 and 1 is shaded; small weights stay visible, as the legend shows. */
export function shade(weight) {
  return Math.min(1, Math.max(0, weight)) ** 0.6;
}

/** Say whether a shade is so strong that text on it must have the colour of the page. */
export function isStrong(strength) {
  return strength > 0.655;
}

/**
 * Make a matrix as a table with shaded cells.
 *
 * rows, columns: their labels. signed: values of both signs, shaded by their share of `limit`; otherwise weights from
 * 0 to 1. numbers: whether cells show their numbers, which screen readers read in any case. cellText(value): the number
 * as text. describe(row, column, value): the sentence below the table; hint: what stands there before. choose(row):
 * called for a chosen row.
 */
export function heatTable(options) {
  const { label, corner, rows, columns, signed, limit, numbers, cellText, describe, choose, extra, hint } = options;
  const readout = make("p", { class: "tour-readout", text: hint });
  const cells = [];
  const headers = [];
  const body = make("tbody");
  rows.forEach((row, i) => {
    const name = choose
      ? make("button", { type: "button", tabindex: "-1", text: row, on: { click: () => choose(i) } })
      : row;
    const header = make("th", { scope: "row" }, name);
    const line = columns.map((_, j) => make("td", { tabindex: "-1", data: { row: i, column: j } }));
    headers.push(header);
    cells.push(line);
    body.append(make("tr", {}, header, line, extra ? make("td", { class: "tour-extra" }, extra.cell(i)) : null));
  });
  const heads = columns.map((column) => make("th", { scope: "col" }, make("span", { text: column })));
  const table = make(
    "table",
    { class: "tour-heat", role: "grid", "aria-label": label },
    make(
      "thead",
      {},
      make(
        "tr",
        {},
        make("td", { class: "tour-corner", text: corner ?? "" }),
        heads,
        extra ? make("th", { scope: "col", class: "tour-extra" }, make("span", { text: extra.label })) : null,
      ),
    ),
    body,
  );
  table.classList.toggle("tour-numbers", Boolean(numbers));
  table.classList.toggle("tour-signed", Boolean(signed));
  let values = [];

  const point = (event) => {
    const cell = event.target.closest("td[data-row]");
    if (!cell) return;
    const row = Number(cell.dataset.row);
    const column = Number(cell.dataset.column);
    readout.textContent = describe(row, column, values[row][column]);
    for (const header of table.querySelectorAll("th.is-pointed")) header.classList.remove("is-pointed");
    headers[row].classList.add("is-pointed");
    heads[column].classList.add("is-pointed");
  };
  table.addEventListener("pointerover", point);
  table.addEventListener("focusin", point);
  const flat = cells.flat();
  if (choose) {
    table.addEventListener("click", (event) => {
      const cell = event.target.closest("td[data-row]");
      if (cell) choose(Number(cell.dataset.row));
    });
    table.addEventListener("keydown", (event) => {
      const cell = event.target.closest("td[data-row]");
      if (cell && (event.key === "Enter" || event.key === " ")) {
        event.preventDefault();
        choose(Number(cell.dataset.row));
      }
    });
  }
  rove(
    table,
    () => flat,
    () => columns.length,
  );

  return {
    element: make("div", { class: "tour-matrix" }, make("div", { class: "tour-scroll" }, table), readout),
    set(next) {
      values = next;
      readout.textContent = hint;
      next.forEach((line, i) =>
        line.forEach((value, j) => {
          const cell = cells[i][j];
          const strength = signed ? shade(Math.abs(value) / (limit || 1)) : shade(value);
          setVariables(cell, { w: strength.toFixed(3) });
          cell.textContent = cellText(value);
          cell.dataset.value = value;
          cell.classList.toggle("is-negative", Boolean(signed) && value < 0);
          cell.classList.toggle("is-strong", isStrong(strength));
          cell.classList.toggle("is-faint", !signed && value < 0.03);
        }),
      );
    },
    mark(row) {
      headers.forEach((header, i) => {
        header.parentElement.classList.toggle("is-chosen", i === row);
        if (i === row) header.setAttribute("aria-current", "true");
        else header.removeAttribute("aria-current");
      });
    },
  };
}

/** Make the key to the shades: weights from 0 to 1, or values from -limit to limit. */
export function legend(format, limit = null) {
  const shares = limit === null ? [0, 0.05, 0.1, 0.25, 0.5, 0.75, 1] : [-1, -0.5, -0.1, 0, 0.1, 0.5, 1];
  const steps = shares.map((share) => {
    const swatch = make("span", { class: "tour-swatch", vars: { w: shade(Math.abs(share)).toFixed(3) } });
    swatch.classList.toggle("is-negative", share < 0);
    return make("span", { class: "tour-key" }, swatch, make("span", { text: format(share * (limit ?? 1)) }));
  });
  return make("p", { class: limit === null ? "tour-legend" : "tour-legend tour-signed", "aria-hidden": "true" }, steps);
}

/** Make a small picture of a matrix; the colour is the element's text colour. Call `paint` after a change of theme. */
export function thumbnail(size) {
  const canvas = make("canvas", { class: "tour-thumbnail", "aria-hidden": "true" });
  return {
    element: canvas,
    paint(matrix) {
      const ratio = Math.max(1, Math.ceil(globalThis.devicePixelRatio || 1));
      const count = matrix.length;
      const unit = Math.max(1, Math.floor((size * ratio) / count));
      canvas.width = unit * count;
      canvas.height = unit * count;
      const context = canvas.getContext("2d");
      context.fillStyle = getComputedStyle(canvas).color;
      matrix.forEach((line, i) =>
        line.forEach((weight, j) => {
          context.globalAlpha = shade(weight);
          context.fillRect(j * unit, i * unit, unit, unit);
        }),
      );
    },
  };
}

/** Make tokens shaded by weights, with the weights below them. */
export function shadedTokens(label, exact) {
  const list = make("ol", { class: "tour-shaded", "aria-label": label });
  return {
    element: list,
    set(tokens, weights) {
      const best = weights.indexOf(Math.max(...weights));
      list.replaceChildren(
        ...tokens.map((token, i) => {
          const strength = shade(weights[i]);
          const item = make(
            "li",
            { data: { value: weights[i] }, vars: { w: strength.toFixed(3) } },
            make("span", { class: "tour-piece", text: token }),
            make("span", { class: "tour-weight", text: exact(weights[i]) }),
          );
          item.classList.toggle("is-strong", isStrong(strength));
          item.classList.toggle("is-best", i === best);
          return item;
        }),
      );
    },
  };
}

/**
 * Make the two-column picture of one head: lines from each token to what it looks at.
 *
 * tokens: their labels. describe(row): what a screen reader says of a token at the left. choose(row): called when one
 * is chosen. percent(weight): a share as text.
 */
export function lineView({ label, tokens, describe, choose, percent }) {
  const rowHeight = 26;
  const height = tokens.length * rowHeight + 8;
  const picture = draw("svg", { class: "tour-lines", role: "group", "aria-label": label });
  const holder = make("div", { class: "tour-scroll tour-tall" }, picture);
  let weights = [];
  let chosen = 0;
  let width = 480;
  const left = tokens.map((token, i) => {
    const group = draw(
      "g",
      {
        class: "tour-from",
        role: "button",
        tabindex: "-1",
        on: {
          click: () => choose(i),
          keydown: (event) => {
            if (event.key === "Enter" || event.key === " ") {
              event.preventDefault();
              choose(i);
            }
          },
          pointerenter: () => show(i),
        },
      },
      draw("rect", { rx: 4 }),
      draw("text", { "text-anchor": "end", text: token }),
    );
    group.addEventListener("focus", () => show(i));
    return group;
  });
  picture.addEventListener("pointerleave", () => show(chosen));
  const right = tokens.map((token) =>
    draw(
      "g",
      { class: "tour-to", "aria-hidden": "true" },
      draw("rect", { rx: 4 }),
      draw("text", { text: token }),
      draw("text", { class: "tour-share", "text-anchor": "end" }),
    ),
  );
  const lines = draw("g", { "aria-hidden": "true" });
  picture.append(lines, ...left, ...right);
  rove(picture, () => left);

  const middle = (i) => 4 + i * rowHeight + rowHeight / 2;

  function place() {
    const column = Math.min(190, width * 0.36);
    setAttributes(picture, { viewBox: `0 0 ${width} ${height}`, width, height });
    tokens.forEach((_, i) => {
      const [box, text] = left[i].children;
      setAttributes(box, { x: 0, y: middle(i) - 12, width: column, height: 24 });
      setAttributes(text, { x: column - 8, y: middle(i) + 5 });
      const [target, name, share] = right[i].children;
      setAttributes(target, { x: width - column - 34, y: middle(i) - 12, width: column + 34, height: 24 });
      setAttributes(name, { x: width - column - 26, y: middle(i) + 5 });
      setAttributes(share, { x: width - 4, y: middle(i) + 5 });
    });
    show(chosen);
  }

  function show(row) {
    if (!weights.length) return;
    const column = Math.min(190, width * 0.36);
    const start = column + 2;
    const end = width - column - 36;
    const bend = (end - start) / 2;
    const paths = [];
    weights.forEach((line, i) =>
      line.forEach((weight, j) => {
        if (weight < 0.02) return;
        const [from, to] = [middle(i), middle(j)];
        const path = `M${start} ${from}C${start + bend} ${from} ${end - bend} ${to} ${end} ${to}`;
        paths.push([i === row, weight, path]);
      }),
    );
    paths.sort((one, other) => one[0] - other[0]);
    lines.replaceChildren(
      ...paths.map(([own, weight, path]) =>
        draw("path", {
          class: own ? "tour-line is-own" : "tour-line",
          d: path,
          "stroke-width": (0.75 + 5 * weight).toFixed(2),
          "stroke-opacity": (own ? 0.25 + 0.75 * weight : 0.22 * weight).toFixed(3),
        }),
      ),
    );
    tokens.forEach((_, i) => {
      left[i].classList.toggle("is-chosen", i === row);
      const strength = shade(weights[row][i]);
      setVariables(right[i], { w: strength.toFixed(3) });
      right[i].classList.toggle("is-strong", isStrong(strength));
      right[i].lastChild.textContent = weights[row][i] >= 0.005 ? percent(weights[row][i]) : "";
    });
  }

  const forget = followWidth(holder, (now) => {
    width = Math.max(300, Math.min(now, 760));
    place();
  });
  return {
    element: holder,
    forget,
    set(next) {
      weights = next;
      tokens.forEach((_, i) => left[i].setAttribute("aria-label", describe(i, next[i])));
      place();
    },
    select(row) {
      chosen = row;
      left.forEach((group, i) => group.setAttribute("aria-pressed", String(i === row)));
      show(row);
    },
  };
}
