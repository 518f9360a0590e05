// Every axis against the metric, pairs of axes, parallel coordinates, learning curves.
const better = SMALL ? "low is good" : "high is good";
const LANES = ["diverged", "failed", "oom", "timeout"];
const SHORT = {oom: "no memory"};

function jitter(axis, i, room) {
  return axis.values !== null && room / axis.values > 8 ? apart(i) * .6 * room / axis.values : 0;
}

// Trials without a score lie in lanes beyond the bad end of the scale, one for each way to end.
function lanesOf(trials) {
  const found = [...new Set(trials.filter(trial => trial.score === null).map(trial => trial.status))];
  return found.sort((a, b) => LANES.indexOf(a) - LANES.indexOf(b));
}

function drawAxis(parent, k) {
  const axis = AXES[k], order = drawingOrder();
  const lanes = lanesOf(order.map(i => TRIALS[i])), room = 15 * lanes.length + (lanes.length ? 6 : 0);
  const bars = axis.ranges.length + (axis.next ? 1 : 0), below = bars > 1 ? 13 * bars + 4 : 0;
  const margin = {left: 70, right: 14, top: 18 + (SMALL ? room : 0), bottom: 20 + below + (SMALL ? 0 : room)};
  const label = `${DATA.metric} against ${axis.key}: ${order.length} trials; the table of all trials has the values`;
  const chart = new Chart(parent, 210 + room + below, margin, label);
  if (SMALL || !lanes.length) chart.text(chart.left, 11, `${DATA.metric}, ${better}`, {"text-anchor": "start"});
  if (axis.avoid) {
    const from = chart.x(axis.avoid.from);
    chart.rect(from, chart.top, chart.x(axis.avoid.to) - from, chart.bottom - chart.top, "--avoid");
    const end = axis.avoid.from > 0;
    chart.text(chart.x(end ? 1 : 0) + (end ? 4 : -4), chart.top + 12, axis.avoid.text,
      {"text-anchor": end ? "end" : "start", class: "halo"});
  }
  // With lanes below the scale, the numbers go below the lanes.
  const scaleAt = chart.bottom;
  chart.scaleY(DATA.score);
  const laneAt = {};
  lanes.forEach((status, n) => {
    const y = SMALL ? chart.top - 10 - 15 * (lanes.length - 1 - n) : scaleAt + 12 + 15 * n;
    laneAt[status] = y;
    chart.line(chart.left, y, chart.right, y, "gridline");
    chart.text(chart.left - 6, y + 4, SHORT[status] || LABELS[status] || status, {"text-anchor": "end"});
  });
  if (!SMALL) {
    if (lanes.length) chart.text(chart.left, 11, `${DATA.metric}, ${better}`, {"text-anchor": "start"});
    chart.bottom += room;
  }
  chart.scaleX(axis, true);
  chart.bottom = scaleAt;
  if (bars > 1) drawRanges(chart, axis, scaleAt + (SMALL ? 0 : room) + 24);
  for (const i of order) {
    const trial = TRIALS[i];
    if (trial.at[k] === null) continue;
    const x = chart.x(trial.at[k]) + jitter(axis, i, chart.right - chart.left);
    const y = trial.score === null ? laneAt[trial.status] : chart.y(trial.score);
    chart.put(i, mark(trial, x, y, statusColour(trial)), [[x, y]]);
  }
}

function stageName(number) {
  return DATA.stages.find(stage => stage.number === number).name;
}

// What each stage searched, and what the next one might.
function drawRanges(chart, axis, top) {
  const all = axis.ranges.map(range => ({...range, name: stageName(range.stage), colour: stageColour(range.stage)}));
  if (axis.next) all.push({...axis.next, name: "next", colour: css("--soft")});
  all.forEach((range, n) => {
    const y = top + 13 * n, from = chart.x(Math.max(range.from, 0)), to = chart.x(Math.min(range.to, 1));
    const bar = svg("rect", {x: from, y, width: Math.max(to - from, 2), height: 4, rx: 2});
    bar.style.fill = range.colour;
    bar.append(svg("title", {}, `${range.name}: ${range.text}`));
    chart.back.append(bar);
    chart.text(chart.left - 6, y + 6, range.name, {"text-anchor": "end"});
  });
}

function drawPair(parent, a, b) {
  const one = AXES[a], two = AXES[b];
  const label = `${two.key} against ${one.key}, coloured by ${DATA.metric}; the table of all trials has the values`;
  const chart = new Chart(parent, 230, {left: 52, right: 12, top: 18, bottom: 36}, label);
  chart.scaleX(one, true);
  chart.scaleY(two);
  chart.text(chart.left, 11, two.name, {class: "strong"});
  chart.text(chart.right, chart.bottom + 30, one.name, {"text-anchor": "end", class: "strong"});
  for (const i of drawingOrder()) {
    const trial = TRIALS[i];
    if (trial.at[a] === null || trial.at[b] === null) continue;
    const x = chart.x(trial.at[a]) + jitter(one, i, chart.right - chart.left);
    const y = chart.y(trial.at[b]) + jitter(two, i * 7 + 3, chart.bottom - chart.top);
    chart.put(i, mark(trial, x, y, byPlace(i)), [[x, y]]);
  }
}

function drawCurves(parent) {
  const label = `learning curves of ${TRIALS.length} trials`;
  const chart = new Chart(parent, 360, {left: 60, right: 70, top: 20, bottom: 36}, label);
  const clip = svg("clipPath", {id: "inside"}, svg("rect", {
    x: chart.left, y: chart.top - 3, width: chart.right - chart.left + 8, height: chart.bottom - chart.top + 6}));
  chart.root.prepend(svg("defs", {}, clip));
  chart.scaleX(DATA.epochs, false);
  chart.scaleY(DATA.curve);
  chart.text(chart.left, 12, `${DATA.metric}, ${better}`);
  chart.text(chart.right, chart.bottom + 30, "epochs", {"text-anchor": "end"});
  for (const i of drawingOrder()) {
    const trial = TRIALS[i];
    if (!trial.curve.length) continue;
    const points = trial.curve.map(([x, y]) => [chart.x(x), chart.y(y)]), [x, y] = points[points.length - 1];
    const line = svg("polyline", {class: "line", points: points.map(point => point.join(",")).join(" ")});
    line.style.stroke = byPlace(i);
    const group = svg("g", {}, line);
    if (trial.status !== "ok" || points.length === 1 || trial.best) group.append(mark(trial, x, y, byPlace(i)));
    if (trial.best) group.append(svg("text", {x: x + 11, y: y + 4, class: "strong"}, "the best"));
    chart.put(i, group, points);
  }
}

function drawParallel(parent) {
  const columns = [
    ...AXES.map((axis, k) => ({name: axis.name, key: axis.key, scale: axis, at: t => t.at[k], brush: k})),
    {name: DATA.metric, key: DATA.metric, scale: DATA.score, at: t => t.score, brush: "score"}];
  const inner = html("div", {style: `min-width:${columns.length * 105}px`});
  parent.append(html("div", {class: "scroll"}, inner));
  const chart = new Chart(inner, 340, {left: 64, right: 64, top: 34, bottom: 34},
    `parallel coordinates of ${TRIALS.length} trials over ${columns.length} axes`);
  const x = n => chart.x(n / Math.max(columns.length - 1, 1)), off = chart.bottom + 18;
  if (TRIALS.some(trial => shown(trial) && columns.some(column => column.at(trial) === null))) {
    chart.text(chart.left - 10, off + 4, "none", {"text-anchor": "end"});
    chart.line(chart.left, off, chart.right, off, "gridline");
  }
  for (const i of drawingOrder()) {
    const trial = TRIALS[i];
    const points = columns.map((column, n) => [x(n), column.at(trial) === null ? off : chart.y(column.at(trial))]);
    const line = svg("polyline", {class: "line", points: points.map(point => point.join(",")).join(" ")});
    line.style.stroke = byPlace(i);
    if (!rank.has(i)) line.style.strokeDasharray = "4 3";
    const group = svg("g", {}, line);
    if (trial.best || !rank.has(i)) group.append(mark(trial, ...points[points.length - 1], byPlace(i)));
    chart.put(i, group, points);
  }
  columns.forEach((column, n) => drawColumn(chart, column, x(n), n === columns.length - 1));
}

function drawColumn(chart, column, x, last) {
  const front = svg("g", {});
  chart.root.append(front);
  const text = (at, y, words, kind) => front.append(svg("text", {x: at, y, ...kind}, cut(words, 96),
    svg("title", {}, words)));
  front.append(svg("line", {x1: x, y1: chart.top, x2: x, y2: chart.bottom, class: "axis"}));
  text(x, 14, column.name, {"text-anchor": "middle", class: "strong"});
  if (last) text(x, 26, better, {"text-anchor": "middle"});
  for (const [at, words] of column.scale.ticks) {
    front.append(svg("line", {x1: x - 3, y1: chart.y(at), x2: x + 3, y2: chart.y(at), class: "axis"}));
    const node = svg("text", {x: x + 6, y: chart.y(at) + 4, class: "strong halo"}, cut(words, last ? 56 : 90));
    node.append(svg("title", {}, words));
    front.append(node);
  }
  drawBrush(chart, front, column, x);
}

function drawBrush(chart, front, column, x) {
  const place = {x: x - 14, y: chart.top - 6, width: 28, height: chart.bottom - chart.top + 12};
  const grab = svg("rect", {class: "grab", ...place});
  grab.append(svg("title", {}, `drag along ${column.key} to select trials; click to clear`));
  const shownBrush = svg("rect", {class: "brush", x: x - 6, width: 12, visibility: "hidden", "pointer-events": "none"});
  front.append(shownBrush, grab);
  const at = event => {
    const y = event.clientY - chart.root.getBoundingClientRect().top;
    return (chart.bottom - PAD - y) / (chart.bottom - chart.top - 2 * PAD);
  };
  const show = () => {
    const brush = state.brushes.get(column.brush);
    shownBrush.setAttribute("visibility", brush ? "visible" : "hidden");
    if (!brush) return;
    const top = chart.y(Math.min(brush[1], 1.02)), bottom = chart.y(Math.max(brush[0], -.02));
    shownBrush.setAttribute("y", top);
    shownBrush.setAttribute("height", Math.max(bottom - top, 1));
  };
  let from = null;
  grab.addEventListener("pointerdown", event => {
    from = at(event);
    grab.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  grab.addEventListener("pointermove", event => {
    if (from === null) return;
    event.stopPropagation();
    const to = at(event);
    state.brushes.set(column.brush, [Math.min(from, to), Math.max(from, to)]);
    light(null);
    select();
  });
  grab.addEventListener("pointerup", event => {
    if (from !== null && Math.abs(at(event) - from) < .01) state.brushes.delete(column.brush);
    from = null;
    select();
  });
  chart.brushes = [...(chart.brushes || []), show];
  show();
}
