"use strict";
// The page of `aureon ui`. All that comes from the server is text, whatever is in it: elements are made here, and only
// their text is set. There is no innerHTML, and the page's Content-Security-Policy would not let it through.

const CLUSTER_EVERY_MS = 2000;
const LAKE_EVERY_MS = 6000;
const MAX_HEAT_TOPICS = 40;
const FEW_OUTCOMES = 8;
const AWAY = "`aureon ui` does not answer; is it still running?";
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);

// -- elements -------------------------------------------------------------------------------------------------------

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== "") made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function drawn(name, attributes, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

// columns: {title, number, of(row) -> text or element, mark(row) -> class}; the first one is the row's header.
function table(caption, columns, rows, none) {
  if (!rows.length) return element("p", { class: "soft" }, none);
  const head = element("tr");
  for (const c of columns) head.append(element("th", { scope: "col", class: c.number ? "number" : "" }, c.title));
  const body = element("tbody");
  for (const row of rows) {
    const line = element("tr");
    columns.forEach((c, place) => {
      const kind = [c.number ? "number" : "name", c.wide ?? "", c.mark ? c.mark(row) : ""].join(" ").trim();
      line.append(element(place ? "td" : "th", { class: kind, scope: place ? null : "row" }, c.of(row)));
    });
    body.append(line);
  }
  return scrolled(caption, element("table", {}, element("thead", {}, head), body));
}

// What scrolls has to be reached by keys, and then has to say what it is.
function scrolled(name, ...children) {
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name }, ...children);
}

// Put in place only where it has changed: whoever has marked text or a table scrolled is not disturbed.
const lastShown = new Map();
function show(id, data, make) {
  const told = JSON.stringify(data);
  if (lastShown.get(id) === told) return;
  lastShown.set(id, told);
  const place = byId(id);
  const before = place.querySelector(".scroll");
  const [top, left] = before ? [before.scrollTop, before.scrollLeft] : [0, 0];
  const hasFocus = before !== null && before === document.activeElement;
  const open = [...place.querySelectorAll("details")].map((details) => details.open);
  const made = make();
  place.replaceChildren(...(Array.isArray(made) ? made : [made]));
  place.querySelectorAll("details").forEach((details, n) => { details.open = open[n] ?? details.open; });
  const after = place.querySelector(".scroll");
  if (after) [after.scrollTop, after.scrollLeft] = [top, left];
  if (after && hasFocus) after.focus({ preventScroll: true });
}

// -- words ----------------------------------------------------------------------------------------------------------

const whole = (n) => Math.round(n).toLocaleString("en");
const percent = (share) => (share === null ? "" : `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`);
const seconds = (s) => `${Number(s.toPrecision(3))} s`;
const perSecond = (n) => (n < 10 ? n.toFixed(1) : whole(n));
const nameOf = (topic) => topic || "(no task)";

function ago(s) {
  if (s < 60) return `${Math.max(0, Math.round(s))} s`;
  if (s < 3600) return `${Math.round(s / 60)} min`;
  return s < 48 * 3600 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`;
}

function clock(at, stepS) {
  const date = new Date(at * 1000);
  if (stepS >= 86400) return date.toLocaleDateString();
  const second = stepS < 60 ? "2-digit" : undefined;
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second, hourCycle: "h23" });
  return stepS > 1800 ? `${date.toLocaleDateString([], { month: "short", day: "numeric" })} ${time}` : time;
}

function ranges(numbers) {
  const found = [];
  for (const n of numbers) {
    if (found.length && n === found.at(-1)[1] + 1) found.at(-1)[1] = n;
    else found.push([n, n]);
  }
  return found.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(", ") || "none";
}

// -- what goes wrong ------------------------------------------------------------------------------------------------

const troubles = new Map();
function trouble(what, text) {
  if (text) troubles.set(what, text);
  else troubles.delete(what);
  show("trouble", [...troubles], () => [...troubles].map(([name, told]) => element("p", { class: "trouble", "data-of": name }, told)));
}

async function ask(address) {
  const answer = await fetch(address, { cache: "no-store" });
  const kind = answer.headers.get("Content-Type") ?? "";
  return kind.startsWith("application/json") ? answer.json() : { error: await answer.text() };
}

// Ask again and again, and take a break while nobody looks.
function repeat(everyMs, look) {
  let timer = null;
  let running = false;
  const turn = async () => {
    clearTimeout(timer);
    if (running) return;
    running = true;
    try {
      if (!document.hidden) await look();
      trouble("aureon ui", null);
    } catch (error) {
      trouble("aureon ui", error instanceof TypeError ? AWAY : String(error));
      if (!(error instanceof TypeError)) console.error(error);
    }
    running = false;
    timer = setTimeout(turn, everyMs);
  };
  document.addEventListener("visibilitychange", () => document.hidden || turn());
  turn();
  return turn;
}

// -- the cluster ----------------------------------------------------------------------------------------------------

let cluster = null;
let lake = null;

async function lookAtCluster() {
  cluster = await ask("cluster.json");
  trouble("broker", cluster.broker_error);
  showCluster();
}

function showCluster() {
  const { kafka } = cluster;
  const lanes = kafka ? `, ${whole(kafka.lanes)} lanes` : cluster.broker_error ? "" : ", without Aureon's Kafka topics yet";
  const where = `broker ${cluster.broker ?? "none"}${lanes}${lake ? `; lake ${lake.lake}` : ""}`;
  show("where", where, () => where);
  const silent = cluster.cells.filter((c) => c.silent).length;
  const ill = cluster.nodes.filter((n) => n.silent || n.health === "unhealthy").length;
  const notes = lake?.notes;
  const tiles = [
    ["decisions a second", perSecond(cluster.cells.reduce((sum, c) => sum + (c.per_s ?? 0), 0))],
    ["rounds under way", whole(cluster.cells.reduce((sum, c) => sum + (c.silent ? 0 : c.under_way), 0))],
    ["messages waiting", kafka ? whole(Object.values(kafka.inputs).reduce((sum, i) => sum + i.waiting, 0)) : "?"],
    ["cells", silent ? `${cluster.cells.length - silent}, ${silent} silent` : `${cluster.cells.length}`, silent ? "bad" : ""],
    ["nodes", ill ? `${nodeNames().length}, some not well` : `${nodeNames().length}`, ill ? "warn" : ""],
    ["supervision root", rootSays(notes), notes?.silent ? "bad" : ""],
  ];
  show("tiles", tiles, () => tiles.map(([name, value, mark]) =>
    element("div", {}, element("dt", {}, name), element("dd", { class: mark ?? "" }, value))));
  show("cells", cluster.cells.map((c) => ({ ...c, heard_s: ago(c.heard_s) })), () => cellsTable(cluster.cells));
  show("nodes", [cluster.nodes, notes?.quarantines], () => nodesTable(cluster.nodes, notes?.quarantines ?? []));
  show("lag", kafka, () => lagTables(kafka));
}

function rootSays(notes) {
  if (!notes || notes.noted_at === null) return "none heard of";
  return `${ago(cluster.at - notes.noted_at)} ago`;
}

const nodeNames = () => [...new Set(cluster.nodes.map((n) => n.node))];

const heard = (c) => (c.silent ? `silent for ${ago(c.heard_s)}` : `${ago(c.heard_s)} ago`);

function cellsTable(cells) {
  return table("Cells", [
    { title: "cell", of: (c) => c.cell },
    { title: "heard", of: heard, mark: (c) => (c.silent ? "bad" : "good") },
    { title: "decided/s", number: true, of: (c) => (c.per_s === null ? "" : perSecond(c.per_s)) },
    { title: "under way", number: true, of: (c) => whole(c.under_way) },
    { title: "decided", number: true, of: (c) => whole(c.decided) },
    { title: "lanes", of: (c) => ranges(c.lanes) },
  ], cells, "No cell has been heard of: `aureon run` starts one.");
}

const MARKS = { healthy: "good", degraded: "warn", unhealthy: "bad" };

function nodesTable(nodes, quarantines) {
  const several = new Set(nodes.map((n) => n.cell)).size > 1;
  const topicsOf = (n, stage) => quarantines.filter((q) => q.node === n.node && q.stage === stage).map((q) => q.topic);
  const kept = (n) => [
    ["quarantined", topicsOf(n, "quarantined")],
    ["on probation", topicsOf(n, "probation")],
    ["not asked for a while", n.not_asked],
  ].filter(([, of]) => of.length).map(([what, of]) => `${what}: ${of.join(", ")}`).join("; ");
  return table("Nodes", [
    { title: "node", of: (n) => n.node },
    ...(several ? [{ title: "cell", of: (n) => n.cell }] : []),
    { title: "health", of: (n) => (n.silent ? "silent" : n.health), mark: (n) => (n.silent ? "bad" : MARKS[n.health] ?? "") },
    { title: "active", number: true, of: (n) => `${n.active}/${n.limit}` },
    { title: "waiting", number: true, of: (n) => whole(n.waiting) },
    { title: "errors", number: true, of: (n) => percent(n.errors), mark: (n) => (n.errors > 0.1 ? "warn" : "") },
    { title: "latency", number: true, of: (n) => seconds(n.latency_s) },
    { title: "kept out of", of: kept, mark: (n) => (kept(n) ? "warn" : "") },
  ], nodes, "No node has been heard of.");
}

function lagTables(kafka) {
  if (!kafka) return element("p", { class: "soft" }, "Nothing is known of it.");
  const inputs = table("What waits, by input", [
    { title: "input", of: ([name]) => name },
    { title: "waiting or under way", number: true, of: ([, i]) => whole(i.waiting) },
    { title: "decided", number: true, of: ([, i]) => whole(i.decided) },
    { title: "messages", number: true, of: ([, i]) => whole(i.messages) },
  ], Object.entries(kafka.inputs), "");
  const lanes = table("What waits, by lane", [
    { title: "lane", of: ([lane]) => `${lane}` },
    { title: "waiting or under way", number: true, of: ([, waiting]) => whole(waiting) },
  ], kafka.waiting_by_lane.map((waiting, lane) => [lane, waiting]), "");
  return [inputs, element("details", {}, element("summary", {}, "By lane"), lanes)];
}

// -- the lake -------------------------------------------------------------------------------------------------------

async function lookAtLake() {
  const asked = byId("over").value;
  const found = await ask(`lake.json?over=${encodeURIComponent(asked)}`);
  if (asked !== byId("over").value) return; // another one has been chosen meanwhile
  trouble("lake", found.error);
  if (!found.topics) return;
  lake = found;
  if (cluster) showCluster();
  show("chart", lake.throughput, () => chart(lake.throughput));
  show("rounds", lake.rounds, () => roundsTable(lake.rounds));
  show("topics", [lake.topics, lake.left_out, lake.notes.dying], () => topicsTable(lake));
  show("heat", [lake.notes.affinities, lake.notes.quarantines], () => heat(lake.notes));
  show("alerts", [lake.notes.alerts, Math.round(lake.at / 60)], () => alertsTable(lake));
  show("known-topics", lake.topics.map((t) => t.topic), () =>
    lake.topics.filter((t) => t.topic).map((t) => element("option", { value: t.topic })));
  show("latest", lake.latest, () => latestTable(lake.latest));
}

function alertsTable({ notes, at }) {
  return table("Alerts", [
    { title: "what", of: (a) => a.kind.replaceAll("_", " ") },
    { title: "ago", number: true, of: (a) => ago(at - a.at) },
    { title: "of", of: (a) => a.subject },
    { title: "why", of: (a) => a.text },
  ], notes.alerts, notes.noted_at === null ? "No root has noted anything: `aureon supervise` is one." : "None within a week.");
}

function bar(share) {
  const made = drawn("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  made.append(drawn("rect", { class: "ground", width: 100, height: 10 }), drawn("rect", { width: 100 * share, height: 10 }));
  return made;
}

function roundsTable(rounds) {
  return table("Convergence by round", [
    { title: "round", of: (r) => `${r.round}` },
    { title: "decided", number: true, of: (r) => whole(r.decided) },
    { title: "converged", number: true, of: (r) => whole(r.converged) },
    { title: "forced", number: true, of: (r) => whole(r.forced) },
    { title: "dead", number: true, of: (r) => whole(r.dead) },
    { title: "share", number: true, of: (r) => percent(r.share) },
    { title: "converged by then", number: true, of: (r) => percent(r.by_then) },
    { title: "", wide: "bar", of: (r) => bar(r.by_then) },
  ], rounds, "No round was decided within that time.");
}

function topicsTable({ topics, left_out, notes }) {
  const made = [table("Convergence by topic", [
    { title: "topic", of: (t) => nameOf(t.topic) },
    { title: "last minute", number: true, of: (t) => whole(t.last_minute) },
    { title: "decided", number: true, of: (t) => whole(t.decided) },
    { title: "converged", number: true, of: (t) => whole(t.converged) },
    { title: "forced", number: true, of: (t) => whole(t.forced) },
    { title: "dead", number: true, of: (t) => whole(t.dead), mark: (t) => (notes.dying.includes(t.topic) ? "bad" : "") },
    { title: "calls", number: true, of: (t) => whole(t.calls) },
  ], topics, "No round was decided within that time.")];
  if (left_out) made.push(element("p", { class: "soft" }, `and ${whole(left_out)} more topics`));
  return made;
}

function latestTable(latest) {
  return table("Decided last", [
    { title: "logical id", of: (l) => (l.topic && l.logical_id ? link(l.topic, l.logical_id) : l.logical_id) },
    { title: "topic", of: (l) => nameOf(l.topic) },
    { title: "round", number: true, of: (l) => `${l.round_index + 1}` },
    { title: "decision", of: (l) => l.kind.replaceAll("_", " ") },
    { title: "at", of: (l) => clock(l.at, 1) },
  ], latest, "Nothing within that time.");
}

// -- throughput -----------------------------------------------------------------------------------------------------

// The least round number that is not below.
function roundedUp(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((n) => n * power).find((n) => n >= most);
}

function chart({ since, step_s: stepS, topics, counts }) {
  if (!topics.length) return element("p", { class: "soft" }, "No round was decided within that time.");
  const steps = counts[0].length;
  const sums = counts[0].map((_, step) => counts.reduce((sum, of) => sum + of[step], 0));
  const top = roundedUp(Math.max(...sums) / stepS);
  const [width, height, left, right, above, below] = [1000, 260, 54, 10, 10, 24];
  const x = (step) => left + ((width - left - right) * step) / steps;
  const y = (rate) => height - below - ((height - above - below) * rate) / top;
  const all = sums.reduce((a, b) => a + b, 0);
  const told = `${whole(all)} rounds decided from ${clock(since, stepS)} on, ${Number((all / (steps * stepS)).toPrecision(3))} a second`;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": told });
  for (const share of [0, 0.5, 1]) {
    const at = y(share * top);
    svg.append(drawn("line", { class: "grid", x1: left, x2: width - right, y1: at, y2: at }));
    const label = `${Number((share * top).toPrecision(3))}${share === 1 ? "/s" : ""}`;
    svg.append(drawn("text", { x: left - 8, y: at + 4, "text-anchor": "end" }, label));
  }
  for (let step = 0; step < steps; step += 1) {
    let below_it = 0;
    counts.forEach((of, n) => {
      if (!of[step]) return;
      const [from, to] = [below_it / stepS, (below_it + of[step]) / stepS];
      below_it += of[step];
      const place = { x: x(step) + 0.5, y: y(to), width: Math.max(1, x(1) - x(0) - 1), height: y(from) - y(to) };
      svg.append(drawn("rect", { class: `s${n}`, ...place }));
    });
  }
  const labels = 6;
  for (let n = 0; n < labels; n += 1) {
    const step = Math.round((n * (steps - 1)) / (labels - 1));
    const anchor = n === 0 ? "start" : n === labels - 1 ? "end" : "middle";
    const middle = n === 0 ? x(step) : n === labels - 1 ? x(step + 1) : x(step + 0.5);
    svg.append(drawn("text", { x: middle, y: height - 6, "text-anchor": anchor }, clock(since + step * stepS, stepS)));
  }
  const legend = element("ul", { class: "legend", "aria-label": "Topics" });
  topics.forEach((topic, n) => {
    const dot = drawn("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" });
    dot.append(drawn("rect", { class: `s${n}`, width: 10, height: 10 }));
    legend.append(element("li", {}, dot, nameOf(topic)));
  });
  const numbers = table("Rounds decided, by time and topic", [
    { title: "from", of: ([step]) => clock(since + step * stepS, stepS) },
    { title: "rounds", number: true, of: ([, sum]) => whole(sum) },
    ...topics.map((topic, n) => ({ title: nameOf(topic), number: true, of: ([step]) => whole(counts[n][step]) })),
  ], sums.map((sum, step) => [step, sum]).filter(([, sum]) => sum), "");
  const asTable = element("details", {}, element("summary", {}, "As a table"), numbers);
  return [element("p", { class: "note" }, `${told}.`), scrolled("Throughput over time", svg), legend, asTable];
}

// -- affinities -----------------------------------------------------------------------------------------------------

function heat({ affinities, quarantines }) {
  if (!affinities.length) return element("p", { class: "soft" }, "No supervision root has noted any: `aureon supervise` is one.");
  const weight = new Map();
  for (const a of affinities) weight.set(a.topic, (weight.get(a.topic) ?? 0) + a.outcomes);
  const topics = [...weight.keys()].sort((a, b) => weight.get(b) - weight.get(a)).slice(0, MAX_HEAT_TOPICS).sort();
  const nodes = [...new Set(affinities.map((a) => a.node))].sort();
  const of = new Map(affinities.map((a) => [JSON.stringify([a.node, a.topic]), a]));
  const kept = new Map(quarantines.map((q) => [JSON.stringify([q.node, q.topic]), q.stage]));
  const head = element("tr", {}, element("th", { scope: "col" }, "node"));
  for (const topic of topics) head.append(element("th", { scope: "col" }, topic));
  const body = element("tbody");
  for (const node of nodes) {
    const line = element("tr", {}, element("th", { scope: "row" }, node));
    for (const topic of topics) {
      const key = JSON.stringify([node, topic]);
      const a = of.get(key);
      if (!a) {
        line.append(element("td", { class: "soft" }, "–"));
        continue;
      }
      const told = [];
      if (a.outcomes < FEW_OUTCOMES) told.push("few answers");
      if (kept.has(key)) told.push(kept.get(key));
      const mark = `h${Math.min(9, Math.floor(10 * a.quality))}${kept.has(key) ? " kept" : ""}`;
      line.append(element("td", { class: mark }, percent(a.quality), ...told.map((word) => element("small", {}, word))));
    }
    body.append(line);
  }
  const more = weight.size - topics.length;
  const made = [scrolled("Affinities by node and topic", element("table", { class: "heat" }, element("thead", {}, head), body))];
  if (more > 0) made.push(element("p", { class: "soft" }, `and ${whole(more)} more topics`));
  return made;
}

// -- a task ---------------------------------------------------------------------------------------------------------

const addressOf = (topic, id) => `?${new URLSearchParams({ topic, logical_id: id })}#task`;

function link(topic, id) {
  const made = element("a", { href: addressOf(topic, id) }, id);
  made.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    goTo(topic, id);
  });
  return made;
}

function goTo(topic, id) {
  history.pushState(null, "", addressOf(topic, id));
  lookForTask();
  byId("task").scrollIntoView();
}

let lookedFor = 0;
async function lookForTask() {
  const asked = new URLSearchParams(location.search);
  const [topic, id] = [asked.get("topic") ?? "", asked.get("logical_id") ?? ""];
  const form = byId("find");
  [form.elements.topic.value, form.elements.logical_id.value] = [topic, id];
  const place = byId("tree");
  if (!topic && !id) {
    place.replaceChildren();
    return;
  }
  const turn = (lookedFor += 1);
  place.replaceChildren(element("p", { class: "soft" }, "Looking …"));
  let found;
  try {
    found = await ask(`task.json?${new URLSearchParams({ topic, logical_id: id })}`);
  } catch {
    found = { error: AWAY };
  }
  if (turn !== lookedFor) return;
  if (found.error) {
    place.replaceChildren(element("p", { class: "trouble" }, found.error));
    return;
  }
  const more = found.cut ? [element("p", { class: "warn" }, "It has more tasks or rounds than are shown.")] : [];
  place.replaceChildren(...more, element("ul", { class: "tree" }, taskItem(found.root)));
}

const STATUS = { converged: "good", dead: "bad", cancelled: "warn", pending: "soft" };

function taskItem(task) {
  const kin = task.asked_for ? { class: "asked", open: "open", "aria-current": "true" } : { open: "open" };
  const name = element("summary", {}, element("b", {}, task.logical_id), ` on ${task.topic}: `,
    element("span", { class: STATUS[task.status] ?? "" }, task.status));
  const inside = element("details", kin, name);
  if (task.question !== null) inside.append(said("question", task.question));
  if (task.answer !== null) inside.append(said("answer", task.answer));
  const below = element("ul", {});
  for (const round of task.rounds) below.append(roundItem(round));
  for (const branch of task.branches) below.append(taskItem(branch));
  if (below.childElementCount) inside.append(below);
  else inside.append(element("p", { class: "soft" }, "No round of it is decided yet."));
  return element("li", {}, inside);
}

function said(what, text) {
  return element("div", { class: "said" }, element("span", { class: "soft" }, `${what}: `), text);
}

function sides(answer) {
  if (answer.status !== "ok") return answer.status;
  if (answer.gave_it === null) return "";
  return answer.gave_it ? "agrees" : "differs";
}

function roundItem(round) {
  const name = [`round ${round.round_index + 1} (r${round.round_index})`];
  if (round.generation) name.push(`generation ${round.generation}`);
  if (round.attempt) name.push(`attempt ${round.attempt}`);
  const figures = [
    round.confidence === null ? null : `confidence ${percent(round.confidence)}`,
    round.agreement === null ? null : `agreement ${percent(round.agreement)}`,
    round.score === null ? null : `score ${round.score.toFixed(2)}`,
    round.evidence,
    `${whole(round.calls)} calls`,
    seconds(round.latency_s),
    new Date(round.decided_at * 1000).toLocaleString([], { hourCycle: "h23" }),
  ].filter((text) => text);
  const kind = { converged: "good", dead: "bad", cancelled: "warn" }[round.kind] ?? "";
  const decision = round.kind.replaceAll("_", " ") + (round.forced ? ", forced" : "");
  const summary = element("summary", {}, `${name.join(", ")}: `, element("span", { class: kind }, decision),
    element("span", { class: "soft" }, ` (${round.reason}); ${figures.join(", ")}`));
  const inside = element("details", {}, summary);
  if (round.answer !== null) inside.append(said("leading answer", round.answer));
  if (round.flags.length) inside.append(said("flags", round.flags.join("; ")));
  inside.append(table("Answers of this round", [
    { title: "node", of: (a) => a.node },
    { title: "model", of: (a) => a.model },
    { title: "vote", of: sides, mark: (a) => (a.gave_it ? "good" : a.status === "failed" ? "bad" : "soft") },
    { title: "answer", of: (a) => element("div", { class: "said" }, a.text || a.error) },
    { title: "took", number: true, of: (a) => seconds(a.latency_s) },
  ], round.answers, "No model was asked."));
  return element("li", {}, inside);
}

// -- all of it ------------------------------------------------------------------------------------------------------

repeat(CLUSTER_EVERY_MS, lookAtCluster);
const lookAgain = repeat(LAKE_EVERY_MS, lookAtLake);
byId("over").addEventListener("change", lookAgain);
byId("find").addEventListener("submit", (event) => {
  event.preventDefault();
  goTo(event.target.elements.topic.value, event.target.elements.logical_id.value);
});
window.addEventListener("popstate", lookForTask);
lookForTask();
