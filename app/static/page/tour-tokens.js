// Shows the two ends of the way: the text cut into tokens, and pieces put together to a text. It asks for nothing.

import { characters, hidden, make, rove } from "./tour-dom.js";
import { station } from "./tour-station.js";


/** Build station 1. */
export function tokenStation(reply, words) {
  const { explanation, shape } = reply;
  const tokens = explanation.source_tokens;
  const readout = make("p", { class: "tour-readout", text: words.tokens.hint });
  const chips = tokens.map((token, i) => chip(token, i, words));
  const text = markedText(explanation.source, tokens);
  text.lang = reply.source;
  const list = make(
    "ol",
    { class: "tour-chips", "aria-label": words.tokens.pieces },
    chips.map((each) => make("li", {}, each)),
  );
  rove(list, () => chips);
  link(text, chips, (i) => {
    readout.textContent = i === null ? words.tokens.hint : describe(tokens[i], words);
  });
  const letters = characters(explanation.source).length;
  return station("tokens", words, words.tokens.text(words.count(shape.vocab_size)), [
    make("h4", { text: words.tokens.characters }),
    text,
    make("h4", { text: words.tokens.pieces }),
    list,
    readout,
    make("p", { class: "tour-note", text: words.tokens.counted(words.count(letters), words.count(tokens.length)) }),
  ]);
}

/** Build station 7. */
export function joinStation(reply, words) {
  const tokens = reply.explanation.target_tokens;
  const chips = tokens.map((token, i) => chip(token, i, words));
  const list = make(
    "ol",
    { class: "tour-chips", "aria-label": words.join.pieces },
    chips.map((each) => make("li", {}, each)),
  );
  rove(list, () => chips);
  const spaced = make(
    "p",
    { class: "tour-spaced", "aria-hidden": "true" },
    tokens.map((token) => make("span", { text: token.piece.replaceAll("\u2581", "\u2423") })),
  );
  const text = markedText(reply.explanation.target, tokens);
  text.classList.add("tour-result");
  text.lang = reply.target;
  link(text, chips, () => {});
  return station("join", words, words.join.text, [
    make("h4", { text: words.join.pieces }),
    list,
    make("h4", { text: words.join.spaced }),
    spaced,
    make("h4", { text: words.join.result }),
    text,
  ]);
}

function describe(token, words) {
  return token.special
    ? words.tokens.oneSpecial(token.piece, token.id)
    : words.tokens.one(token.piece, token.id, words.tokens.place(token.start + 1, token.end));
}

function chip(token, index, words) {
  const element = make(
    "button",
    {
      type: "button",
      class: "tour-chip",
      tabindex: "-1",
      data: { token: index },
    },
    make("span", { class: "tour-piece" }, shownPiece(token.piece)),
    make("span", { class: "tour-id", text: String(token.id) }),
  );
  element.classList.toggle("is-special", token.special);
  element.append(hidden(token.special ? words.special : words.tokens.place(token.start + 1, token.end)));
  return element;
}

function shownPiece(piece) {
  return piece
    .split(/(\u2581)/)
    .filter(Boolean)
    .map((part) => (part === "\u2581" ? make("span", { class: "tour-mark", text: part }) : part));
}

/** Return a text whose parts know their tokens; the service counts places in code points. */
function markedText(text, tokens) {
  const letters = characters(text);
  const cuts = new Set([0, letters.length]);
  for (const token of tokens) {
    cuts.add(token.start);
    cuts.add(token.end);
  }
  const places = [...cuts].filter((place) => place <= letters.length).sort((one, other) => one - other);
  const paragraph = make("p", { class: "tour-text", dir: "auto" });
  for (let i = 0; i + 1 < places.length; i += 1) {
    const part = letters.slice(places[i], places[i + 1]).join("");
    const owners = tokens.flatMap((token, t) => (token.start <= places[i] && token.end >= places[i + 1] ? [t] : []));
    paragraph.append(
      owners.length ? make("span", { class: "tour-part", text: part, data: { tokens: owners.join(" ") } }) : part,
    );
  }
  return paragraph;
}

/** Let pieces and the characters behind them light up together. */
function link(text, chips, tell) {
  const parts = [...text.querySelectorAll(".tour-part")];
  const owners = (part) => part.dataset.tokens.split(" ").map(Number);
  const light = (indexes) => {
    chips.forEach((each, i) => each.classList.toggle("is-linked", indexes.includes(i)));
    for (const part of parts) part.classList.toggle("is-linked", owners(part).some((i) => indexes.includes(i)));
    tell(indexes.length ? indexes[0] : null);
  };
  chips.forEach((each, i) => {
    for (const event of ["pointerenter", "focus", "click"]) each.addEventListener(event, () => light([i]));
    each.addEventListener("blur", () => light([]));
    each.addEventListener("pointerleave", () => {
      const focused = chips.indexOf(document.activeElement);
      light(focused >= 0 ? [focused] : []);
    });
  });
  for (const part of parts) {
    part.addEventListener("pointerenter", () => light(owners(part)));
    part.addEventListener("click", () => chips[owners(part)[0]].focus());
  }
  text.addEventListener("pointerleave", () => light([]));
}
