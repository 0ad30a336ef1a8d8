// The page: its views, its messages, its shortcuts. Each view is a file of its own, and asks the service itself.

import { keepKey, request } from "./api.js";
import { DocumentsView } from "./documents.js";
import { GlossariesView } from "./glossaries.js";
import { Languages } from "./languages.js";
import { Options } from "./options.js";
import { TextView } from "./text.js";
import { make } from "./tour-dom.js";
import { fillIn, say } from "./wording.js";

const THEME = "dragoman-theme";
const THEMES = ["auto", "light", "dark"];
const TAB_OF_VIEW = { text: "tab-text", files: "tab-files", glossaries: "tab-glossaries", tour: "tab-tour" };
const byId = (id) => document.getElementById(id);
let retryTimer = 0;
const afterKey = new Set();
let tour = null;

fillIn();
showTheme(localStorage.getItem(THEME) ?? "auto");

const languages = new Languages(byId("source-language"), byId("target-language"), () => changed());
const glossaries = new GlossariesView({
  languages,
  fail,
  onChange: () => {
    documents.refresh();
    text.now();
  },
});
const options = new Options(byId("options"), () => text.soon());
const text = new TextView({ languages, options, glossaries: () => glossaries.ids(), tell, fail });
const documents = new DocumentsView({
  languages,
  glossaries: () => glossaries.ids(),
  fail,
  onDrop: () => show(byId(TAB_OF_VIEW.files)),
});
const tabs = Object.values(TAB_OF_VIEW).map(byId);

for (const tab of tabs) {
  tab.addEventListener("click", () => show(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    show(next);
    next.focus();
  });
}
byId("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme;
  showTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});
byId("help").addEventListener("click", showHelp);
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(byId("key").value.trim());
  byId("key-form").hidden = true;
  const waiting = [...afterKey];
  afterKey.clear();
  for (const retry of waiting) retry();
});
document.addEventListener("keydown", (event) => {
  const key = event.key.toLowerCase();
  if ((event.ctrlKey || event.metaKey) && key === "enter") text.now();
  else if (event.altKey && key === "s") text.swap();
  else if (event.altKey && key === "c") text.copy();
  else return;
  event.preventDefault();
});
load();

async function load() {
  try {
    await languages.load();
    documents.refresh();
    tell("");
    if (byId("source").value) text.now();
  } catch (error) {
    fail(error, load);
    return;
  }
  glossaries.load();
}

function changed() {
  documents.refresh();
  text.now();
}

/** Show a message, politely, and a button to try again where that makes sense. */
function tell(message, retry = null) {
  clearTimeout(retryTimer);
  const button = retry && make("button", { class: "quiet", text: say("retry"), on: { click: retry } });
  byId("status").classList.toggle("bad", retry !== null);
  byId("status").replaceChildren(...[message, button].filter(Boolean));
}

/** Show what went wrong: ask for a key where one is needed, and try again by itself where the service says when. */
function fail(error, retry) {
  if (error.status === 401 || error.status === 403) {
    byId("key-form").hidden = false;
    if (retry) afterKey.add(retry);
  }
  const message = error instanceof TypeError ? say("offline") : error.message;
  if (!retry) return tell(message, null);
  const seconds = [429, 503].includes(error.status) ? error.retrySeconds : null;
  if (seconds === null) return tell(message, retry);
  tell(say("retryIn", { message, seconds }), retry);
  retryTimer = setTimeout(retry, seconds * 1000);
  return undefined;
}

function show(tab) {
  for (const each of tabs) {
    const isShown = each === tab;
    each.setAttribute("aria-selected", String(isShown));
    each.tabIndex = isShown ? 0 : -1;
    byId(each.getAttribute("aria-controls")).hidden = !isShown;
  }
  text.list.close();
  tell("");
  if (tab.id === TAB_OF_VIEW.tour) showTour();
}

async function showTour() {
  const container = byId("tour");
  try {
    const { openTour } = await import("./tour.js");
    const given = { text: byId("source").value, translation: options.isPlain ? text.text || null : null };
    tour = openTour(container, { ...given, ...languages.actual, request });
  } catch (error) {
    container.replaceChildren(make("p", { class: "bad", role: "alert", text: say("tourFailed") }));
    fail(error, showTour);
  }
}

function showTheme(theme) {
  const chosen = THEMES.includes(theme) ? theme : "auto";
  document.documentElement.dataset.theme = chosen;
  localStorage.setItem(THEME, chosen);
  tour?.repaint();
  byId("theme").textContent = say("themeIs", { theme: say(chosen) });
}

function showHelp() {
  const dialog = byId("help-dialog");
  const keys = [
    ["Ctrl ↵", "shortcutTranslate"],
    ["Alt S", "shortcutSwap"],
    ["Alt C", "shortcutCopy"],
    ["← →", "shortcutWords"],
    ["Esc", "shortcutEscape"],
  ];
  dialog.replaceChildren(
    make("h2", { id: "help-title", text: say("shortcuts") }),
    make("dl", { class: "keys" }, keys.flatMap(([key, what]) => [make("dt", {}, make("kbd", { text: key })), make("dd", { text: say(what) })])),
    make("p", { class: "muted", text: say("privacy") }),
    make("div", { class: "actions" }, make("button", { text: say("close"), on: { click: () => dialog.close() } })),
  );
  dialog.showModal();
}
