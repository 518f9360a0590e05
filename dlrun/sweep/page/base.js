// What all charts share: the data, what is selected and highlighted, drawing, and the tooltip.
const DATA = JSON.parse(document.getElementById("data").textContent);
const TRIALS = DATA.trials, AXES = DATA.axes;
const LABELS = {oom: "out of memory", timeout: "timed out"};
const SMALL = DATA.mode === "min";
const SHAPES = {
  ok: "M4,0A4,4 0 1 1 -4,0A4,4 0 1 1 4,0Z",
  pruned: "M0,-4.5L4.5,0L0,4.5L-4.5,0Z",
  diverged: "M-4,-4L4,4M-4,4L4,-4",
  failed: "M0,-4.5L4.5,3.5L-4.5,3.5Z",
  oom: "M-4,-4H4V4H-4Z",
  timeout: "M-4,-4.5H4L-4,4.5H4Z",
};
const PAD = 7;
const OTHER = "M-4,0H4M0,-4V4";
const COLOURS = {pruned: "--pruned", diverged: "--bad"};
const dark = matchMedia("(prefers-color-scheme: dark)");
// Cividis (Nunez et al. 2018): its order shows in lightness too, whatever colours the reader sees. The best stand out.
const RAMPS = {
  light: [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [190, 172, 84]],
  dark: [[254, 232, 56], [200, 184, 102], [148, 142, 119], [104, 108, 122], [70, 88, 140]],
};

const state = {stage: null, brushes: new Map(), hot: null, pinned: null};
const charts = [];
const rank = new Map();

function svg(name, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function html(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function css(name) {
  return `var(${name})`;
}

function shown(trial) {
  return state.stage === null || trial.stage === state.stage;
}

function selected(trial) {
  if (!shown(trial)) return false;
  for (const [key, [low, high]] of state.brushes) {
    const at = key === "score" ? trial.score : trial.at[key];
    if (at === null || at < low || at > high) return false;
  }
  return true;
}

// 0 for the best of the trials that are shown, 1 for the worst: so colours use the whole ramp whatever the scores.
function rerank() {
  rank.clear();
  const placed = TRIALS.map((trial, i) => i).filter(i => TRIALS[i].exact !== null && shown(TRIALS[i]));
  placed.sort((a, b) => (SMALL ? 1 : -1) * (TRIALS[a].exact - TRIALS[b].exact));
  placed.forEach((i, place) => rank.set(i, placed.length > 1 ? place / (placed.length - 1) : 0));
  return placed;
}

function ramp(share) {
  const stops = dark.matches ? RAMPS.dark : RAMPS.light;
  const place = share * (stops.length - 1), low = Math.min(Math.floor(place), stops.length - 2);
  const mixed = stops[low].map((part, k) => Math.round(part + (place - low) * (stops[low + 1][k] - part)));
  return `rgb(${mixed.join(",")})`;
}

function byPlace(i) {
  return rank.has(i) ? ramp(rank.get(i)) : statusColour(TRIALS[i]);
}

function statusColour(trial) {
  if (trial.status === "ok") return stageColour(trial.stage);
  return css(COLOURS[trial.status] || "--broken");
}

// Later stages are darker: of one stage alone, the middle colour.
function stageColour(number) {
  const place = DATA.stages.findIndex(stage => stage.number === number), last = DATA.stages.length - 1;
  if (last <= 0) return css("--ok2");
  return css(["--ok1", "--ok2", "--ok3"][place === 0 ? 0 : place === last ? 2 : 1]);
}

// The mark of a trial: its shape tells how it ended, and so does the colour.
function mark(trial, x, y, colour) {
  const path = svg("path", {class: "mark", d: SHAPES[trial.status] || OTHER, transform: `translate(${x},${y})`});
  path.style.stroke = colour;
  if (trial.status === "ok") {
    path.style.fill = colour;
    path.style.fillOpacity = .75;
    path.style.strokeWidth = .8;
  }
  if (!trial.best) return path;
  const ring = svg("circle", {cx: x, cy: y, r: 8, class: "mark", "stroke-width": 1.6});
  ring.style.stroke = css("--ring");
  return svg("g", {}, path, ring);
}

// Worst first, so that the best lie on top.
function drawingOrder() {
  const place = i => rank.has(i) ? rank.get(i) : 2;
  return TRIALS.map((trial, i) => i).filter(i => shown(TRIALS[i])).sort((a, b) => place(b) - place(a) || a - b);
}

// A chart with room around it. `things` are added with `put`, and found again by the pointer.
class Chart {
  constructor(parent, height, margin, label) {
    this.width = Math.max(parent.clientWidth, 120);
    this.height = height;
    this.margin = margin;
    this.root = svg("svg", {width: this.width, height, role: "img", "aria-label": label});
    this.back = svg("g"); this.marks = svg("g", {class: "marks"}); this.front = svg("g", {class: "hot"});
    this.root.append(this.back, this.marks, this.front);
    this.things = new Map();
    this.left = margin.left; this.right = this.width - margin.right;
    this.top = margin.top; this.bottom = height - margin.bottom;
    parent.append(this.root);
    this.root.addEventListener("pointermove", event => this.seek(event));
    this.root.addEventListener("pointerleave", () => { if (state.pinned === null) light(null); });
    this.root.addEventListener("click", event => {
      if (!event.target.closest(".grab")) pin(this.nearest(event), event);
    });
    charts.push(this);
  }
  // Marks at the ends of a scale keep some distance from the frame.
  x(at) { return this.left + PAD + at * (this.right - this.left - 2 * PAD); }
  y(at) { return this.bottom - PAD - at * (this.bottom - this.top - 2 * PAD); }
  text(x, y, words, attributes) {
    const node = svg("text", {x, y, ...attributes}, words);
    this.back.append(node);
    return node;
  }
  line(x1, y1, x2, y2, kind) { this.back.append(svg("line", {x1, y1, x2, y2, class: kind})); }
  rect(x, y, width, height, colour) {
    const node = svg("rect", {x, y, width: Math.max(width, 0), height: Math.max(height, 0)});
    node.style.fill = css(colour);
    this.back.append(node);
    return node;
  }
  scaleX(scale, gridlines) {
    const room = (this.right - this.left) / Math.max(scale.ticks.length, 1);
    for (const [at, words] of scale.ticks) {
      const x = this.x(at);
      this.line(x, gridlines ? this.top : this.bottom, x, this.bottom + 4, gridlines ? "gridline" : "axis");
      this.text(x, this.bottom + 15, cut(words, room), {"text-anchor": "middle"}).append(svg("title", {}, words));
    }
    for (const at of scale.minor) this.line(this.x(at), this.bottom, this.x(at), this.bottom + 3, "axis");
    this.line(this.left, this.bottom, this.right, this.bottom, "axis");
  }
  scaleY(scale) {
    for (const [at, words] of scale.ticks) {
      this.line(this.left - 3, this.y(at), this.right, this.y(at), "gridline");
      this.text(this.left - 6, this.y(at) + 4, cut(words, this.left - 8), {"text-anchor": "end"})
        .append(svg("title", {}, words));
    }
    for (const at of scale.minor) this.line(this.left - 3, this.y(at), this.left, this.y(at), "axis");
    this.line(this.left, this.top, this.left, this.bottom, "axis");
  }
  // `points`: of the line or the one point by which the pointer finds it.
  put(i, node, points) {
    this.marks.append(node);
    this.things.set(i, {node, points});
  }
  nearest(event) {
    const box = this.root.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let found = null, least = 18;
    for (const [i, {points}] of this.things) {
      if (!selected(TRIALS[i])) continue;
      const far = distance(points, x, y);
      if (far < least) [found, least] = [i, far];
    }
    return found;
  }
  seek(event) { if (event.pointerType !== "touch" && state.pinned === null) light(this.nearest(event), event); }
  light(i) {
    this.front.replaceChildren();
    const thing = i === null ? undefined : this.things.get(i);
    this.root.classList.toggle("dim", thing !== undefined);
    if (thing) this.front.append(thing.node.cloneNode(true));
  }
  select() {
    for (const [i, {node}] of this.things) node.classList.toggle("out", !selected(TRIALS[i]));
  }
}

function distance(points, x, y) {
  if (points.length === 1) return Math.hypot(points[0][0] - x, points[0][1] - y);
  let least = Infinity;
  for (let k = 1; k < points.length; k++) {
    const [x1, y1] = points[k - 1], [x2, y2] = points[k], dx = x2 - x1, dy = y2 - y1;
    const along = Math.min(Math.max(((x - x1) * dx + (y - y1) * dy) / (dx * dx + dy * dy || 1), 0), 1);
    least = Math.min(least, Math.hypot(x1 + along * dx - x, y1 + along * dy - y));
  }
  return least;
}

// About six pixels for a letter.
function cut(words, room) {
  const letters = Math.max(Math.floor(room / 6), 3);
  return words.length > letters ? words.slice(0, letters - 1) + "…" : words;
}

// Points on top of each other are moved apart by a part of their own, the same at every drawing.
function apart(i) {
  return ((i * 0.618034) % 1) - .5;
}

const tip = document.getElementById("tip");

function light(i, event) {
  if (state.hot !== i) {
    state.hot = i;
    for (const chart of charts) chart.light(i);
    for (const row of document.querySelectorAll("#trials tr.hot")) row.classList.remove("hot");
    if (i !== null) document.querySelector(`#trials tr[data-trial="${i}"]`)?.classList.add("hot");
  }
  tell(i, event);
}

function pin(i, event) {
  state.pinned = i;
  light(i, event);
}

function tell(i, event) {
  tip.hidden = i === null || !event;
  if (tip.hidden) return;
  const trial = TRIALS[i], rows = [[DATA.metric, trial.told]];
  AXES.forEach((axis, k) => { if (trial.values[k] !== null) rows.push([axis.key, trial.values[k]]); });
  rows.push(...trial.more, ["epochs", trial.epochs], ["seconds", trial.seconds]);
  const table = html("table", {});
  for (const [key, value] of rows) {
    table.append(html("tr", {}, html("td", {class: "key"}, key), html("td", {}, value)));
  }
  const end = html("span", {class: trial.status}, LABELS[trial.status] || trial.status);
  tip.replaceChildren(html("b", {}, trial.id), " ", end, trial.best ? ", the best" : "", table);
  if (trial.reason) tip.append(html("div", {class: "key"}, trial.reason));
  const box = tip.getBoundingClientRect(), gap = 14;
  const right = event.clientX + gap + box.width < innerWidth;
  const x = right ? event.clientX + gap : Math.max(event.clientX - gap - box.width, 4);
  tip.style.left = `${Math.min(x, Math.max(innerWidth - box.width - 4, 4))}px`;
  tip.style.top = `${Math.max(Math.min(event.clientY + gap, innerHeight - box.height - 4), 4)}px`;
}
