// The page of one run, made when its link is followed.

const COLUMNS = ["Predictions", "Step", "Accuracy", "AUROC", "ECE", "Brier", "Agrees with supervisor", "where it is right", "where it is wrong"];

async function record(run) {
  const part = await unpacked(`details-${Math.floor(run / given.perPack)}`);
  return part[run % given.perPack];
}

function section(title, ...children) {
  return element("section", {}, element("h2", {}, title), ...children);
}

function pairs(entries) {
  const there = entries.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return element("dl", {}, ...there.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

function decimals(value, digits) {
  return value === null || value === undefined ? "-" : value.toFixed(digits);
}

function amount(value) {
  if (value === null || value === undefined) return null;
  return value >= 1e6 ? value.toExponential(2) : value.toLocaleString("en", { maximumFractionDigits: 1 });
}

function moment(seconds) {
  return seconds ? `${new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC` : null;
}

async function lineage(index, found, run) {
  const names = index.table.columns[0].texts;
  const stop = async (place, what, extra) => element("li", {},
    element("span", { class: "what" }, what),
    place === run ? element("b", {}, "this run") : element("a", { href: link(names[place]) }, (await record(place)).title),
    extra ? element("span", { class: "extra" }, extra) : null);
  const stops = [];
  const present = (place) => place !== null && place !== undefined;
  if (present(found.data) && found.data !== run) stops.push(await stop(found.data, "data"));
  if (present(found.supervisor)) {
    const weak = await record(found.supervisor);
    const known = typeof weak.labels === "number";
    stops.push(await stop(found.supervisor, "its labels on transfer come from",
      known ? `which are right for ${(100 * weak.labels).toFixed(1)} % of them` : "whose accuracy there is not known"));
  }
  stops.push(await stop(run, "then"));
  const students = index.supervisors.flatMap((supervisor, place) => (supervisor === run ? [place] : []));
  const own = [];
  for (const student of students.slice(0, 60)) {
    own.push(element("li", {}, element("a", { href: link(names[student]) }, (await record(student)).title)));
  }
  const more = students.length > 60 ? element("li", {}, `and ${students.length - 60} more`) : null;
  const taught = own.length
    ? [element("details", { open: own.length <= 8 ? "" : null },
      element("summary", {}, `Its labels teach ${students.length === 1 ? "one student" : `${students.length} students`}`),
      element("ul", {}, ...own, more))]
    : [];
  return section("Lineage", element("ol", { class: "lineage" }, ...stops), ...taught);
}

function numbers(found) {
  if (!found.numbers.length) return null;
  const used = COLUMNS.map((_, place) => place === 0 || found.numbers.some((row) => row[place] !== null));
  const kept = (row) => row.filter((_, place) => used[place]);
  const heads = kept(COLUMNS).map((head, place) => element("th", { scope: "col", class: place ? "numeric" : null }, head));
  const lines = found.numbers.map((row) => element("tr", {}, ...kept(row.map((value, place) => {
    const name = value === "oracle" ? "oracle (diagnostic: chosen on test)" : value;
    const text = place === 0 ? name : place === 1 ? String(value ?? "last") : decimals(value, 3);
    return element("td", { class: place ? "numeric" : null }, text);
  }))));
  const labels = typeof found.labels === "number"
    ? element("p", {}, `As a supervisor it labels transfer with an accuracy of ${found.labels.toFixed(3)}.`) : null;
  return section("Numbers on test", element("div", { class: "scroll" },
    element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...lines))), labels);
}

function course(found) {
  if (found.lost) return section("Training", element("p", { class: "notice bad" }, found.lost));
  if (!found.history) return null;
  const taken = found.numbers.filter(([, step]) => step !== null);
  const said = taken.map(([selection, step]) => `step ${step.toLocaleString("en")} by ${selection}`).join(", ");
  const hint = taken.length ? element("p", { class: "hint" }, `Dashed: the evaluations that were selected (${said}).`) : "";
  return section("Training", courses(found.history, [...new Set(taken.map(([, step]) => step))]), hint);
}

function verdict(who, name, p, right) {
  return element("p", { class: right ? "verdict right" : "verdict wrong" },
    element("span", { class: "who" }, who), ` ${name} `, element("span", { class: "p" }, `p = ${decimals(p / 100, 2)}`), right ? " ✓ right" : " ✗ wrong");
}

async function examples(found) {
  const own = found.disagreements;
  if (!own) return null;
  const title = "Where student and supervisor disagree";
  if (own.lost) return section(title, element("p", {}, `No examples: ${own.lost}.`));
  const share = (100 * own.of / own.n).toFixed(1);
  const about = element("p", { class: "hint" }, `They disagree on ${own.of.toLocaleString("en")} of ${own.n.toLocaleString("en")} test examples (${share} %), by the student's final predictions. `
    + `${own.shown.length < own.of ? `Here are ${own.shown.length} of them` : "Here they are"}, in an order drawn once for the data set: neither the best nor the worst.`);
  const texts = await unpacked(`texts-${found.data}`);
  if (texts === null || texts.lost) return section(title, about, element("p", {}, `No texts: ${texts?.lost ?? "left out of this page"}.`));
  const name = (label) => texts.classes[label] ?? `class ${label}`;
  const list = own.shown.map(([text, truth, student, studentP, weak, weakP]) => element("li", {},
    element("blockquote", {}, texts.texts[text],
      texts.cut[text] ? element("span", { class: "cut" }, ` … ${texts.cut[text].toLocaleString("en")} more characters`) : null),
    element("div", { class: "verdicts" },
      element("p", { class: "verdict" }, element("span", { class: "who" }, "truth"), ` ${name(truth)}`),
      verdict("student", name(student), studentP, student === truth),
      verdict("supervisor", name(weak), weakP, weak === truth))));
  return section(title, about, element("ol", { class: "examples" }, ...list));
}

function machine(found, shared) {
  if (found.environment === undefined) return null;
  const own = shared.environments[found.environment];
  const git = own.git ?? {};
  const phases = Object.entries(found.phases ?? {}).map(([name, seconds]) => `${name} ${decimals(seconds, 1)} s`).join(", ");
  const libraries = Object.entries(own.libraries ?? {}).map(([name, version]) => `${name} ${version}`).join(", ");
  return section("Environment", pairs([
    ["Host", [own.host, own.platform, own.cpus ? `${own.cpus} CPUs` : ""].filter(Boolean).join(", ")],
    ["Devices", (found.devices ?? []).join(", ")],
    ["Code", `w2s ${own.version ?? "?"}, commit ${git.commit ?? "unknown"}${git.dirty ? " with changes" : ""}`],
    ["Python", own.python],
    ["Libraries", libraries],
    ["Fetched at", (found.fetched ?? []).join(", ")],
    ["Started", moment(found.started)],
    ["Wall time", found.wall_s === undefined ? null : `${decimals(found.wall_s, 1)} s${phases ? ` (${phases})` : ""}`],
    ["Peak memory", found.peak_rss_mib === undefined ? null : `${amount(Math.round(found.peak_rss_mib))} MiB`],
    ["Work", [[found.examples, "examples trained on"], [found.tokens, "tokens"], [found.flops, "FLOPs"]]
      .filter(([value]) => value).map(([value, unit]) => `${amount(value)} ${unit}`).join(", ")],
    ["Folder", `${found.folder}/${found.digest.slice(0, 2)}/${found.digest}`],
  ]));
}

function failure(found, status) {
  if (status === "done") return null;
  const what = found.reason ? `${status}: ${found.reason}` : status;
  const parts = [element("p", { class: status === "missing" ? "notice warn" : "notice bad" }, element("b", {}, what[0].toUpperCase() + what.slice(1)))];
  if (found.failed) parts.push(element("p", {}, `It failed on ${moment(found.failed)}; the same command tries again.`));
  if (found.detail) parts.push(element("pre", { class: "code" }, found.detail));
  if (found.log) parts.push(element("h3", {}, "The end of its log"), element("pre", { class: "code" }, found.log));
  return element("section", {}, ...parts);
}

async function runPage(index, run) {
  const found = await record(run);
  const shared = await unpacked("shared");
  const columns = Object.fromEntries(index.table.columns.map((column) => [column.head, column.texts[run]]));
  const config = (found.config ?? []).map((block) => shared.blocks[block]).join("");
  return [
    element("p", { class: "back" }, element("a", { href: "#runs" }, "← All runs")),
    element("h1", { tabindex: "-1" }, found.title),
    element("p", { class: "facts" }, element("span", {}, columns.Role), element("span", { class: `status ${columns.Status}` }, columns.Status),
      found.methods.length ? element("span", {}, `method ${found.methods.join(", ")}`) : null, element("code", {}, found.digest)),
    failure(found, columns.Status),
    await lineage(index, found, run),
    numbers(found),
    course(found),
    await examples(found),
    found.summary ? section("Data", element("pre", { class: "code" }, found.summary)) : null,
    machine(found, shared),
    config ? section("Configuration", element("p", { class: "hint" }, "The spec as its manifest has it; its digest is made of this."), element("pre", { class: "code" }, config)) : null,
  ].filter(Boolean);
}
