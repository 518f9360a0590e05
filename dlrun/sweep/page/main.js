// The page: legend, stages, all charts, the table; drawn again when the width, the stage or the colours change.
const $ = id => document.getElementById(id);
const PAIRS = 6;

function select() {
  for (const chart of charts) {
    chart.select();
    for (const show of chart.brushes || []) show();
  }
  let count = 0;
  TRIALS.forEach((trial, i) => {
    const is = selected(trial);
    count += is;
    document.querySelector(`#trials tr[data-trial="${i}"]`).hidden = !is;
  });
  const clear = state.brushes.size ? [html("button", {type: "button", id: "clear"}, "clear the selection")] : [];
  $("selection").replaceChildren(`${count} of ${TRIALS.length} trials `, ...clear);
  $("clear")?.addEventListener("click", () => { state.brushes.clear(); select(); });
}

function drawLegend(placed) {
  const statuses = Object.keys(SHAPES).filter(status => TRIALS.some(trial => trial.status === status));
  const entry = (trial, words, colour) => {
    const picture = svg("svg", {width: 18, height: 18, "aria-hidden": "true"}, mark(trial, 9, 9, colour));
    return html("span", {}, picture, words);
  };
  const entries = [];
  for (const status of statuses) {
    const stages = status === "ok" && DATA.stages.length > 1 ? DATA.stages : [null];
    for (const stage of stages) {
      const trial = {status, stage: stage ? stage.number : DATA.stages[0].number};
      const words = (LABELS[status] || status) + (stage ? `, ${stage.name}` : "");
      entries.push(entry(trial, words, statusColour(trial)));
    }
  }
  if (TRIALS.some(trial => trial.best)) entries.push(entry({status: "ok", best: true}, "the best", css("--ok2")));
  if (placed.length > 1) {
    const stops = [0, .25, .5, .75, 1].map(share => ramp(share)).join(",");
    const bar = html("span", {class: "ramp", style: `background:linear-gradient(to right,${stops})`});
    const told = share => TRIALS[placed[Math.round(share * (placed.length - 1))]].told;
    const words = [`colour by place: best ${told(0)}`, bar, `median ${told(.5)}, worst ${told(1)}`];
    entries.push(html("span", {id: "places"}, ...words));
  }
  const legend = $("legend");
  legend.replaceChildren(...entries);
}

function drawStages() {
  if (DATA.stages.length < 2) return;
  const choose = number => {
    state.stage = number;
    for (const button of $("stages").children) {
      button.setAttribute("aria-pressed", String(button.dataset.stage === String(number)));
    }
    draw();
  };
  for (const [number, name] of [[null, "all stages"], ...DATA.stages.map(stage => [stage.number, stage.name])]) {
    const button = html("button", {type: "button", "aria-pressed": String(number === null)}, name);
    button.dataset.stage = String(number);
    button.addEventListener("click", () => choose(number));
    $("stages").append(button, " ");
  }
}

function figure(parent, name, note) {
  const node = html("figure", {}, ...(name ? [html("figcaption", {}, html("b", {}, name), " ", note)] : []));
  parent.append(node);
  return node;
}

function draw() {
  charts.length = 0;
  state.hot = state.pinned = null;
  tip.hidden = true;
  const placed = rerank();
  drawLegend(placed);
  for (const id of ["axes", "parallel", "pairs", "curves"]) $(id).replaceChildren();
  AXES.forEach((axis, k) => {
    const without = TRIALS.filter(trial => trial.at[k] === null).length;
    const notes = [axis.kind, axis.weight, axis.when ? `only when ${axis.when}` : "",
      without ? `${without} trials without it` : ""];
    drawAxis(figure($("axes"), axis.key, notes.filter(note => note).join(", ")), k);
  });
  drawParallel($("parallel"));
  drawPairs();
  drawCurves($("curves"));
  select();
}

// The pairs of the axes that matter most come first; the rest is drawn when it is asked for.
function drawPairs() {
  const pairs = [];
  AXES.forEach((one, a) => AXES.forEach((two, b) => { if (a < b) pairs.push([a, b]); }));
  const weight = ([a, b]) => (AXES[a].importance || 0) + (AXES[b].importance || 0);
  pairs.sort((p, q) => weight(q) - weight(p));
  $("pairs-section").hidden = !pairs.length;
  const drawAll = (parent, some) => some.forEach(([a, b]) => drawPair(figure(parent, "", ""), a, b));
  drawAll($("pairs"), pairs.slice(0, PAIRS));
  const rest = $("more-pairs");
  rest.hidden = pairs.length <= PAIRS;
  const grid = rest.querySelector(".grid");
  grid.replaceChildren();
  const show = () => { if (rest.open && !grid.children.length) { drawAll(grid, pairs.slice(PAIRS)); select(); } };
  rest.querySelector("summary").textContent = `the other ${pairs.length - PAIRS} pairs`;
  rest.ontoggle = show;
  show();
}

function sortTable(column, header) {
  const body = $("trials").tBodies[0], up = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = row => {
    const text = row.cells[column].dataset.v;
    return text === "" ? null : Number.isNaN(Number(text)) ? text : Number(text);
  };
  const rows = [...body.rows].map(row => [key(row), row]);
  // What has no value stays at the end in both directions.
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    const order = typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
    return up ? order : -order;
  });
  body.append(...rows.map(([, row]) => row));
}

function watchTable() {
  const table = $("trials");
  [...table.tHead.rows[0].cells].forEach((header, column) => {
    header.querySelector("button")?.addEventListener("click", () => sortTable(column, header));
  });
  for (const row of table.tBodies[0].rows) {
    const i = Number(row.dataset.trial);
    const middle = () => {
      const box = row.getBoundingClientRect();
      return {clientX: Math.min(innerWidth * .6, box.right), clientY: box.bottom};
    };
    row.addEventListener("pointerenter", event => { if (state.pinned === null) light(i, event); });
    row.addEventListener("pointerleave", () => { if (state.pinned === null) light(null); });
    row.addEventListener("focusin", event => { if (event.target.matches(":focus-visible")) light(i, middle()); });
    row.addEventListener("focusout", () => { if (state.pinned === null) light(null); });
    row.addEventListener("click", event => {
      if (!event.target.closest("a")) pin(state.pinned === i ? null : i, event);
    });
  }
}

function watchPage() {
  document.addEventListener("keydown", event => { if (event.key === "Escape") pin(null); });
  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", () => {
      const range = document.createRange();
      range.selectNodeContents(button.previousElementSibling);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      const copied = () => { button.textContent = "copied"; };
      // Of a file the browser may refuse: then the command is selected, to be copied by hand.
      if (navigator.clipboard) navigator.clipboard.writeText(getSelection().toString()).then(copied, () => {});
    });
  }
  let width = innerWidth, timer = 0;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(timer);
    timer = setTimeout(draw, 150);
  });
  dark.addEventListener("change", draw);
}

if (TRIALS.length) {
  drawStages();
  watchTable();
  watchPage();
  draw();
  document.body.classList.add("drawn");
}
