// The page of `fdif browse`: a list of cases, and NiiVue, which draws one of them. All comes from the server that sent this.
"use strict";

const at = (id) => document.getElementById(id);
const { Niivue, SHOW_RENDER, MULTIPLANAR_TYPE } = niivue;
const viewer = new Niivue({
  backColor: [0, 0, 0, 1],
  crosshairColor: [1, 0.8, 0.2, 0.7],
  crosshairWidth: 0.4,
  crosshairWidthUnit: "percent",
  dragAndDropEnabled: false,
  isNearestInterpolation: true,
  loadingText: "",
  logLevel: "error",
  multiplanarPadPixels: 6,
  multiplanarLayout: MULTIPLANAR_TYPE.GRID,
  multiplanarShowRender: SHOW_RENDER.ALWAYS,
  renderOverlayBlend: 1,
  show3Dcrosshair: false,
});

let dataset; // title, tasks, names of the cases
let rows = []; // their list items
let current = -1; // the case that is to be shown
let shown = null; // what the server says of it
let loading = false;

// A colour of its own for every class, the same in every case: hues a golden angle apart, in three strengths.
function colourOf(id) {
  const hue = (210 + 137.508 * (id - 1)) % 360;
  const lightness = [0.55, 0.68, 0.42][Math.floor((id - 1) / 12) % 3];
  const channel = (n) => {
    const k = (n + hue / 30) % 12;
    const swing = 0.75 * Math.min(lightness, 1 - lightness);
    return Math.round(255 * (lightness - swing * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [channel(0), channel(8), channel(4)];
}

async function fetched(url) {
  const response = await fetch(url).catch(() => {
    throw new Error("`fdif browse` does not answer; its terminal says why");
  });
  if (!response.ok) throw new Error(await response.text());
  return response;
}

function say(error) {
  at("error").textContent = error ?? "";
  at("error").hidden = !error;
}

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// ---------------------------------------------------------------------------------------------- one case

const classesShown = () => shown.labels[at("task").selectedIndex] ?? [];

// Show case `number`. While one loads, only the last one that was asked for follows.
async function show(number) {
  mark(number);
  if (loading) return;
  loading = true;
  document.body.dataset.state = "loading";
  let done;
  do {
    done = current;
    await load(done).catch((error) => {
      viewer.volumes = [];
      viewer.updateGLVolume();
      say(error.message);
    });
  } while (done !== current);
  loading = false;
  document.body.dataset.state = `shown ${dataset.cases[current]}`;
}

async function load(number) {
  shown = null;
  at("name").textContent = dataset.cases[number];
  at("facts").textContent = at("location").textContent = "";
  at("legend").replaceChildren();
  const described = await (await fetched(`cases/${number}.json`)).json();
  const channel = Math.max(0, Math.min(at("channel").selectedIndex, described.channels - 1));
  const task = at("task").selectedIndex;
  const urls = [`cases/${number}/image-${channel}.nii`];
  if (described.labels[task]?.length) urls.push(`cases/${number}/label-${task}.nii`);
  const files = await Promise.all(urls.map(async (url) => (await fetched(url)).arrayBuffer()));
  if (number !== current) return; // one has gone on in the meantime
  shown = described;
  say(described.error);
  describe(channel);
  await viewer.loadVolumes(files.map((url, i) => ({ url, name: `${i}.nii` })));
  if (viewer.volumes.length > 1) {
    const colours = [[0, 0, 0], ...classesShown().map((each) => colourOf(each.id))];
    const [R, G, B] = [0, 1, 2].map((c) => colours.map((colour) => colour[c]));
    viewer.volumes[1].setColormapLabel({ R, G, B, A: colours.map((_, i) => (i ? 255 : 0)), I: [...colours.keys()] });
    viewer.setOpacity(1, opacity());
  }
  viewer.createOnLocationChange();
}

function describe(channel) {
  const { shape, spacing, channels } = shown;
  at("facts").textContent = `${shape.join(" × ")} voxels of ${spacing.map((s) => +s.toFixed(3)).join(" × ")} mm`;
  at("channels").hidden = channels < 2;
  at("channel").replaceChildren(...Array.from({ length: channels }, (_, i) => element("option", { textContent: i })));
  at("channel").selectedIndex = channel;
  at("legend").replaceChildren(...classesShown().map(({ id, name, voxels }) => {
    const patch = element("i", {});
    patch.style.background = `rgb(${colourOf(id)})`;
    return element("li", { title: `label ${id}` }, patch, name, element("b", { textContent: voxels.toLocaleString("en") }));
  }));
  const ignored = shown.ignored[at("task").selectedIndex];
  if (ignored) at("legend").append(element("li", { title: "counts in no loss and no score" }, element("i", {}), "ignored",
    element("b", { textContent: ignored.toLocaleString("en") })));
}

viewer.onLocationChange = ({ vox, values }) => {
  if (!shown) return;
  const named = classesShown()[Math.round(values[1]?.value ?? 0) - 1];
  at("location").textContent = `[${vox.map(Math.round).slice(0, 3).join(", ")}] ${+values[0].value.toFixed(3)}`
    + (named ? ` · ${named.name}` : "");
};

// --------------------------------------------------------------------------------------------- the overlay

const opacity = () => (at("overlay").checked ? at("opacity").value / 100 : 0);
const redraw = () => viewer.volumes.length > 1 && viewer.setOpacity(1, opacity());
at("overlay").addEventListener("change", redraw);
at("opacity").addEventListener("input", redraw);
for (const id of ["channel", "task"]) at(id).addEventListener("change", () => show(current));

// --------------------------------------------------------------------------------------------- the list

function mark(number) {
  rows[current]?.setAttribute("aria-selected", "false");
  current = number;
  rows[current].setAttribute("aria-selected", "true");
  rows[current].scrollIntoView({ block: "nearest" });
  history.replaceState(null, "", `#${encodeURIComponent(dataset.cases[number])}`);
}

function search() {
  const wanted = at("search").value.trim().toLowerCase();
  rows.forEach((row, i) => { row.hidden = !dataset.cases[i].toLowerCase().includes(wanted); });
  const found = rows.filter((row) => !row.hidden).length;
  at("count").textContent = found === rows.length ? `${found} cases` : `${found} of ${rows.length} cases`;
}

// The next case of the list in a direction, past those that the search hides.
function step(direction) {
  let next = current + direction;
  while (rows[next]?.hidden) next += direction;
  if (rows[next]) show(next);
}

at("search").addEventListener("input", search);
at("cases").addEventListener("click", (event) => {
  const row = rows.indexOf(event.target.closest("li"));
  if (row >= 0) show(row);
});
document.addEventListener("keydown", (event) => {
  const typing = event.target === at("search");
  const chosen = event.target.closest?.("select"); // which has keys of its own
  if (event.ctrlKey || event.metaKey || event.altKey || chosen) return;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") step(event.key === "ArrowDown" ? 1 : -1);
  else if (event.key === " " && !typing && event.target !== at("overlay")) at("overlay").click();
  else if (event.key === "/" && !typing) at("search").focus();
  else if (event.key === "Escape" && typing) { at("search").value = ""; search(); at("search").blur(); }
  else return;
  event.preventDefault();
  event.stopPropagation();
}, true);

async function start() {
  dataset = await (await fetched("dataset.json")).json();
  at("title").textContent = document.title = dataset.title;
  at("task").replaceChildren(...dataset.tasks.map(({ name }) => element("option", { textContent: name })));
  at("tasks").hidden = dataset.tasks.length < 2;
  rows = dataset.cases.map((name, i) => {
    const row = element("li", { textContent: name, className: i < dataset.training ? "" : "validation" });
    row.setAttribute("role", "option");
    return row;
  });
  at("cases").replaceChildren(...rows);
  search();
  await viewer.attachToCanvas(at("canvas"));
  await show(Math.max(0, dataset.cases.indexOf(decodeURIComponent(location.hash.slice(1)))));
}

start().catch((error) => say(error.message));
