// Makes the elements of the tour and moves the focus inside groups of them. It knows nothing of networks or texts.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an HTML element.
 *
 * `class`, `text`, `html` properties such as `value`, attributes, `vars` (CSS custom properties), `data` (dataset) and
 * `on` (event listeners) may be given; null and false leave an attribute out.
 */
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  dress(element, properties);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Make an SVG element; properties as for `make`. */
export function draw(name, properties = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  dress(element, properties);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "tabIndex", "open"]);

function dress(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (name === "text") element.textContent = value;
    else if (name === "on") for (const [event, call] of Object.entries(value)) element.addEventListener(event, call);
    else if (name === "vars") setVariables(element, value);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (PROPERTIES.has(name) && name in element) element[name] = value;
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
}

/** Set CSS custom properties: the one way in which numbers reach the style sheet. */
export function setVariables(element, values) {
  for (const [name, value] of Object.entries(values)) element.style.setProperty(`--${name}`, String(value));
}

/** Set attributes of an element that is there already. */
export function setAttributes(element, values) {
  for (const [name, value] of Object.entries(values)) element.setAttribute(name, String(value));
}

/** Make a frame that scrolls sideways where its content is too wide, by keyboard too. */
export function scrollable(label, content) {
  return make("div", { class: "tour-scroll", role: "group", tabindex: "0", "aria-label": label }, content);
}

/** Text for screen readers only. */
export function hidden(text) {
  return make("span", { class: "tour-hidden", text });
}

/**
 * Make a group of elements one stop of the tab key; arrow keys move inside it.
 *
 * `items` returns the elements; `columns` (a function) is given for a grid, where up and down move by a row.
 */
export function rove(group, items, columns = null) {
  const settle = () => {
    const all = items();
    if (all.length && !all.some((each) => each.getAttribute("tabindex") === "0")) all[0].setAttribute("tabindex", "0");
  };
  group.addEventListener("focusin", (event) => {
    const all = items();
    const current = all.indexOf(event.target);
    if (current >= 0) all.forEach((each, i) => each.setAttribute("tabindex", i === current ? "0" : "-1"));
  });
  group.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const all = items();
    const current = all.indexOf(document.activeElement);
    if (current < 0) return;
    const next = nextIndex(event.key, current, all.length, columns ? columns() : 0);
    if (next === null) return;
    event.preventDefault();
    all[next].focus();
  });
  settle();
  return settle;
}

/** Return where a key leads to from `current`, or null for another key. */
export function nextIndex(key, current, count, columns) {
  const within = (index) => (index >= 0 && index < count ? index : current);
  switch (key) {
    case "ArrowRight":
      return within(current + 1);
    case "ArrowLeft":
      return within(current - 1);
    case "ArrowDown":
      return within(current + (columns || 1));
    case "ArrowUp":
      return within(current - (columns || 1));
    case "Home":
      return columns ? current - (current % columns) : 0;
    case "End":
      return columns ? Math.min(count, current - (current % columns) + columns) - 1 : count - 1;
    default:
      return null;
  }
}

let groups = 0;

/**
 * Make a labelled row of radio buttons.
 *
 * `choices` are {value, label, name}: what is shown, and what a screen reader says. `choose(value)` is called.
 */
export function choices(legend, options, chosen, choose) {
  groups += 1;
  const name = `tour-choice-${groups}`;
  const inputs = new Map();
  const labels = options.map(({ value, label, name: spoken }) => {
    const input = make("input", {
      type: "radio",
      name,
      value: String(value),
      "aria-label": spoken ?? null,
      on: { change: () => choose(value) },
    });
    input.checked = value === chosen;
    inputs.set(value, input);
    return make("label", {}, input, make("span", { text: label }));
  });
  const element = make("fieldset", { class: "tour-choices" }, make("legend", { text: legend }), labels);
  return {
    element,
    select(value) {
      const input = inputs.get(value);
      if (input) input.checked = true;
    },
  };
}

/** Call `drawn(width)` now and whenever the element's width changes; returns a function that ends this. */
export function followWidth(element, drawn) {
  let width = 0;
  const observer = new ResizeObserver((entries) => {
    const now = Math.round(entries[entries.length - 1].contentRect.width);
    if (now && now !== width) {
      width = now;
      requestAnimationFrame(() => drawn(width));
    }
  });
  observer.observe(element);
  return () => observer.disconnect();
}

/** Cut a text into the characters that the service counts: code points, not UTF-16 units. */
export function characters(text) {
  return Array.from(text);
}
