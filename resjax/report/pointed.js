// A figure with data of its units answers the pointer: the same unit is highlighted in all figures, and a box
// shows its cells of the section's table. resjax/report/pointed.py says what the data are.

const PARTS = 10000;  // places are whole numbers of these parts of the picture's width or height
const AT_INIT = ", at init";
const narrow = matchMedia("(max-width: 640px)");

const element = (tag, parent, text, name) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (name) made.className = name;
  if (parent) parent.append(made);
  return made;
};

const figures = [...document.querySelectorAll("script.units")].map(script => {
  const figure = script.closest("figure");
  return {
    element: figure,
    ...JSON.parse(script.textContent),
    table: figure.closest("section").querySelector("table.numbers, table.units"),
    at: null,  // the point that the keyboard chose
  };
});

// --- which names are of one unit ---

const said = figures.flatMap(figure => figure.said);
const units = Object.create(null);  // {label: names of units}; a label may be the name of a method
for (const {label, layers, names} of said) {
  units[label] ??= new Set();
  if (!layers) names.forEach(name => units[label].add(name));
}

// A layer belongs to the unit in whose name its own begins; else it stands for itself.
function unitOf(label, name) {
  const parts = name.split("/");
  const beginnings = parts.map((_, i) => parts.slice(0, parts.length - i).join("/"));
  return beginnings.find(beginning => units[label].has(beginning)) ?? name;
}

for (const one of said) one.units = one.names.map(name => one.layers ? unitOf(one.label, name) : name);

// Networks whose units all have the same names, such as a network and its plain twin, are compared unit by
// unit; of others, each unit stands for itself. A figure of a given network has no label.
const twins = (a, b) => units[a].size === units[b].size && [...units[a]].every(name => units[b].has(name));
const comparable = (a, b) => a === b || !a || !b || twins(a, b);
const same = (a, b) => a.unit === b.unit && comparable(a.label, b.label);

// --- where they are ---

// All places of a figure in the form that is shown, one for each name: a band of the panel's full height, a
// row of its full width, or a point.
function placesOf(figure) {
  const form = narrow.matches ? "narrow" : "wide";
  figure.places ??= {};
  return figure.places[form] ??= figure[form].flatMap((place, i) => placesOfNames(figure.said[i], place));
}

function placesOfNames(said, {frame, x, y}) {
  return said.names.map((name, k) => {
    const [left, right] = x ? x.slice(2 * k) : [frame[0], frame[2]];
    const [top, bottom] = y ? y.slice(2 * k) : [frame[1], frame[3]];
    return {
      said, k, name, label: said.label, unit: said.units[k], panel: said.panel, left, right, top, bottom,
      x: (left + right) / 2, y: (top + bottom) / 2,
      point: Boolean(x && y), row: !x, map: !x || "values" in said,
    };
  }).filter(place => place.left !== null && place.top !== null);
}

// The places at a point; of single points, the nearest one.
function hits(figure, x, y) {
  const found = placesOf(figure).filter(p => p.left <= x && x <= p.right && p.top <= y && y <= p.bottom);
  const size = figure.element.getBoundingClientRect();
  const far = p => Math.hypot((p.x - x) * size.width, (p.y - y) * size.height);
  const nearest = Math.min(...found.filter(p => p.point).map(far));
  return found.filter(p => !p.point || far(p) === nearest);
}

// --- highlights ---

let kept = [];  // places whose units stay highlighted

// In the map to which the pointer points, one column and one row; elsewhere, all places of these units.
function highlight(chosen, pointed) {
  document.querySelectorAll(".unit-mark").forEach(mark => mark.remove());
  for (const figure of figures) {
    const crossed = chosen.filter(place => figure === pointed && place.map);
    const here = place => crossed.includes(place) || crossed.every(one => one.panel !== place.panel);
    mark(figure, placesOf(figure).filter(place => chosen.some(one => same(one, place)) && here(place)));
  }
}

function mark(figure, places) {
  const share = value => `${100 * value / PARTS}%`;
  for (const {left, top, right, bottom, point, map} of joined(places)) {
    const own = element("i", figure.element, undefined, "unit-mark");
    own.classList.toggle("point", point);
    own.classList.toggle("map", map);
    Object.assign(own.style, {
      left: share(left), top: share(top), width: share(right - left), height: share(bottom - top),
    });
  }
}

// Places beside each other as one, so that none is drawn twice: the layers of a unit, units of two networks.
function joined(places) {
  const found = [];
  for (const place of [...places].sort((a, b) => a.top - b.top || a.left - b.left)) {
    const last = found.at(-1);
    const beside = last && last.top === place.top && last.bottom === place.bottom && place.left <= last.right;
    if (beside && !place.point && !place.map) last.right = Math.max(last.right, place.right);
    else found.push({...place});
  }
  return found;
}

// --- the box ---

const box = element("div", document.body, undefined, "unit-box");
box.setAttribute("role", "status");
box.hidden = true;

// What the box shows of a place: one entry for each row of the table, and one more for values at init.
function entriesOf(figure, place) {
  const {said, k} = place;
  const heads = [...figure.table.tHead.rows[0].cells].map(cell => cell.textContent);
  return said.rows[k].flatMap(number => {
    const cells = [...figure.table.tBodies[0].rows[number].cells].map(cell => cell.textContent);
    const name = cells[said.own] === said.names[k] ? "" : cells[said.own];
    const by = said.by === undefined ? "" : cells[said.by];
    const now = Object.create(null), before = Object.create(null);
    for (const i of said.columns) {
      if (heads[i].endsWith(AT_INIT)) before[heads[i].slice(0, -AT_INIT.length)] = cells[i];
      else now[heads[i]] = cells[i];
    }
    const entry = (values, when) => ({label: said.label, told: [name, by, when], values});
    return Object.keys(before).length ? [entry(before, "at init"), entry(now, "now")] : [entry(now, "")];
  });
}

// The value of a map where a column and a row cross.
function crossing(places) {
  const column = places.find(place => place.said.values), row = places.find(place => place.row);
  if (!column || !row) return [];
  const value = column.said.values[row.k][column.k];
  return [{label: column.label, told: [], values: {[column.said.what]: value}}];
}

// The names of the units; where several networks have different ones there, each with its network.
function titleOf(places) {
  const names = [...new Set([...places].sort((a, b) => a.k - b.k).map(place => place.name))];
  const several = new Set(places.map(place => place.label)).size > 1 && names.length > 1;
  const labels = name => places.filter(place => place.name === name).map(place => place.label).join(", ");
  return names.map(name => several ? `${name} (${labels(name)})` : name).join(" and ");
}

function fill(figure, places) {
  box.replaceChildren();
  element("strong", box, titleOf(places));
  const entries = [...crossing(places), ...places.flatMap(place => entriesOf(figure, place))];
  const columns = [...new Set(entries.flatMap(entry => Object.keys(entry.values)))];
  if (!columns.length) return;
  const several = new Set(entries.map(entry => entry.label)).size > 1;
  const head = entry => [several ? entry.label : "", ...entry.told].filter(Boolean).join(", ");
  const lines = columns.map(column => [column, ...entries.map(entry => entry.values[column] ?? "–")]);
  const rows = [["", ...entries.map(head)], ...lines];
  const turned = entries.length > columns.length;
  const shown = turned ? rows[0].map((_, i) => rows.map(row => row[i])) : rows;
  const table = element("table", box);
  shown.forEach((cells, i) => {
    if (i === 0 && !cells.some(Boolean)) return;
    const line = element("tr", table);
    cells.forEach((cell, j) => {
      const [, value, interval] = cell.match(/^(\S.*?)( \(.* to .*\))$/) ?? [];
      const own = element(i === 0 || j === 0 ? "th" : "td", line, interval ? value : cell);
      if (interval) element("span", own, interval);  // the line breaks in front of it, not within
    });
  });
}

// Beside the highlighted unit at the height y (in the window) or, where there is no room, below or above its
// figure; never outside of the window.
function move(figure, places, y) {
  const size = figure.element.getBoundingClientRect(), page = document.documentElement, gap = 10, margin = 4;
  const here = one => places.some(place => place.panel === one.panel && same(place, one));
  const own = placesOf(figure).filter(one => !one.row && here(one));
  const left = size.left + Math.min(...own.map(place => place.left)) / PARTS * size.width - gap;
  const right = size.left + Math.max(...own.map(place => place.right)) / PARTS * size.width + gap;
  box.hidden = false;
  box.style.left = box.style.top = "0px";
  const {width, height} = box.getBoundingClientRect();
  const fits = {right: right + width + margin <= page.clientWidth, left: left - width >= margin};
  let at = [right, y + gap];
  if (!fits.right) at = [left - width, y + gap];
  if (!fits.right && !fits.left) {
    const below = size.bottom + height + margin <= page.clientHeight;
    at = [(left + right - width) / 2, below ? size.bottom : size.top - height];
  }
  const within = (value, room) => Math.max(margin, Math.min(value, room - margin));
  box.style.left = `${scrollX + within(at[0], page.clientWidth - width)}px`;
  box.style.top = `${scrollY + within(at[1], page.clientHeight - height)}px`;
}

function show(figure, places, y) {
  highlight(places, figure);
  mark(figure, places.filter(place => place.said.layers));  // darker than the rest of its unit
  fill(figure, places);
  move(figure, places, y);
}

function leave() {
  box.hidden = true;
  highlight(kept);
}

// --- pointer, touch and keyboard ---

// The point of an event in parts of the figure.
function pointOf(figure, event) {
  const size = figure.element.getBoundingClientRect();
  return [PARTS * (event.clientX - size.left) / size.width, PARTS * (event.clientY - size.top) / size.height];
}

// Where the keyboard may go: to the bands and points of all panels, from left to right, or to the rows of
// this panel, from top to bottom.
function stops(figure, rows) {
  const axis = rows ? "y" : "x", seen = new Set();
  return placesOf(figure)
    .filter(place => place.row === rows && (!rows || place.panel === figure.at?.panel))
    .sort((a, b) => a.panel - b.panel || a[axis] - b[axis])
    .filter(({panel, [axis]: at}) => !seen.has(`${panel} ${at}`) && seen.add(`${panel} ${at}`));
}

function go(figure, place) {
  // In a map, a band keeps the row, and a row keeps the band.
  const old = figure.at?.panel === place.panel ? figure.at : null;
  const row = place.point ? null : placesOf(figure).find(one => one.row && one.panel === place.panel);
  figure.at = {
    panel: place.panel,
    x: place.row ? old.x : place.x,
    y: row && !place.row ? old?.y ?? row.y : place.y,
  };
  const size = figure.element.getBoundingClientRect(), {x, y} = figure.at;
  show(figure, hits(figure, x, y), size.top + y / PARTS * size.height);
}

const STEPS = {ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity};

function forget() {
  kept = [];
  leave();
}

function press(figure, event) {
  const other = event.altKey || event.ctrlKey || event.metaKey;  // keys of the browser
  if (Object.hasOwn(STEPS, event.key) && !other) {
    const rows = ["ArrowUp", "ArrowDown"].includes(event.key), axis = rows ? "y" : "x";
    const way = stops(figure, rows);
    if (!way.length) return;  // the page scrolls
    event.preventDefault();
    const now = way.findIndex(one => one.panel === figure.at?.panel && one[axis] === figure.at[axis]);
    const next = now < 0 && event.key !== "End" ? 0 : now + STEPS[event.key];
    go(figure, way[Math.max(0, Math.min(next, way.length - 1))]);
  }
}

for (const figure of figures) {
  const own = figure.element;
  own.classList.add("pointed");
  own.tabIndex = 0;
  own.setAttribute("role", "group");
  own.setAttribute("aria-label", "Figure of units. The arrow keys choose one and read its numbers.");
  own.addEventListener("pointermove", event => {
    if (event.pointerType === "touch") return;  // it scrolls, or it will click
    const places = hits(figure, ...pointOf(figure, event));
    own.classList.toggle("on-unit", places.length > 0);
    if (places.length) show(figure, places, event.clientY);
    else leave();
  });
  own.addEventListener("pointerleave", event => event.pointerType === "touch" || leave());
  own.addEventListener("click", event => {
    const places = hits(figure, ...pointOf(figure, event));
    const again = places.length === kept.length && places.every(place => kept.includes(place));
    kept = again ? [] : places;
    if (kept.length) show(figure, places, event.clientY);
    else leave();
    event.stopPropagation();
  });
  own.addEventListener("keydown", event => press(figure, event));
  own.addEventListener("focus", () => {
    if (!own.matches(":focus-visible")) return;
    const way = stops(figure, false);
    if (way.length) go(figure, way.find(place => kept.some(one => same(one, place))) ?? way[0]);
  });
  own.addEventListener("blur", leave);
}
document.addEventListener("click", forget);
document.addEventListener("keydown", event => event.key === "Escape" && forget());
narrow.addEventListener("change", leave);
for (const hint of document.querySelectorAll(".hint")) hint.hidden = !figures.length;
