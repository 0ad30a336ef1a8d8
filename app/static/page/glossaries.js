// The view of glossaries: which there are, which apply, and the editor of one dictionary of one of them.

import { call, download } from "./api.js";
import { make } from "./tour-dom.js";
import { languageName, say } from "./wording.js";

const byId = (id) => document.getElementById(id);

export class GlossariesView {
  /** `onChange()` is called when other glossaries apply, or the same ones say something else. */
  constructor({ languages, fail, onChange }) {
    Object.assign(this, { languages, fail, onChange });
    this.all = [];
    this.applied = new Set();
    this.dialog = byId("glossary-dialog");
    byId("new-glossary").addEventListener("click", () => this.edit(null));
  }

  /** Ids of the glossaries that apply and have a dictionary for the languages. */
  ids() {
    const { source, target } = this.languages.actual;
    const fits = (pair) => pair.target === target && (source === null || pair.source === source);
    return this.all.filter((each) => this.applied.has(each.id) && each.dictionaries.some(fits)).map((each) => each.id);
  }

  async load() {
    try {
      this.all = (await call("GET", "/v1/glossaries")).glossaries;
    } catch (error) {
      return this.fail(error, () => this.load());
    }
    this.show();
    return undefined;
  }

  show() {
    const shown = this.all.map((each) => this.line(each));
    byId("glossaries").replaceChildren(...(shown.length ? shown : [make("li", { class: "muted", text: say("noGlossaries") })]));
  }

  line(glossary) {
    const { id, name } = glossary;
    const box = make("input", { type: "checkbox", checked: this.applied.has(id), "aria-label": say("apply", { name }) });
    box.addEventListener("change", () => {
      if (box.checked) this.applied.add(id);
      else this.applied.delete(id);
      this.onChange();
    });
    const pairs = glossary.dictionaries.map(
      (each) => `${arrow(each)}, ${say("entries", { count: each.entry_count })}`,
    );
    return make(
      "li",
      {},
      make("label", { class: "ticked" }, box, make("span", { class: "name", text: name })),
      make("span", { class: "muted", text: pairs.join(" · ") }),
      make("button", { class: "quiet", text: say("edit"), "aria-label": say("editOf", { name }), on: { click: () => this.edit(glossary) } }),
      make("button", { class: "quiet", text: say("remove"), "aria-label": say("removeOf", { name }), on: { click: () => this.remove(glossary) } }),
    );
  }

  remove(glossary) {
    const dialog = byId("confirm-dialog");
    const act = async () => {
      dialog.close();
      try {
        await call("DELETE", `/v1/glossaries/${glossary.id}`);
      } catch (error) {
        if (error.status !== 404) return this.fail(error, act);
      }
      const applied = this.applied.delete(glossary.id);
      await this.load();
      if (applied) this.onChange();
      return undefined;
    };
    dialog.replaceChildren(
      make("h2", { id: "confirm-title", text: say("confirmDelete", { name: glossary.name }) }),
      make(
        "div",
        { class: "actions" },
        make("button", { class: "quiet", text: say("cancel"), on: { click: () => dialog.close() } }),
        make("button", { text: say("remove"), on: { click: act } }),
      ),
    );
    dialog.showModal();
  }

  /** Open the editor; null makes a new glossary. */
  async edit(glossary) {
    const editor = new Editor(this, glossary);
    this.dialog.replaceChildren(editor.form);
    this.dialog.showModal();
    try {
      await editor.load();
    } catch (error) {
      editor.complain(error.message);
    }
  }

  async saved(id) {
    this.dialog.close();
    this.applied.add(id);
    await this.load();
    this.onChange();
  }
}

class Editor {
  constructor(view, glossary) {
    this.view = view;
    this.glossary = glossary;
    this.name = make("input", { type: "text", id: "glossary-name", value: glossary?.name ?? "", autocomplete: "off" });
    const codes = view.languages.known.map((each) => each.code);
    const { source, target } = glossary?.dictionaries[0] ?? view.languages.actual;
    this.source = picker("glossary-source", codes, source ?? codes.find((each) => each !== target));
    this.target = picker("glossary-target", codes, target);
    const show = () => this.load().catch((error) => this.complain(error.message));
    for (const each of [this.source, this.target]) each.addEventListener("change", show);
    this.rows = make("tbody");
    this.problem = make("p", { class: "bad", role: "alert" });
    this.file = make("input", { type: "file", class: "hidden", id: "glossary-file", accept: ".tsv,.csv,.txt" });
    this.file.addEventListener("change", () => this.importFile());
    const exported = ["tsv", "csv"].map((format) =>
      make("button", { class: "quiet", type: "button", text: say("exportAs", { format: format.toUpperCase() }), on: { click: () => this.exportFile(format) } }),
    );
    this.form = make(
      "form",
      { on: { submit: (event) => this.save(event) } },
      make("h2", { id: "glossary-title", text: say("editGlossary") }),
      make("label", { class: "field" }, make("span", { text: say("name") }), this.name),
      make(
        "div",
        { class: "pair" },
        make("label", { class: "field" }, make("span", { text: say("from") }), this.source),
        make("label", { class: "field" }, make("span", { text: say("to") }), this.target),
      ),
      make(
        "table",
        {},
        make("thead", {}, make("tr", {}, make("th", { scope: "col", text: say("term") }), make("th", { scope: "col", text: say("translation") }), make("th"))),
        this.rows,
      ),
      make(
        "div",
        { class: "actions start" },
        make("button", { class: "quiet", type: "button", text: say("addRow"), on: { click: () => this.row("", "").focus() } }),
        make("label", { class: "button quiet" }, say("importFile"), this.file),
        glossary ? exported : null,
      ),
      this.problem,
      make(
        "div",
        { class: "actions" },
        make("button", { class: "quiet", type: "button", text: say("cancel"), on: { click: () => view.dialog.close() } }),
        make("button", { text: say("save") }),
      ),
    );
    this.row("", "");
  }

  get pair() {
    return { source: this.source.value, target: this.target.value };
  }

  hasPair() {
    const { source, target } = this.pair;
    return this.glossary?.dictionaries.some((each) => each.source === source && each.target === target) ?? false;
  }

  /** Show the entries of the chosen languages; rows that were typed for others stay where there are none. */
  async load() {
    if (!this.hasPair()) return;
    const query = new URLSearchParams({ ...this.pair, format: "json" });
    const found = await call("GET", `/v1/glossaries/${this.glossary.id}/entries?${query}`);
    this.rows.replaceChildren();
    for (const [term, translation] of found.dictionaries[0]?.entries ?? []) this.row(term, translation);
    this.row("", "");
  }

  row(term, translation) {
    const number = this.rows.children.length + 1;
    const cell = (key, value) => make("td", {}, make("input", { type: "text", value, "aria-label": `${say(key)} ${number}`, autocomplete: "off" }));
    const remove = make("button", { class: "quiet", type: "button", text: "×", "aria-label": say("removeRow", { number }) });
    const line = make("tr", {}, cell("term", term), cell("translation", translation), make("td", {}, remove));
    remove.addEventListener("click", () => line.remove());
    this.rows.append(line);
    return line.querySelector("input");
  }

  entries() {
    const found = [...this.rows.children].map((line) => [...line.querySelectorAll("input")].map((input) => input.value.trim()));
    return found.filter(([term, translation]) => term || translation);
  }

  async save(event) {
    event.preventDefault();
    const name = this.name.value.trim();
    if (!name) return this.complain(say("needsName"));
    const body = { name, dictionaries: [{ ...this.pair, entries: this.entries() }] };
    try {
      const path = this.glossary ? `/v1/glossaries/${this.glossary.id}` : "/v1/glossaries";
      // Not merged: a row that was taken out must be gone.
      const reply = await (this.glossary ? call("PATCH", path, { ...body, merge: false }) : call("POST", path, body));
      return await this.view.saved(reply.id);
    } catch (error) {
      return this.complain(error.message);
    }
  }

  /** Let the service read a file, so that its rules are those of the API. */
  async importFile() {
    const [file] = this.file.files;
    this.file.value = "";
    if (!file) return;
    const format = file.name.toLowerCase().endsWith(".csv") ? "csv" : "tsv";
    const name = this.name.value.trim() || file.name.replace(/\.[^.]*$/, "");
    const body = { name, dictionaries: [{ ...this.pair, entries: await file.text(), format }] };
    try {
      const path = this.glossary ? `/v1/glossaries/${this.glossary.id}` : "/v1/glossaries";
      this.glossary = await (this.glossary ? call("PATCH", path, body) : call("POST", path, body));
      this.name.value = this.glossary.name;
      this.view.applied.add(this.glossary.id);
      await this.view.load();
      await this.load();
      this.complain("");
    } catch (error) {
      this.complain(error.message);
    }
  }

  async exportFile(format) {
    const query = new URLSearchParams({ ...this.pair, format });
    try {
      await download(`/v1/glossaries/${this.glossary.id}/entries?${query}`, `${this.glossary.name}.${format}`);
    } catch (error) {
      this.complain(error.message);
    }
  }

  complain(message) {
    this.problem.textContent = message;
  }
}

function picker(id, codes, chosen) {
  const select = make("select", { id }, codes.map((code) => make("option", { value: code, text: languageName(code) })));
  if (chosen) select.value = chosen;
  return select;
}

function arrow(pair) {
  return say("arrow", { source: languageName(pair.source), target: languageName(pair.target) });
}
