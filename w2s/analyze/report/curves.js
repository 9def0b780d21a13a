// The course of one training, drawn: loss above, accuracies below, over optimizer steps.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 560;
const PLOT = { left: 54, right: 12, top: 10, height: 130, bottom: 24 };

function drawn(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Round numbers that lie between two values.
function ticks(low, high, about) {
  const raw = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at += 1) found.push(at * step + 0); // no negative zero
  return { found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

function ends(values, least) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const room = Math.max((high - low) * 0.06, least);
  return [low - room, high + room];
}

// One panel of curves that have one unit.
function panel(curves, title, lastStep, marks) {
  const known = curves.flatMap((curve) => curve.y.filter((value) => value !== null));
  if (!known.length) return null;
  const [low, high] = ends(known, title === "accuracy" ? 0.01 : 1e-4);
  const height = PLOT.top + PLOT.height + PLOT.bottom;
  const x = (step) => PLOT.left + (step / lastStep) * (WIDTH - PLOT.left - PLOT.right);
  const y = (value) => PLOT.top + ((high - value) / (high - low)) * PLOT.height;
  const label = `${title} over optimizer steps: ${curves.map((curve) => {
    const last = curve.y[curve.y.length - 1];
    return `${curve.name}, at the end ${last ?? "absent"}`;
  }).join("; ")}`;
  const picture = drawn("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": label, class: "curves" });
  const up = ticks(low, high, 4);
  for (const at of up.found) {
    picture.append(
      drawn("line", { class: "grid", x1: PLOT.left, x2: WIDTH - PLOT.right, y1: y(at), y2: y(at) }),
      drawn("text", { x: PLOT.left - 6, y: y(at) + 4, "text-anchor": "end" }, at.toFixed(up.digits)),
    );
  }
  for (const at of ticks(0, lastStep, 6).found.filter((step) => Number.isInteger(step))) {
    picture.append(drawn("text", { x: x(at), y: height - 6, "text-anchor": "middle" }, at.toLocaleString("en")));
  }
  for (const mark of marks) {
    picture.append(drawn("line", { class: "mark", x1: x(mark), x2: x(mark), y1: PLOT.top, y2: PLOT.top + PLOT.height }));
  }
  curves.forEach((curve, place) => {
    const points = curve.x.map((step, at) => [step, curve.y[at]]).filter(([, value]) => value !== null);
    const path = points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    picture.append(drawn("polyline", { class: `curve c${place}`, points: path }));
    if (points.length <= 30) {
      points.forEach(([step, value]) => picture.append(drawn("circle", { class: `dot c${place}`, cx: x(step), cy: y(value), r: 2.5 })));
    }
  });
  const names = curves.map((curve, place) => element("span", { class: `key c${place}` },
    curve.averaged > 1 ? `${curve.name} (mean of ${curve.averaged} steps)` : curve.name));
  return element("div", { class: "panel" }, element("p", { class: "legend" }, ...names), picture);
}

// All panels of a run. `chosen` are the steps that a selection took.
function courses(history, chosen) {
  const last = Math.max(1, ...history.flatMap((curve) => curve.x));
  const panels = ["loss", "accuracy"].map((unit) => {
    const own = history.filter((curve) => curve.panel === unit);
    return own.length ? panel(own, unit, last, unit === "accuracy" ? chosen : []) : null;
  });
  return element("div", { class: "panels" }, ...panels);
}
