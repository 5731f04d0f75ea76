// The page: which picture is looked at, where, how far; LIIF beside bicubic.
"use strict";

const BICUBIC = "bicubic";
let state = null;
let split = 0.5; // of the viewer's width
let sides = []; // OpenSeadragon's images: bicubic, then LIIF above it

// OpenSeadragon would add a style of its own, which the page's policy forbids, unless a "style" with this mark is there.
// This one is no HTML, so that it styles nothing; style.css has the rule.
const mark = document.createElementNS("urn:none", "style");
mark.setAttribute("data-openseadragon-mobile-css", "true");
document.head.append(mark);

const viewer = OpenSeadragon({
  element: byId("viewer"),
  drawer: "canvas",
  showNavigationControl: false,
  crossOriginPolicy: false,
  loadTilesWithAjax: false,
  imageLoaderLimit: 6,
  tileRetryMax: 3,
  tileRetryDelay: 1500,
  timeout: 120000,
  maxZoomPixelRatio: 2,
  minZoomImageRatio: 0.02,
  visibilityRatio: 0.3,
  keyboardNavEnabled: false, // its keys would also turn the picture
  animationTime: 0.4,
  gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
});

// The element that gets the keys.
viewer.canvas.setAttribute("role", "application");
viewer.canvas.setAttribute("aria-label", "Picture. Plus and minus zoom, arrow keys move, 0 shows all of it, 1 shows its own size.");

function say(text) {
  byId("message").textContent = text;
}

const key = () => byId("pictures").value;
const way = () => byId("ways").value;
const ways = () => state.ways.filter((one) => one.name !== BICUBIC);

function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
}

async function refresh(chosen) {
  state = await asked("/api/state");
  fill(byId("pictures"), state.pictures.map((one) => [one.key, one.name]));
  if (chosen) byId("pictures").value = chosen;
  byId("empty").hidden = state.pictures.length > 0;
  byId("make-open").disabled = state.pictures.length === 0;
}

function add(source, above) {
  return new Promise((success, failure) => {
    viewer.addTiledImage({ tileSource: source, index: above, success: (event) => success(event.item), error: failure });
  });
}

// keep: whether the view stays where it is, for another model of the same picture.
async function open(keep) {
  if (!key()) return;
  const bounds = keep && sides.length ? viewer.viewport.getBounds() : null;
  say("");
  try {
    const infos = await Promise.all([BICUBIC, way()].map((name) => asked(`/iiif/${name}/${key()}/info.json`)));
    const alpha = /\.(png|webp|gif|tiff?|avif|jxl)$/i.test(byId("pictures").selectedOptions[0].text);
    viewer.world.removeAll();
    sides = [];
    for (const info of infos) sides.push(await add(tileSource(info, alpha ? "webp" : "jpg"), sides.length));
    byId("tag-right").textContent = state.ways.find((one) => one.name === way()).title;
    if (bounds) viewer.viewport.fitBounds(bounds, true);
    else viewer.viewport.goHome(true);
    place();
  } catch (error) {
    say(error.message || "The picture cannot be shown.");
  }
}

// -- the border between the two ----------------------------------------------------------------------------------------

function place() {
  const element = byId("split");
  element.style.left = `${100 * split}%`;
  element.setAttribute("aria-valuenow", Math.round(100 * split));
  if (sides.length < 2 || !sides[1].source) return;
  const size = sides[1].getContentSize();
  const x = Math.round(100 * split) / 100 * viewer.viewport.getContainerSize().x;
  const point = sides[1].viewerElementToImageCoordinates(new OpenSeadragon.Point(x, 0));
  const left = Math.min(Math.max(point.x, 0), size.x);
  const now = sides[1].getClip();
  if (now && now.x === left) return; // a new clip asks for another frame
  sides[1].setClip(new OpenSeadragon.Rect(left, 0, Math.max(size.x - left, 1e-6), size.y));
  sides[0].setClip(new OpenSeadragon.Rect(0, 0, Math.max(left, 1e-6), size.y));
}

function setSplit(value) {
  split = Math.min(1, Math.max(0, value));
  place();
  viewer.forceRedraw();
}

byId("split").addEventListener("pointerdown", (event) => {
  const element = event.currentTarget;
  const box = byId("viewer").getBoundingClientRect();
  const move = (moved) => setSplit((moved.clientX - box.left) / box.width);
  element.setPointerCapture(event.pointerId);
  element.addEventListener("pointermove", move);
  element.addEventListener("lostpointercapture", () => element.removeEventListener("pointermove", move), { once: true });
});
byId("split").addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: -0.02, ArrowDown: -0.02, ArrowRight: 0.02, ArrowUp: 0.02, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 };
  if (!(event.key in steps)) return;
  event.preventDefault();
  event.stopPropagation();
  setSplit(split + steps[event.key]);
});

// -- where and how large -----------------------------------------------------------------------------------------------

function scaleNow() {
  const zoom = sides[0].viewportToImageZoom(viewer.viewport.getZoom(true));
  return zoom * sides[0].source.picture.scale;
}

function show() {
  place();
  if (sides.length < 2) return;
  const size = viewer.viewport.getContainerSize();
  showPlace(new OpenSeadragon.Point(size.x / 2, size.y / 2));
  const scale = scaleNow();
  byId("scale").textContent = `x ${scale < 10 ? scale.toFixed(2) : scale.toFixed(1)}`;
}

function showPlace(point) {
  if (sides.length < 2) return;
  const at = sides[0].viewerElementToImageCoordinates(point).divide(sides[0].source.picture.scale);
  byId("place").textContent = `x ${at.x.toFixed(2)}, y ${at.y.toFixed(2)}`;
}

for (const name of ["animation", "resize", "open", "update-viewport"]) viewer.addHandler(name, show);
viewer.addHandler("tile-load-failed", (event) => {
  if (event.message !== "Image load aborted") say("A part of the picture could not be loaded; move the view to try again.");
});
byId("viewer").addEventListener("pointermove", (event) => {
  const box = byId("viewer").getBoundingClientRect();
  showPlace(new OpenSeadragon.Point(event.clientX - box.left, event.clientY - box.top));
});

function zoomBy(factor) {
  viewer.viewport.zoomBy(factor).applyConstraints();
}

function zoomTo(scale) {
  if (sides.length) zoomBy(scale / scaleNow());
}

function moveBy(x, y) {
  const step = viewer.viewport.deltaPointsFromPixels(new OpenSeadragon.Point(60 * x, 60 * y));
  viewer.viewport.panBy(step).applyConstraints();
}

const KEYS = {
  "+": () => zoomBy(1.5),
  "=": () => zoomBy(1.5),
  "-": () => zoomBy(1 / 1.5),
  "0": () => viewer.viewport.goHome(),
  "1": () => zoomTo(1),
  ArrowLeft: () => moveBy(-1, 0),
  ArrowRight: () => moveBy(1, 0),
  ArrowUp: () => moveBy(0, -1),
  ArrowDown: () => moveBy(0, 1),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || !(event.key in KEYS)) return;
  if (event.target.closest("input, select, dialog")) return;
  event.preventDefault();
  KEYS[event.key]();
});

byId("in").addEventListener("click", () => zoomBy(2));
byId("out").addEventListener("click", () => zoomBy(0.5));
byId("one").addEventListener("click", () => zoomTo(1));
byId("fit").addEventListener("click", () => viewer.viewport.goHome());

// -- pictures ----------------------------------------------------------------------------------------------------------

async function send(files) {
  let last = null;
  for (const file of files) {
    say(`Sending ${file.name} ...`);
    try {
      last = await asked(`/api/pictures?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
      say(`${last.name} is open.`);
    } catch (error) {
      say(`${file.name}: ${error.message}`);
    }
  }
  if (!last) return;
  const text = byId("message").textContent;
  await refresh(last.key);
  await open(false);
  say(text);
}

byId("upload").addEventListener("change", (event) => send([...event.target.files]));
const area = document.querySelector("main");
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    area.classList.add("drop");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) area.classList.remove("drop");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  area.classList.remove("drop");
  send([...event.dataTransfer.files]);
});
byId("pictures").addEventListener("change", () => open(false));
byId("ways").addEventListener("change", () => open(true));
fileDialog(() => ({ picture: key(), way: way() }));

async function start() {
  await refresh();
  fill(byId("ways"), ways().map((one) => [one.name, one.title]));
  byId("ways-field").hidden = ways().length < 2;
  fill(byId("format"), state.formats.map((suffix) => [suffix, suffix.slice(1).toUpperCase()]));
  await open(false);
}

start().catch((error) => say(error.message));
