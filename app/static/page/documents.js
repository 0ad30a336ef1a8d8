// The view of files: sends them, shows how far they are, and fetches what is done. Only their ids outlive a reload.

import { call, download, upload } from "./api.js";
import { make } from "./tour-dom.js";
import { languageName, say } from "./wording.js";

const KEPT = "dragoman-documents";
const POLL_MS = 700;
const PATIENCE_SECONDS = 5;
/** Between questions to a service that cannot answer now and does not say when. */

export class DocumentsView {
  /** `onDrop()` is called when files were dropped, wherever on the page; see TextView for the others. */
  constructor({ languages, glossaries, fail, onDrop }) {
    Object.assign(this, { languages, glossaries, fail, onDrop });
    this.listed = document.getElementById("documents");
    this.file = document.getElementById("file");
    this.file.addEventListener("change", () => {
      this.send([...this.file.files]);
      this.file.value = "";
    });
    this.takeDrops(document.getElementById("drop"));
    for (const each of kept()) this.follow(new Entry(each.name, this), each.id);
  }

  /** Take files that are dropped anywhere: beside the place for them, the browser would open one instead of the page. */
  takeDrops(area) {
    const isFiles = (event) => event.dataTransfer?.types.includes("Files");
    for (const name of ["dragenter", "dragover"]) {
      addEventListener(name, (event) => {
        if (!isFiles(event)) return;
        event.preventDefault();
        area.classList.add("over");
      });
    }
    addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) area.classList.remove("over");
    });
    addEventListener("drop", (event) => {
      if (!isFiles(event)) return;
      event.preventDefault();
      area.classList.remove("over");
      if (document.querySelector("dialog[open]")) return;
      this.onDrop();
      this.send([...event.dataTransfer.files]);
    });
  }

  /** Say which languages files are translated from and to, and if a glossary cannot apply. */
  refresh() {
    const { source, target } = this.languages.asked;
    const from = source === null ? say("detect") : languageName(source);
    const shown = say("arrow", { source: from, target: languageName(target) });
    const isLost = source === null && this.glossaries().length > 0;
    document.getElementById("file-languages").textContent = isLost ? `${shown}. ${say("chooseSource")}` : shown;
  }

  async send(files) {
    await Promise.all(files.map((file) => this.sendOne(file)));
  }

  async sendOne(file) {
    const entry = new Entry(file.name, this);
    const { source, target } = this.languages.asked;
    const form = new FormData();
    form.set("file", file);
    form.set("source", source ?? "auto");
    form.set("target", target);
    if (source !== null) form.set("glossaries", this.glossaries().join(","));
    try {
      const reply = await upload("/v1/documents", form, entry.sending.signal);
      keep([...kept(), { id: reply.id, name: reply.name }]);
      await this.follow(entry, reply.id);
    } catch (error) {
      if (error.name === "AbortError") return;
      entry.failed(error instanceof TypeError ? say("offline") : error.message);
      this.fail(error, () => {
        if (entry.isRemoved) return;
        entry.element.remove();
        this.sendOne(file);
      });
    }
  }

  /** Ask how far a document is, until it is over; a service that is busy or away is asked again. */
  async follow(entry, id) {
    entry.id = id;
    while (!entry.isRemoved) {
      let pause = POLL_MS;
      try {
        const reply = await call("GET", `/v1/documents/${id}`);
        if (!entry.isRemoved) entry.show(reply);
        if (reply.state === "done" || reply.state === "error") return;
      } catch (error) {
        if (!isPassing(error)) {
          this.lose(entry, id, error);
          return;
        }
        pause = (error.retrySeconds ?? PATIENCE_SECONDS) * 1000;
      }
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }

  /** Say why nothing is known of a document; with a key it may be. */
  lose(entry, id, error) {
    if (error.status === 404) forget(id);
    entry.failed(error.status === 404 ? say("gone") : error.message);
    if (error.status === 401 || error.status === 403) this.fail(error, () => this.follow(entry, id));
  }

  async remove(entry) {
    entry.isRemoved = true;
    entry.sending.abort();
    entry.element.remove();
    if (!entry.id) return;
    forget(entry.id);
    try {
      await call("DELETE", `/v1/documents/${entry.id}`);
    } catch (error) {
      if (error.status !== 404) this.fail(error, () => this.remove(entry));
    }
  }
}

class Entry {
  constructor(name, view) {
    this.id = null;
    this.sending = new AbortController();
    this.isRemoved = false;
    this.name = name;
    this.progress = make("progress", { max: 1, value: 0, "aria-label": name });
    this.state = make("span", { class: "muted", text: say("queued") });
    this.save = make("button", { text: say("download"), hidden: true, "aria-label": say("downloadOf", { name }) });
    const remove = make("button", {
      class: "quiet",
      text: say("remove"),
      "aria-label": say("removeOf", { name }),
      on: { click: () => view.remove(this) },
    });
    this.element = make("li", {}, make("span", { class: "name", text: name }), this.progress, this.state, this.save, remove);
    this.view = view;
    view.listed.prepend(this.element);
  }

  show(reply) {
    if (reply.state === "error") return this.failed(reply.error);
    this.progress.hidden = false;
    this.state.classList.remove("bad");
    const share = reply.characters ? reply.translated_characters / reply.characters : 0;
    this.progress.value = reply.state === "done" ? 1 : share;
    const percent = Math.floor(share * 100);
    this.state.textContent = reply.state === "translating" ? say("translatingFile", { percent }) : say(reply.state);
    if (reply.state === "done") {
      this.save.hidden = false;
      const name = this.name.replace(/(\.[^.]*)?$/, (suffix) => `.${reply.target}${suffix === ".pdf" ? ".txt" : suffix}`);
      this.save.onclick = () => download(reply.result, name).catch((error) => this.view.fail(error, this.save.onclick));
    }
    return undefined;
  }

  failed(message) {
    this.progress.hidden = true;
    this.state.textContent = say("error", { message });
    this.state.classList.add("bad");
  }
}

function isPassing(error) {
  return error instanceof TypeError || [429, 502, 503, 504].includes(error.status);
}

function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT)) ?? [];
  } catch {
    return [];
  }
}

function keep(entries) {
  sessionStorage.setItem(KEPT, JSON.stringify(entries));
}

function forget(id) {
  keep(kept().filter((each) => each.id !== id));
}
