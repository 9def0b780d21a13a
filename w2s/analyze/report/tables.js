// A table to sort and filter. Lines are made as they come into view, so thousands of them cost nothing at first.

const STEP = 60; // lines made at once
const collator = new Intl.Collator("en", { numeric: true });
const tables = [];

class Table {
  constructor(data, names) {
    this.data = data;
    this.names = names; // of runs, for links
    this.count = data.columns[0].texts.length;
    this.lines = Array.from({ length: this.count }, (_, line) => line);
    this.sorted = { column: -1, direction: 0 };
    this.shown = 0;
    this.haystack = null;
    this.box = this.build();
    this.show();
    tables.push(this);
  }

  build() {
    this.heads = this.data.columns.map((column, place) => this.head(column, place));
    this.body = element("tbody");
    this.status = element("span", { class: "count", role: "status" });
    const caption = element("caption", { class: "hidden" }, this.data.about);
    const table = element("table", {}, caption, element("thead", {}, element("tr", {}, ...this.heads)), this.body);
    this.scroll = element("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": this.data.about }, table);
    this.scroll.addEventListener("scroll", () => this.more(), { passive: true });
    const notes = this.data.notes.length ? [element("p", { class: "hint" }, this.data.notes.join(" "))] : [];
    const title = element("div", { class: "title" }, element("h3", {}, this.data.about), this.tools());
    return element("div", { class: "sheet" }, title, this.scroll, ...notes);
  }

  head(column, place) {
    const button = element("button", { type: "button" }, column.head);
    button.addEventListener("click", () => this.sortBy(place));
    return element("th", { scope: "col", "aria-sort": "none", class: column.numbers ? "numeric" : null }, button);
  }

  tools() {
    this.menus = [];
    const tools = element("div", { class: "tools" });
    if (this.count > 3) {
      this.input = element("input", { type: "search", placeholder: "Filter", "aria-label": `Filter ${this.data.about}` });
      this.input.addEventListener("input", () => this.filter());
      for (const column of this.data.columns.filter((one) => one.choices)) {
        const options = column.choices.map((choice) => element("option", { value: choice }, choice || "(none)"));
        const all = element("option", { value: "\u0000" }, `${column.head}: all`);
        const menu = element("select", { "aria-label": `${column.head} in ${this.data.about}` }, all, ...options);
        menu.addEventListener("change", () => this.filter());
        this.menus.push({ menu, column });
        tools.append(menu);
      }
      tools.append(this.input);
    }
    tools.append(this.status);
    return tools;
  }

  filter() {
    this.haystack ??= Array.from({ length: this.count }, (_, line) =>
      this.data.columns.map((column) => `${column.texts[line]} ${column.intervals?.[line] ?? ""}`).join(" ").toLowerCase());
    const words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = this.menus.filter(({ menu }) => menu.value !== "\u0000");
    this.lines = [];
    for (let line = 0; line < this.count; line += 1) {
      const text = this.haystack[line];
      if (words.every((word) => text.includes(word))
        && chosen.every(({ menu, column }) => column.texts[line] === menu.value)) this.lines.push(line);
    }
    this.arrange();
  }

  // Once up, once down, then the order in which the lines came.
  sortBy(place) {
    const direction = this.sorted.column === place ? { 0: 1, 1: -1, "-1": 0 }[this.sorted.direction] : 1;
    this.sorted = { column: place, direction };
    this.heads.forEach((head, own) => {
      const how = own === place ? { 1: "ascending", "-1": "descending", 0: "none" }[direction] : "none";
      head.setAttribute("aria-sort", how);
    });
    this.lines.sort((a, b) => a - b);
    this.arrange();
  }

  arrange() {
    const { column: place, direction } = this.sorted;
    if (direction !== 0) {
      const { texts, numbers } = this.data.columns[place];
      const ordered = numbers
        ? (a, b) => direction * (numbers[a] - numbers[b])
        : (a, b) => direction * collator.compare(texts[a], texts[b]);
      const absent = (line) => (numbers ? numbers[line] === null : texts[line] === "");
      const there = this.lines.filter((line) => !absent(line)).sort((a, b) => ordered(a, b) || a - b);
      this.lines = [...there, ...this.lines.filter(absent)]; // last, whichever way
    }
    this.show();
  }

  show() {
    this.body.replaceChildren();
    this.shown = 0;
    this.scroll.scrollTop = 0;
    this.add(STEP);
    const all = this.count.toLocaleString("en");
    const found = this.lines.length.toLocaleString("en");
    this.status.textContent = this.lines.length === this.count ? `${all} ${this.count === 1 ? "line" : "lines"}` : `${found} of ${all} lines`;
  }

  more() {
    const left = this.scroll.scrollHeight - this.scroll.scrollTop - this.scroll.clientHeight;
    if (left < 600 && this.shown < this.lines.length) this.add(STEP);
  }

  add(count) {
    const made = this.lines.slice(this.shown, this.shown + count).map((line) => this.line(line));
    this.shown += made.length;
    this.body.append(...made);
  }

  line(line) {
    return element("tr", {}, ...this.data.columns.map((column) => this.entry(column, line)));
  }

  entry(column, line) {
    const text = column.texts[line];
    const run = column.links?.[line] ?? null;
    const shown = run === null ? text : element("a", { href: link(this.names[run]) }, text);
    const interval = column.intervals?.[line] ? element("span", { class: "interval" }, ` ${column.intervals[line]}`) : null;
    const absent = column.numbers && column.numbers[line] === null;
    const kind = [column.numbers ? "numeric" : "", absent ? "absent" : "", text.length > 40 ? "long" : ""].filter(Boolean);
    return element("td", { class: kind.length ? kind.join(" ") : null }, shown, interval);
  }
}

// On paper nothing scrolls.
window.addEventListener("beforeprint", () => tables.forEach((table) => table.add(table.lines.length)));
