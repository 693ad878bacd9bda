// The state is {gates, order, reestimated}. Every change draws it, writes it into the address and asks the server
// for its numbers. One of these questions is on its way at a time; while it is, later states replace each other.

const N = GIVEN.runs[0].units.length;
// A unit can be changed if it can be in every run, because all runs get the same changes.
const UNITS = GIVEN.runs[0].units.map((unit, u) =>
  ({...unit, deletable: GIVEN.runs.every(run => run.units[u].deletable)}));
const CHAINED = GIVEN.runs.every(run => run.chained);
const $ = id => document.getElementById(id);
const range = n => Array.from({length: n}, (_, i) => i);
const intact = () => ({gates: Array(N).fill(1), order: range(N), reestimated: false});

let state = intact();
let past = [];
let log = [];

// --- the address ---

function written(s) {
  const parts = [];
  const changed = range(N).filter(u => s.gates[u] !== 1).map(u => `${u}:${s.gates[u]}`);
  if (changed.length) parts.push(`gates=${changed.join(",")}`);
  if (s.order.some((u, i) => u !== i)) parts.push(`order=${s.order.join(",")}`);
  if (s.reestimated) parts.push("reestimated");
  return parts.join("&");
}

// The state of an address; what does not fit this network, such as a part cut off, is left out.
function readAddress(text) {
  const s = intact();
  for (const part of text.replace(/^#/, "").split("&").filter(Boolean)) {
    const [name, value = ""] = part.split("=");
    if (name === "gates") {
      for (const pair of value.split(",")) {
        const [unit, gate] = pair.split(":").map(Number);
        if (unit in s.gates && Number.isFinite(gate)) s.gates[unit] = gate;
      }
    } else if (name === "order") {
      const order = value.split(",").map(Number);
      if (order.length === N && new Set(order).size === N && order.every(u => u in UNITS)) s.order = order;
    } else if (name === "reestimated") {
      s.reestimated = true;
    }
  }
  return s;
}

// --- questions ---

async function ask(question, body) {
  const response = await fetch(`ask/${question}`, {
    method: "POST",
    headers: {"X-Token": GIVEN.token, "Content-Type": "application/json"},
    body: JSON.stringify(body),
  });
  const answer = await response.json();
  if (answer.wrong) throw new Error(answer.wrong);
  return answer.found;
}

let asking = false;
let waiting = null;

async function measure() {
  waiting = state;
  if (asking) return;
  asking = true;
  document.body.classList.add("busy");
  while (waiting) {
    const own = waiting;
    waiting = null;
    try {
      const found = await ask("measure", {state: own});
      if (found) {
        if (!waiting) show(found);
        log.push({state: own, runs: found.map(numbersOf), at: new Date().toISOString()});
      } else {
        waiting ??= own;  // another question, or another window, has replaced it
      }
    } catch (error) {
      say(error.message, true);
    }
  }
  asking = false;
  document.body.classList.remove("busy");
}

const numbersOf = ({error, between, loss, kl, agreement}, i) =>
  ({run: GIVEN.runs[i].label, error, between, loss, kl, agreement});

function say(text, wrong = false) {
  $("message").textContent = text;
  $("message").classList.toggle("wrong", wrong);
}

// --- changes ---

function change(changes, text = "") {
  past.push(state);
  state = {...state, ...changes};
  say(text);
  moved();
}

function moved() {
  const text = written(state);
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  $("gradient").disabled = !CHAINED;
  drawUnits();
  measure();
}

function setGate(unit, gate) {
  if (!UNITS[unit].deletable) {
    const where = GIVEN.runs.find(run => !run.units[unit].deletable).label;
    return say(`In ${where}, ${UNITS[unit].name} changes the shape and has no shortcut, so it must stay as it is.`, true);
  }
  change({gates: state.gates.map((old, u) => u === unit ? gate : old)});
}

// Puts the unit at `from` in front of or behind that at `to`; the units of its class between them move along.
function move(from, to) {
  if (from === to) return;
  const own = UNITS[state.order[from]].class;
  const places = range(N).filter(i => UNITS[i].class === own);
  if (!CHAINED) return say("Other connections bypass the units of this network, so they can't change places.", true);
  if (UNITS[to].class !== own) {
    const names = places.map(i => UNITS[i].name);
    const where = names.length > 1 ? `the places of ${names[0]} to ${names.at(-1)} that are of its kind` : "its own place";
    return say(`Only equal units can change places: ${UNITS[state.order[from]].name} can run at ${where}.`, true);
  }
  const units = places.map(i => state.order[i]);
  const [unit] = units.splice(places.indexOf(from), 1);
  units.splice(places.indexOf(to), 0, unit);
  const order = [...state.order];
  places.forEach((place, i) => { order[place] = units[i]; });
  change({order});
}

const classes = () => [...new Set(UNITS.map(u => u.class))].map(c => range(N).filter(i => UNITS[i].class === c));

function shuffled(values) {
  const out = [...values];
  for (let i = out.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [out[i], out[j]] = [out[j], out[i]];
  }
  return out;
}

function reordered(how) {
  const order = range(N);
  for (const own of classes()) {
    const units = how(own.map(i => state.order[i]));
    own.forEach((place, i) => { order[place] = units[i]; });
  }
  change({order});
}

function deleteAtRandom() {
  const on = range(N).filter(u => UNITS[u].deletable && state.gates[u] > 0);
  const count = Number($("count").value);
  if (!(Number.isInteger(count) && count >= 1 && count <= on.length)) {
    return say(`${on.length} units are on and can be deleted, so the number must be 1 to ${on.length}.`, true);
  }
  const chosen = new Set(shuffled(on).slice(0, count));
  change({gates: state.gates.map((gate, u) => chosen.has(u) ? 0 : gate)});
}

let greedyOrder = null;

async function deleteLeastHarmful() {
  try {
    if (!greedyOrder) {
      say("Choosing the order in which each deletion harms least, on training examples …");
      $("greedy").disabled = true;
      greedyOrder = await ask("greedy", {});
      if (!greedyOrder) return say("Try again.");
    }
    const unit = greedyOrder.find(u => UNITS[u].deletable && state.gates[u] > 0);
    if (unit === undefined) return say("All units of the order are deleted.", true);
    change({gates: state.gates.map((gate, u) => u === unit ? 0 : gate)},
      `Deleted ${UNITS[unit].name}, which harms least, given those before it in the order.`);
  } catch (error) {
    say(error.message, true);
  } finally {
    $("greedy").disabled = false;
  }
}

// --- what is taken along ---

async function showGradient() {
  say("Sorting the gradient by path length …");
  $("gradient").disabled = true;
  const own = state;
  try {
    const found = await ask("gradient", {state: own});
    if (!found || own !== state) return say("The state has changed; ask again.");
    found.forEach((one, i) => showGradientOf(document.querySelectorAll(".run .details")[i], one));
    say("");
  } catch (error) {
    say(error.message, true);
  } finally {
    $("gradient").disabled = !CHAINED;
  }
}

async function copyPython() {
  try {
    const lines = (await ask("python", {state})).join("\n");
    $("code").textContent = lines;
    $("code").hidden = false;
    await navigator.clipboard.writeText(lines);
    say("Copied.");
  } catch (error) {
    say($("code").hidden ? error.message : "The lines are below.", $("code").hidden);
  }
}

function saveLog() {
  const file = new Blob([JSON.stringify(log, null, 1)], {type: "application/json"});
  const link = element("a", {href: URL.createObjectURL(file), download: "tried.json"});
  link.click();
  URL.revokeObjectURL(link.href);
}

// --- the start ---

$("intact").onclick = () => change(intact());
$("random").onclick = deleteAtRandom;
$("greedy").onclick = deleteLeastHarmful;
$("reverse").onclick = () => reordered(units => units.reverse());
$("shuffle").onclick = () => reordered(shuffled);
$("reestimated").onchange = () => change({reestimated: $("reestimated").checked});
$("undo").onclick = () => { if (past.length) { state = past.pop(); say(""); moved(); } };
$("gradient").onclick = showGradient;
$("python").onclick = copyPython;
$("save").onclick = saveLog;
addEventListener("hashchange", () => change(readAddress(location.hash)));

drawRuns();
state = readAddress(location.hash);
moved();
