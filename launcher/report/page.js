"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const coarse = window.matchMedia("(pointer: coarse)").matches;
const CONFIG = { responsive: true, displaylogo: false, displayModeBar: coarse ? false : "hover",
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], toImageButtonOptions: { format: "svg" } };

// Arrays are kept once: figures name them by their places.
for (const figure of Object.values(DATA.figures)) {
  for (const trace of figure.data) {
    for (const axis of ["x", "y"]) if (typeof trace[axis] === "number") trace[axis] = DATA.arrays[trace[axis]];
  }
}

// Learning curves: the reader chooses the metric, and whose seeds and lines are shown

const curves = { task: 0, tag: 0, hidden: new Set(), hovered: -1 };

function isShown(trace) {
  if (curves.hidden.has(trace.meta)) return false;
  const mode = $("#seeds").value;
  return !trace.thin || mode === "all" || (mode === "hover" && trace.meta === curves.hovered);
}

function redrawCurves() {
  const plot = $("#curve");
  plot.dataset.figure = plot.dataset.names.split(" ")[curves.task * Number(plot.dataset.tags) + curves.tag];
  for (const button of all("#legend button")) {
    button.hidden = Number(button.dataset.task) !== curves.task;
    button.setAttribute("aria-pressed", String(!curves.hidden.has(Number(button.dataset.place))));
  }
  if (plot.dataset.drawn) return draw(plot);
}

function hover(place, point) {
  if ($("#seeds").value !== "hover" || place === undefined || place === curves.hovered) return;
  curves.hovered = place;
  const drawn = redrawCurves();
  if (!drawn || !point) return;
  // Drawing takes the label away. Seeds are drawn before lines, so that its line has another number now.
  drawn.then((plot) => {
    const curveNumber = plot.data.findIndex((trace) => trace.meta === place && !trace.thin && trace.name === point.data.name && trace.hovertemplate);
    window.Plotly.Fx.hover(plot, [{ curveNumber, pointNumber: point.pointNumber }]);
  });
}

function startCurves() {
  if (!$("#curve")) return;
  const alone = (place) => {
    const others = all("#legend button:not([hidden])").map((one) => Number(one.dataset.place)).filter((one) => one !== place);
    curves.hidden = others.length && others.every((one) => curves.hidden.has(one)) ? new Set() : new Set(others);
  };
  for (const button of all("#legend button")) {
    const place = Number(button.dataset.place);
    button.addEventListener("click", () => { if (!curves.hidden.delete(place)) curves.hidden.add(place); redrawCurves(); });
    button.addEventListener("dblclick", () => { alone(place); redrawCurves(); });
    button.addEventListener("pointerenter", () => hover(curves.hidden.has(place) ? -1 : place));
    button.addEventListener("pointerleave", () => hover(-1));
  }
  for (const [id, change] of [["#metric", (value) => { curves.tag = value; }], ["#task", (value) => { curves.task = value; }], ["#seeds", () => {}]]) {
    $(id)?.addEventListener("change", (event) => { change(Number(event.target.value)); redrawCurves(); });
  }
  redrawCurves();
}

// Figures, drawn when their tab is shown

// Compiling plotly takes a second, which text and tables need not wait for.
function ready() {
  if (window.Plotly) return;
  const script = document.createElement("script");
  script.textContent = $("#plotly").textContent;
  document.head.append(script);
}

// The look of all figures in the page's theme
function template() {
  const style = getComputedStyle(document.documentElement);
  const [ink, soft, line, paper] = ["ink", "soft", "line", "paper"].map((name) => style.getPropertyValue(`--${name}`).trim());
  const clear = "rgba(0,0,0,0)";
  const axis = { gridcolor: line, linecolor: line, tickcolor: line, tickfont: { color: soft, size: 12 }, zeroline: false,
    title: { font: { size: 13, color: ink }, standoff: 8 } };
  return { layout: { paper_bgcolor: clear, plot_bgcolor: clear, xaxis: axis, yaxis: axis, hovermode: "closest",
    font: { family: "system-ui, sans-serif", size: 12.5, color: ink }, margin: { l: 62, r: 16, t: 12, b: 52 },
    modebar: { bgcolor: clear, color: soft, activecolor: ink },
    hoverlabel: { bgcolor: paper, bordercolor: line, font: { color: ink }, align: "left", namelength: -1 } } };
}

function draw(plot) {
  ready();
  const first = !plot.dataset.drawn;
  plot.dataset.drawn = "yes";
  const { data, layout } = DATA.figures[plot.dataset.figure];
  const isCurve = plot.id === "curve";
  const traces = isCurve ? data.filter(isShown) : data;
  const dressed = { ...layout, template: template(), autosize: true, ...(coarse ? { dragmode: false } : {}), ...(isCurve ? { uirevision: plot.dataset.figure } : {}) };
  const drawn = window.Plotly.react(plot, traces, dressed, CONFIG);
  if (isCurve && first) {
    plot.on("plotly_hover", (event) => hover(event.points[0].data.meta, event.points[0]));
    plot.addEventListener("mouseleave", () => hover(-1));
  }
  return drawn;
}

function show(name, focus) {
  for (const tab of all("[role=tab]")) {
    const on = tab.dataset.tab === name;
    tab.setAttribute("aria-selected", String(on));
    tab.tabIndex = on ? 0 : -1;
    if (on) tab.parentElement.scrollLeft = tab.offsetLeft - (tab.parentElement.clientWidth - tab.offsetWidth) / 2;
    if (on && focus) tab.focus();
    $(`#${tab.dataset.tab}`).hidden = !on;
  }
  for (const plot of all(`#${name} .plot`)) {
    if (plot.dataset.drawn) window.Plotly.Plots.resize(plot);
    else draw(plot);
  }
  for (const log of all(`#${name} pre.log`)) log.scrollTop = log.scrollHeight;
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  all(".plot[data-drawn]").forEach(draw);
}

function sortBy(header) {
  const at = [...header.parentElement.children].indexOf(header);
  const number = header.classList.contains("n");
  const up = header.getAttribute("aria-sort") === "descending" || (!header.hasAttribute("aria-sort") && !number);
  for (const other of header.parentElement.children) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = (row) => (number ? parseFloat(row.children[at].dataset.v) : row.children[at].textContent);
  const order = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (!number) return x.localeCompare(y, undefined, { numeric: true }) * (up ? 1 : -1);
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return (x - y) * (up ? 1 : -1);
  };
  const body = header.closest("table").tBodies[0];
  body.append(...[...body.rows].sort(order));
}

// Printing: everything, on white, as wide as the paper

let screenTheme = "light";

function toPaper() {
  screenTheme = document.documentElement.dataset.theme;
  document.documentElement.dataset.theme = "light";
  for (const panel of all("[role=tabpanel]")) panel.hidden = false;
  for (const plot of all(".plot")) { plot.style.width = "680px"; draw(plot); window.Plotly.Plots.resize(plot); }
}

function toScreen() {
  for (const plot of all(".plot")) plot.style.width = "";
  setTheme(screenTheme);
  show($("[role=tab][aria-selected=true]").dataset.tab);
}

function start() {
  const tabs = all("[role=tab]");
  for (const tab of tabs) {
    tab.addEventListener("click", () => { show(tab.dataset.tab); history.replaceState(null, "", `#${tab.dataset.tab}`); });
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
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
  startCurves();
  window.addEventListener("beforeprint", toPaper);
  window.addEventListener("afterprint", toScreen);
  show((tabs.find((tab) => `#${tab.dataset.tab}` === location.hash) || tabs[0]).dataset.tab);
  (window.requestIdleCallback || setTimeout)(ready);
}

start();
