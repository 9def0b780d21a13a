"use strict";
// Data that came with the page, as gzip in base64: inflated when they are asked for, and once.

const given = JSON.parse(document.getElementById("given").textContent);
const opened = new Map();

async function inflated(name) {
  const packed = atob(document.getElementById(`pack-${name}`).textContent);
  const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream);
}

// The data of a pack; a pack that is not there holds null.
function unpacked(name) {
  if (!given.packs.includes(name)) return Promise.resolve(null);
  if (!opened.has(name)) opened.set(name, inflated(name).then((found) => found.json()));
  return opened.get(name);
}

// An element with attributes and children. Texts become text nodes: nothing that came as data is ever read as HTML.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

function link(run) {
  return `#run/${run}`;
}
