// What the page shows: the network, place by place, and the numbers of the state.

const SVG = "http://www.w3.org/2000/svg";

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in node) node[name] = value; else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function shape(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

// The unit at one place: its shortcut above, its branch below with a box whose size shows the branch's share. A
// plain unit has no shortcut; what replaces its branch when it is off is a dashed line.
function unitAt(place, residual) {
  const svg = shape("svg", {viewBox: "0 0 34 62"});
  const line = shape("path", {class: residual ? "shortcut" : "shortcut absent", d: "M0 14 H34"});
  const branch = shape("path", {class: "branch", d: "M3 14 V42 H31 V14"});
  const box = shape("rect", {class: "box", x: 7, y: 32, width: 20, height: 20, rx: 3});
  svg.append(line, branch, box);
  const name = element("button", {className: "name", type: "button"});
  const alpha = element("input", {className: "alpha", type: "range", min: 0, max: 2, step: 0.05});
  const value = element("div", {className: "value"});
  const node = element("div", {className: "unit"}, svg, name, alpha, value);
  node.dataset.place = place;
  const unit = () => state.order[place];
  box.addEventListener("click", () => setGate(unit(), state.gates[unit()] > 0 ? 0 : 1));
  alpha.addEventListener("input", () => setGate(unit(), Number(alpha.value)));
  name.addEventListener("keydown", event => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (step && place + step in UNITS) {
      event.preventDefault();
      move(place, place + step);
      if (state.order[place + step] !== undefined) node.parentNode.querySelector(`[data-place="${place + step}"] .name`)?.focus();
    } else if (event.key === " " || event.key === "Enter") {
      event.preventDefault();
      setGate(unit(), state.gates[unit()] > 0 ? 0 : 1);
    }
  });
  drag(name, node, place);
  return node;
}

function drag(handle, node, place) {
  let target = null;
  const at = event => document.elementFromPoint(event.clientX, event.clientY)?.closest(".unit");
  handle.addEventListener("pointerdown", event => {
    handle.setPointerCapture(event.pointerId);
    node.classList.add("dragged");
  });
  handle.addEventListener("pointermove", event => {
    if (!node.classList.contains("dragged")) return;
    target?.classList.remove("over");
    target = at(event);
    target?.classList.add("over");
  });
  const end = event => {
    if (!node.classList.contains("dragged")) return;
    node.classList.remove("dragged");
    target?.classList.remove("over");
    const last = at(event);
    target = null;
    if (event.type === "pointerup" && last) move(place, Number(last.dataset.place));
  };
  handle.addEventListener("pointerup", end);
  handle.addEventListener("pointercancel", end);
}

function drawRuns() {
  const labels = GIVEN.runs.map(run => run.label);
  document.title = `resjax play: ${labels.join(", ")}`;
  $("title").textContent = labels.join(" and ");
  const {examples, of, split} = GIVEN.runs[0];
  $("sample").textContent = `${N} units. Numbers are of ${examples.toLocaleString()} of ${of.toLocaleString()} ` +
    `${split} examples. Click a box to switch a unit off, pull its slider to scale its branch (0 to 2), drag its ` +
    "number to another place.";
  for (const run of GIVEN.runs) {
    const stages = [];
    run.units.forEach((unit, place) => {
      if (!stages.length || stages.at(-1).stage !== unit.stage) {
        stages.push({stage: unit.stage, units: element("div", {className: "units"})});
      }
      stages.at(-1).units.append(unitAt(place, unit.residual));
    });
    const network = element("div", {className: "network"}, element("div", {className: "end"}, "stem"),
      ...stages.map(({stage, units}) =>
        element("div", {className: "stage"}, element("h3", {}, `stage ${stage}`), units)),
      element("div", {className: "end"}, "head"));
    const several = GIVEN.runs.length > 1;
    $("runs").append(element("section", {className: "run"}, ...(several ? [element("h2", {}, run.label)] : []),
      element("div", {className: "numbers"}), network, element("div", {className: "details"})));
  }
  $("reestimated").disabled = !GIVEN.runs.every(run => run.statistics);
  for (const id of ["reverse", "shuffle"]) $(id).disabled = !CHAINED;
}

function drawUnits() {
  $("reestimated").checked = state.reestimated;
  $("undo").disabled = !past.length;
  document.querySelectorAll(".unit").forEach(node => {
    const place = Number(node.dataset.place);
    const unit = state.order[place];
    const gate = state.gates[unit];
    node.classList.toggle("off", gate === 0);
    node.classList.toggle("moved", unit !== place);
    node.classList.toggle("stays", !UNITS[unit].deletable);
    const name = node.querySelector(".name");
    name.textContent = unit + 1;
    name.setAttribute("aria-label", `${UNITS[unit].name} at place ${place + 1}, ${gate > 0 ? "on" : "off"}`);
    node.title = UNITS[unit].name + (unit !== place ? `, at the place of ${UNITS[place].name}` : "");
    const alpha = node.querySelector(".alpha");
    alpha.value = gate;
    alpha.disabled = !UNITS[unit].deletable;
    alpha.setAttribute("aria-label", `factor of the branch of ${UNITS[unit].name}`);
    node.querySelector(".value").textContent = gate === 1 ? "" : `×${gate}`;
  });
}

const percent = x => `${(100 * x).toFixed(1)} %`;
const decimal = x => x === null ? "not finite" : x >= 100 ? x.toPrecision(3) : x.toFixed(2);

function show(found) {
  found.forEach((now, i) => showRun(document.querySelectorAll(".run")[i], now, GIVEN.runs[i].intact));
}

function showRun(section, now, before) {
  const number = (value, name, was) => element("div", {className: "number"}, element("b", {}, value),
    element("span", {}, `${name}, intact ${was}`));
  const [low, high] = now.between.map(x => (100 * x).toFixed(1));
  section.querySelector(".numbers").replaceChildren(
    number(percent(now.error), `error (${low} to ${high} %)`, percent(before.error)),
    number(decimal(now.loss), "loss", decimal(before.loss)),
    number(decimal(now.kl), "KL, nats", "0"),
    number(percent(now.agreement), "same answer", "100 %"),
  );
  if (now.branch) {
    section.querySelectorAll(".unit").forEach((node, place) => {
      const share = now.branch[place] ?? 0;
      const side = state.gates[state.order[place]] === 0 ? 10 : 6 + 20 * share;
      const box = node.querySelector(".box");
      for (const [name, value] of Object.entries({x: 17 - side / 2, y: 42 - side / 2, width: side, height: side})) {
        box.setAttribute(name, value);
      }
      box.style.opacity = 0.35 + 0.65 * share;
      node.querySelector(".branch").style.strokeWidth = 1 + 4 * share;
    });
  }
  const details = [];
  const panel = (title, ...nodes) => details.push(element("div", {}, element("h3", {}, title), ...nodes));
  if (now.class_error && now.class_error.length <= 40) {
    panel("Error by class (%)", bars(now.class_error.map((x, c) => [c, x === null ? 0 : x, 1, x === null ? "none" : percent(x)])));
  }
  const most = Math.max(...before.paths.log10.filter(x => x !== null), 1);
  panel("Paths left by length (log scale)", bars(now.paths.length.map((k, i) => {
    const log10 = now.paths.log10[i];
    return [k, log10 === null ? 0 : (log10 + 0.3) / (most + 0.3), 1, log10 === null ? "no path" : `10^${log10.toFixed(1)} paths`];
  })));
  if (now.some.length) {
    const more = now.changed > now.some.length ? `, ${now.some.length} of them` : "";
    panel(`Answers that changed: ${now.changed} of ${GIVEN.runs[0].examples}${more}`, element("div", {className: "pictures"},
      ...now.some.map(one => element("figure", {title: `example ${one.example}, of class ${one.label}`},
        ...(one.picture ? [element("img", {src: one.picture, alt: `example ${one.example}`})] : [`#${one.example}`]),
        `${one.before} → ${one.now}`))));
  } else {
    panel(`Answers that changed: ${now.changed}`);
  }
  section.querySelector(".details").replaceChildren(...details);
}

function bars(rows) {
  const every = Math.ceil(rows.length / 14);
  return element("div", {className: "bars"}, ...rows.map(([label, value, most, title], i) =>
    element("div", {title: `${label}: ${title}`}, element("i", {style: `height: ${80 * Math.min(value / most, 1)}px`}),
      element("u", {}, i % every ? "\u00a0" : String(label)))));
}

// The gradient by path length of one run, or the reason why it has none.
function showGradientOf(details, one) {
  const panel = title => element("div", {className: "gradient"}, element("h3", {}, title));
  details.querySelector(".gradient")?.remove();
  if (one.wrong) {
    details.append(panel(`No gradient by path length: ${one.wrong}`));
    return;
  }
  const most = Math.max(...one.share.filter(x => x !== null), 1e-9);
  const mean = one.mean === null ? "no gradient" : `mean length ${one.mean.toFixed(1)}`;
  const shown = panel(`Gradient by path length, of ${one.examples} examples (share of the norms, ${mean})`);
  shown.append(bars(one.length.map((k, j) => [k, one.share[j] ?? 0, most, percent(one.share[j] ?? 0)])));
  details.append(shown);
}
