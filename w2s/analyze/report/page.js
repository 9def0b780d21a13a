// What happens when: tables at once, figures when there is time, a run's page when the address names one.

const overview = document.getElementById("overview");
const runView = document.getElementById("run");
const title = document.title;
const FEW_MATRICES = 4;
let leftAt = 0; // where the overview was scrolled to
let leftBy = null; // what had the focus there, such as the link that was followed

// Matrices stand side by side, and where they are many behind one line that opens them.
function grouped(sheets, names) {
  const matrices = sheets.filter((sheet) => sheet.kind === "matrix");
  const notes = [...new Set(matrices.flatMap((sheet) => sheet.notes))];
  const hint = notes.length ? element("p", { class: "hint" }, notes.join(" ")) : null;
  const side = element("div", { class: "matrices" });
  const make = () => side.childElementCount || side.append(...matrices.map((sheet) => new Table({ ...sheet, notes: [] }, names).box));
  let group = element("div", {}, side, hint);
  if (matrices.length <= FEW_MATRICES) make();
  else {
    group = element("details", {}, element("summary", {}, `${matrices.length} matrices of PGR, supervisors by students`), side, hint);
    group.addEventListener("toggle", make);
    window.addEventListener("beforeprint", make);
  }
  const first = sheets.findIndex((sheet) => sheet.kind === "matrix");
  const boxes = sheets.map((sheet, place) => (place === first ? group : sheet.kind === "matrix" ? null : new Table(sheet, names).box));
  return boxes.filter(Boolean);
}

async function fill() {
  const [sheets, index] = await Promise.all([unpacked("tables"), unpacked("runs")]);
  const names = index.table.columns[0].texts;
  const boxes = sheets.some((sheet) => sheet.kind === "matrix") ? grouped(sheets, names) : sheets.map((sheet) => new Table(sheet, names).box);
  document.getElementById("sheets").replaceChildren(...(boxes.length ? boxes : [element("p", {}, "There are no cells.")]));
  document.getElementById("index").replaceChildren(names.length ? new Table(index.table, names).box : element("p", {}, "There are no runs."));
  document.documentElement.dataset.filled = String(Math.round(performance.now()));
  return index;
}

async function picture(figure) {
  const [shapes, short] = await Promise.all([unpacked("shapes"), inflated(figure.dataset.pack).then((found) => found.text())]);
  const content = short.replace(/ d="\{(\d+)\}"/g, (whole, number) => (number in shapes ? ` d="${shapes[number]}"` : whole));
  const image = figure.querySelector("img");
  image.src = URL.createObjectURL(new Blob([content], { type: "image/svg+xml" }));
  await image.decode().catch(() => {});
  figure.dataset.drawn = "true";
}

// Those that come near the view first; the rest when nothing else is to be done, so that all are there to be printed.
function draw() {
  const waiting = new Set(document.querySelectorAll("figure[data-pack]"));
  const start = (figure) => (waiting.delete(figure) ? picture(figure) : Promise.resolve());
  const watcher = new IntersectionObserver((entries) => {
    entries.filter((entry) => entry.isIntersecting).forEach((entry) => start(entry.target));
  }, { rootMargin: "800px" });
  for (const figure of waiting) {
    watcher.observe(figure);
    const button = figure.querySelector("button");
    button.addEventListener("click", () => button.setAttribute("aria-pressed", String(figure.classList.toggle("wide"))));
  }
  const idle = window.requestIdleCallback ?? ((work) => setTimeout(work, 50));
  const next = () => {
    const [figure] = waiting;
    if (figure) start(figure).then(() => idle(next));
    else document.documentElement.dataset.drawn = "true";
  };
  idle(next);
}

// On paper nothing is closed.
window.addEventListener("beforeprint", () => {
  for (const closed of overview.querySelectorAll("details:not([open])")) {
    closed.open = true;
    window.addEventListener("afterprint", () => { closed.open = false; }, { once: true });
  }
});

function showOverview() {
  if (overview.hidden) {
    overview.hidden = false;
    runView.hidden = true;
    runView.replaceChildren();
    document.title = title;
    window.scrollTo(0, leftAt);
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (target && !(location.hash === "#runs" && leftAt > 0)) target.scrollIntoView();
    else leftBy?.focus({ preventScroll: true });
  }
}

async function showRun(index, digest) {
  const run = index.table.columns[0].texts.findIndex((name) => name === digest || (digest.length > 12 && digest.startsWith(name)));
  const content = run < 0
    ? [element("p", { class: "back" }, element("a", { href: "#runs" }, "← All runs")), element("h1", {}, `This report has no run ${digest}`)]
    : await runPage(index, run);
  if (location.hash !== `#run/${digest}`) return; // somebody was faster
  if (!overview.hidden) {
    leftAt = window.scrollY;
    leftBy = overview.contains(document.activeElement) ? document.activeElement : null;
  }
  overview.hidden = true;
  runView.replaceChildren(...content);
  runView.hidden = false;
  document.title = `${runView.querySelector("h1").textContent} · ${title}`;
  window.scrollTo(0, 0);
  runView.focus({ preventScroll: true });
}

function follow(index) {
  const named = location.hash.match(/^#run\/([0-9a-f]{4,64})$/);
  if (named) showRun(index, named[1]);
  else showOverview();
}

if (typeof DecompressionStream === "undefined") {
  for (const waiting of document.querySelectorAll(".waiting")) {
    waiting.textContent = "This browser is too old to read what is packed in this page (it has no DecompressionStream; browsers since 2023 have). The numbers are in table.md, table.csv and rows.csv beside it.";
  }
} else {
  fill().then((index) => {
    window.addEventListener("hashchange", () => follow(index));
    follow(index);
    draw();
  });
}
