// A page is described anew every second and the document is changed to match: what stays keeps its focus, its
// selection and its place. Elements with a `key` are found again wherever they move; others by their place.

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "path", "circle", "rect", "line", "g"]);

/** What the parts of a table are, said aloud: on narrow pages they are laid out as blocks, and would be no table any more. */
const ROLES = { table: "table", thead: "rowgroup", tbody: "rowgroup", tr: "row", td: "cell" };
const role = (tag, { scope }) => (tag === "th" ? (scope === "row" ? "rowheader" : "columnheader") : ROLES[tag]);

/** Describes an element. Children that are null, undefined or false are left out; others than descriptions are text. */
export function h(tag, attributes, ...children) {
  const shown = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  const given = attributes ?? {};
  const implied = role(tag, given);
  return { tag, attributes: implied ? { role: implied, ...given } : given, children: shown };
}

/** Makes the children of an element as described. */
export function patch(parent, wanted) {
  const keyed = new Map();
  for (const child of parent.childNodes) if (child.key !== undefined) keyed.set(child.key, child);
  let place = parent.firstChild;
  for (const one of wanted) {
    const node = reuse(place, one, keyed) ?? create(one);
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
    if (one.tag) update(node, one);
    else if (node.data !== String(one)) node.data = String(one);
  }
  while (place) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
}

function reuse(place, one, keyed) {
  if (!one.tag) return place?.nodeType === Node.TEXT_NODE ? place : null;
  const key = one.attributes.key;
  const found = key === undefined ? place : keyed.get(key);
  const same = found?.nodeType === Node.ELEMENT_NODE && found.localName === one.tag && found.key === key;
  return same ? found : null;
}

function create(one) {
  if (!one.tag) return document.createTextNode(String(one));
  const node = DRAWN.has(one.tag) ? document.createElementNS(SVG, one.tag) : document.createElement(one.tag);
  node.key = one.attributes.key;
  return node;
}

function update(node, { attributes, children }) {
  const before = node.described ?? {};
  for (const name of Object.keys(before)) if (!(name in attributes)) set(node, name, null);
  for (const [name, value] of Object.entries(attributes)) if (before[name] !== value) set(node, name, value);
  node.described = attributes;
  patch(node, children);
}

function set(node, name, value) {
  if (name === "key") return;
  if (name === "vars") {
    // Custom properties, set one by one: the page's policy forbids style attributes.
    for (const [variable, text] of Object.entries(value ?? {})) node.style.setProperty(`--${variable}`, text);
  } else if (name.startsWith("on") || name === "data") {
    node[name] = value;
  } else if (value === null || value === undefined || value === false) {
    node.removeAttribute(name);
  } else {
    node.setAttribute(name, value === true ? "" : value);
  }
}

/** A state as a shape, so that it can be told without its colour. */
export function mark(kind) {
  const shapes = {
    good: ["path", { d: "M2.5 6.5 5 9l4.5-6", fill: "none", stroke: "currentColor", "stroke-width": "2" }],
    warn: ["path", { d: "M6 1.5 11 10.5H1z", fill: "currentColor" }],
    bad: ["path", { d: "M2.5 2.5l7 7m0-7-7 7", fill: "none", stroke: "currentColor", "stroke-width": "2.2" }],
    idle: ["circle", { cx: "6", cy: "6", r: "3.6", fill: "none", stroke: "currentColor", "stroke-width": "2" }],
    pause: ["path", { d: "M2.5 2h2.4v8H2.5zM7.1 2h2.4v8H7.1z", fill: "currentColor" }],
  };
  const [tag, attributes] = shapes[kind];
  return h("svg", { class: `mark ${kind}`, viewBox: "0 0 12 12", width: "12", height: "12", "aria-hidden": "true" }, h(tag, attributes));
}
