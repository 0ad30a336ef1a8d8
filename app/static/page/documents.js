// The view of files: sends them, shows how far they are, and fetches what is done. Only their ids outlive a reload.

import { call, download, upload } from "./api.js";
import { make } from "./tour-dom.js";
import { languageName, say } from "./wording.js";

const KEPT = "dragoman-documents";
const POLL_MS = 700;

export class DocumentsView {
  constructor({ languages, glossaries, fail }) {
    Object.assign(this, { languages, glossaries, fail });
    this.listed = document.getElementById("documents");
    this.file = document.getElementById("file");
    const drop = document.getElementById("drop");
    this.file.addEventListener("change", () => {
      this.send([...this.file.files]);
      this.file.value = "";
    });
    for (const name of ["dragenter", "dragover"]) {
      drop.addEventListener(name, (event) => {
        event.preventDefault();
        drop.classList.add("over");
      });
    }
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      this.send([...event.dataTransfer.files]);
    });
    for (const each of kept()) this.follow(new Entry(each.name, this), each.id);
  }

  /** Say which languages files are translated from and to. */
  refresh() {
    const { source, target } = this.languages.asked;
    const from = source === null ? say("detect") : languageName(source);
    const shown = say("arrow", { source: from, target: languageName(target) });
    document.getElementById("file-languages").textContent = shown;
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
      const reply = await upload("/v1/documents", form);
      keep([...kept(), { id: reply.id, name: reply.name }]);
      await this.follow(entry, reply.id);
    } catch (error) {
      entry.failed(error.message);
      this.fail(error, () => {
        entry.element.remove();
        this.sendOne(file);
      });
    }
  }

  /** Ask how far a document is, until it is over. */
  async follow(entry, id) {
    entry.id = id;
    for (;;) {
      let reply;
      try {
        reply = await call("GET", `/v1/documents/${id}`);
      } catch (error) {
        if (error.status === 404) forget(id);
        return entry.failed(error.status === 404 ? say("gone") : error.message);
      }
      if (entry.isRemoved) return undefined;
      entry.show(reply);
      if (reply.state === "done" || reply.state === "error") return undefined;
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  async remove(entry) {
    entry.isRemoved = true;
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
