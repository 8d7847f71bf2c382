"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const coarse = window.matchMedia("(pointer: coarse)").matches;
const CONFIG = { responsive: true, displaylogo: false, displayModeBar: coarse ? false : "hover",
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], toImageButtonOptions: { format: "svg" } };
let printing = false;

// Colours of paper and ink

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function dressed(layout) {
  const [text, soft, line, paper] = ["--ink", "--soft", "--line", "--paper"].map(ink);
  const result = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
    font: { family: "system-ui, sans-serif", size: 12.5, color: text },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: text },
    hoverlabel: { bgcolor: paper, bordercolor: line, font: { color: text }, align: "left", namelength: -1 } };
  if (coarse) result.dragmode = false;
  for (const key of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
    result[key] = { gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line, ...layout[key] };
    result[key].tickfont = { color: soft, size: 12 };
    if (layout[key].title) result[key].title = { font: { size: 13, color: text }, standoff: 8, ...layout[key].title };
  }
  if (layout.shapes) result.annotations = layout.annotations.map((note) => ({ ...note, bgcolor: paper, borderpad: 1 }));
  if (layout.shapes) result.shapes = layout.shapes.map((shape) => ({ ...shape, line: { color: line, width: 1 } }));
  return result;
}

// Learning curves, from numbers

function floats(text, kind = Float32Array) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return Array.from(new kind(bytes.buffer), (value) => (Number.isNaN(value) ? null : value));
}

function escaped(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function faint(colour, alpha) {
  const part = (at) => parseInt(colour.slice(at, at + 2), 16);
  return `rgba(${part(1)},${part(3)},${part(5)},${alpha})`;
}

const curves = { tag: 0, task: DATA.curves.tasks[0], seeds: "hover", hidden: new Set(), hovered: -1, plot: null };
if (DATA.curves.configurations.length === 1) curves.seeds = "all";
const LOST = ["failed", "diverged"];

function isScore() {
  return curves.tag === 0 && DATA.curves.score;
}

function xOf(c) {
  return floats(isScore() ? c.x : c.thin, Float64Array);
}

function band(c, x) {
  const [low, high] = [floats(c.low), floats(c.high)];
  const [xs, ys] = [[], []];
  for (let start = 0; start < x.length; start++) {
    if (low[start] === null) continue;
    let end = start;
    while (end + 1 < x.length && low[end + 1] !== null) end++;
    const there = x.slice(start, end + 1);
    xs.push(...there, ...there.slice().reverse(), null);
    ys.push(...high.slice(start, end + 1), ...low.slice(start, end + 1).reverse(), null);
    start = end;
  }
  return { type: "scatter", mode: "lines", x: xs, y: ys, fill: "toself", fillcolor: faint(c.colour, 0.16),
    line: { width: 0 }, hoverinfo: "skip" };
}

function middle(c, index) {
  const x = xOf(c);
  const key = isScore() ? c.iqm : c.others[curves.tag];
  const y = key ? floats(key) : [];
  const front = c.front ? 2.4 : 1.2;
  const trace = { type: "scatter", mode: x.length > 1 ? "lines" : "markers", x, y, meta: index,
    line: { color: c.colour, width: front, dash: c.dash }, zorder: c.front ? 3 : 1 };
  const name = `<b>${escaped(c.label)}</b><br>%{x:,} env steps<br>IQM %{y:,.5~g}`;
  if (!isScore()) return { ...trace, hovertemplate: `${name}<extra></extra>` };
  const [low, high, seeds] = [floats(c.low), floats(c.high), floats(c.seeds)];
  const text = y.map((_, i) => (low[i] === null ? `${seeds[i]} of ${c.trials.length} seeds: too few for an interval`
    : `95% interval ${short(low[i])} to ${short(high[i])}<br>${seeds[i]} of ${c.trials.length} seeds`));
  return { ...trace, text, hovertemplate: `${name}<br>%{text}<extra></extra>` };
}

function short(value) {
  return Number(value.toPrecision(5)).toLocaleString("en");
}

function seedLines(c) {
  const grid = xOf(c);
  const [x, y, text] = [[], [], []];
  for (const trial of c.trials.filter((one) => one.y[curves.tag])) {
    const told = `seed ${trial.seed}${trial.state === "finished" ? "" : ` (${trial.state})`}`;
    floats(trial.y[curves.tag]).forEach((value, i) => { x.push(grid[i]); y.push(value); text.push(told); });
    x.push(null); y.push(null); text.push("");
  }
  return { x, y, text };
}

function pool(c) {
  const numbers = c ? seedLines(c) : { x: [], y: [], text: [] };
  return { type: "scatter", mode: "lines", ...numbers, zorder: 2, opacity: 0.55, hoverinfo: c && curves.seeds === "all" ? undefined : "skip",
    line: { color: c ? c.colour : "#000", width: 1 },
    hovertemplate: c ? `<b>${escaped(c.label)}</b><br>%{text}<br>%{x:,} env steps: %{y:,.5~g}<extra></extra>` : undefined };
}

function endings(c) {
  const grid = xOf(c);
  const [x, y, text] = [[], [], []];
  for (const trial of c.trials.filter((one) => LOST.includes(one.state) && one.y[curves.tag])) {
    const values = floats(trial.y[curves.tag]);
    const last = values.findLastIndex((value) => value !== null);
    if (last >= 0) { x.push(grid[last]); y.push(values[last]); text.push(`seed ${trial.seed} ${trial.state} here`); }
  }
  return { type: "scatter", mode: "markers", x, y, text, zorder: 4, marker: { symbol: "x", size: 9, color: c.colour,
    line: { width: 1, color: ink("--paper") } }, hovertemplate: `<b>${escaped(c.label)}</b><br>%{text}<extra></extra>` };
}

function curveTraces() {
  const shown = DATA.curves.configurations.map((c, index) => [c, index])
    .filter(([c, index]) => c.task === curves.task && !curves.hidden.has(index));
  const traces = [pool(null)];
  if (curves.seeds === "all") traces.push(...shown.map(([c]) => pool(c)));
  if (isScore()) traces.push(...shown.filter(([c]) => c.front).map(([c]) => band(c, xOf(c))));
  traces.push(...shown.reverse().map(([c, index]) => middle(c, index)));
  if (curves.tag === 0) traces.push(...shown.map(([c]) => endings(c)).filter((trace) => trace.x.length));
  return traces;
}

function drawCurves(plot) {
  const first = !curves.plot;
  curves.plot = plot;
  curves.hovered = -1;
  const tag = DATA.curves.tags[curves.tag] || "no metric";
  const layout = { height: coarse || plot.clientWidth < 600 ? 380 : 480, margin: { l: 62, r: 14, t: 12, b: 52 }, showlegend: false,
    hovermode: "closest", uirevision: `${curves.tag} ${curves.task}`,
    xaxis: { title: { text: "env steps" }, rangemode: "tozero", zeroline: false },
    yaxis: { title: { text: isScore() ? "return (mean of the last 100 episodes)" : escaped(tag) }, zeroline: false } };
  Plotly.react(plot, curveTraces(), dressed(layout), CONFIG);
  if (!first) return;
  plot.on("plotly_hover", (event) => hoverConfiguration(event.points[0].data.meta, event.points[0]));
  plot.addEventListener("mouseleave", () => hoverConfiguration(-1));
}

function hoverConfiguration(index, point) {
  if (curves.seeds !== "hover" || index === undefined || index === curves.hovered || !curves.plot) return;
  curves.hovered = index;
  const c = DATA.curves.configurations[index];
  const numbers = c ? seedLines(c) : { x: [], y: [] };
  const drawn = Plotly.restyle(curves.plot, { x: [numbers.x], y: [numbers.y], "line.color": c ? c.colour : "#000" }, [0]);
  // Drawing takes the label away.
  if (point) drawn.then(() => Plotly.Fx.hover(curves.plot, [{ curveNumber: point.curveNumber, pointNumber: point.pointNumber }]));
}

function drawLegend() {
  const legend = $("#legend");
  if (!legend) return;
  legend.replaceChildren();
  DATA.curves.configurations.forEach((c, index) => {
    if (c.task !== curves.task) return;
    const button = document.createElement("button");
    const swatch = document.createElement("span");
    swatch.className = `swatch ${c.dash === "dash" ? "dash" : ""}`;
    swatch.style.setProperty("--c", c.colour);
    const few = c.trials.length < 3 ? `, ${c.trials.length} seed${c.trials.length > 1 ? "s" : ""}: no interval` : "";
    const lost = LOST.map((state) => [c.trials.filter((one) => one.state === state).length, state]);
    button.append(swatch, c.label + few + lost.map(([number, state]) => (number ? ` · ${number} ${state}` : "")).join(""));
    button.type = "button";
    button.title = `${c.name}: click to hide or show, double-click for this one alone`;
    button.setAttribute("aria-pressed", String(!curves.hidden.has(index)));
    button.addEventListener("click", () => toggle(index));
    button.addEventListener("dblclick", () => alone(index));
    button.addEventListener("pointerenter", () => hoverConfiguration(curves.hidden.has(index) ? -1 : index));
    button.addEventListener("pointerleave", () => hoverConfiguration(-1));
    legend.append(button);
  });
}

function toggle(index) {
  if (!curves.hidden.delete(index)) curves.hidden.add(index);
  redrawCurves();
}

function alone(index) {
  const others = DATA.curves.configurations.map((_, i) => i).filter((i) => i !== index);
  curves.hidden = others.every((i) => curves.hidden.has(i)) ? new Set() : new Set(others);
  redrawCurves();
}

function redrawCurves() {
  all("#legend button").forEach((button, at) => {
    const indices = DATA.curves.configurations.map((c, i) => [c, i]).filter(([c]) => c.task === curves.task).map(([, i]) => i);
    button.setAttribute("aria-pressed", String(!curves.hidden.has(indices[at])));
  });
  if (curves.plot) drawCurves(curves.plot);
}

function bind(selector, change) {
  const control = $(selector);
  if (control) control.addEventListener("change", () => { change(control.value); redrawCurves(); });
}

// All other figures, and when to draw

// Compiling plotly takes a second, which text and tables need not wait for.
function ready() {
  if (window.Plotly) return;
  const script = document.createElement("script");
  script.textContent = $("#plotly").textContent;
  document.head.append(script);
}

function draw(plot) {
  ready();
  plot.dataset.drawn = "yes";
  if (plot.dataset.figure === "curves") { drawCurves(plot); return; }
  const figure = DATA.figures[plot.dataset.figure];
  if (figure.width && !printing) plot.style.minWidth = `${Math.min(figure.width, 900)}px`;
  Plotly.react(plot, figure.data, dressed(figure.layout), CONFIG);
}

function drawPanel(panel) {
  for (const plot of all(".plot", panel)) if (!plot.dataset.drawn) draw(plot);
}

function redrawAll() {
  for (const plot of all(".plot[data-drawn]")) draw(plot);
}

function show(name, focus) {
  for (const tab of all("[role=tab]")) {
    const on = tab.dataset.tab === name;
    tab.setAttribute("aria-selected", String(on));
    tab.tabIndex = on ? 0 : -1;
    if (on) {
      tab.parentElement.scrollLeft = tab.offsetLeft - (tab.parentElement.clientWidth - tab.offsetWidth) / 2;
      if (focus) tab.focus();
    }
    $(`#${tab.dataset.tab}`).hidden = !on;
  }
  drawPanel($(`#${name}`));
  for (const plot of all(`#${name} .plot`)) Plotly.Plots.resize(plot);
  for (const log of all(`#${name} pre.log`)) log.scrollTop = log.scrollHeight;
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  redrawAll();
}

function sortBy(header) {
  const table = header.closest("table");
  const at = [...header.parentElement.children].indexOf(header);
  const up = header.getAttribute("aria-sort") === "descending" || (!header.hasAttribute("aria-sort") && !header.classList.contains("n"));
  all("th", table).forEach((one) => one.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = (row) => row.children[at].dataset.v ?? row.children[at].textContent;
  const number = header.classList.contains("n");
  const order = (a, b) => {
    if (!number) return value(a).localeCompare(value(b), undefined, { numeric: true }) * (up ? 1 : -1);
    const [x, y] = [parseFloat(value(a)), parseFloat(value(b))];
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return (x - y) * (up ? 1 : -1);
  };
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
}

// Printing: everything, on white, as wide as the paper

let screenTheme = "light";

function toPaper() {
  printing = true;
  screenTheme = document.documentElement.dataset.theme;
  document.documentElement.dataset.theme = "light";
  for (const panel of all("[role=tabpanel]")) panel.hidden = false;
  for (const plot of all(".plot")) { plot.style.minWidth = ""; plot.style.width = "680px"; draw(plot); Plotly.Plots.resize(plot); }
}

function toScreen() {
  printing = false;
  for (const plot of all(".plot")) plot.style.width = "";
  document.documentElement.dataset.theme = screenTheme;
  redrawAll();
  show($("[role=tab][aria-selected=true]").dataset.tab);
}

function start() {
  for (const tab of all("[role=tab]")) {
    tab.addEventListener("click", () => { show(tab.dataset.tab); history.replaceState(null, "", `#${tab.dataset.tab}`); });
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const tabs = all("[role=tab]");
      if (step) show(tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length].dataset.tab, true);
    });
  }
  for (const header of all("table.sortable th")) {
    header.classList.add("sorts");
    header.addEventListener("click", () => sortBy(header));
  }
  for (const link of all("a[data-to]")) {
    link.addEventListener("click", (event) => { event.preventDefault(); show(link.dataset.to, true); window.scrollTo(0, 0); });
  }
  for (const copy of all(".copy")) copy.addEventListener("click", () => navigator.clipboard?.writeText(copy.nextElementSibling.textContent));
  $("#theme").addEventListener("click", () => {
    const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("sunflower-theme", theme); } catch (_) { /* a file may have no storage */ }
    setTheme(theme);
  });
  bind("#metric", (value) => { curves.tag = Number(value); });
  bind("#seeds", (value) => { curves.seeds = value; });
  bind("#task", (value) => { curves.task = value; drawLegend(); });
  drawLegend();
  window.addEventListener("beforeprint", toPaper);
  window.addEventListener("afterprint", toScreen);
  const wanted = all("[role=tab]").find((tab) => `#${tab.dataset.tab}` === location.hash);
  show((wanted || $("[role=tab]")).dataset.tab);
  (window.requestIdleCallback || setTimeout)(ready);
}

start();
