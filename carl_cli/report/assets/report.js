// The controls of the report: what the reader looks at, and drawing it again when it changes.

const find = (selector, root = document) => root.querySelector(selector);
const NARROW = window.matchMedia("(max-width: 44rem)"); // as in style.css
const NAMES = { fixed: "fixed", before: "moving", warped: "warped" };

function makeView(scene) {
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  const whole = { zoom: 1, centre: [0.5, 0.5, 0.5] };
  return { cursor: [...scene.focus], active: 0, swapped: false, runs: !calm, pointed: false, ...whole };
}

// Everything that the form says, into the view.
function readControls(view) {
  const form = find("#controls");
  const values = new FormData(form);
  for (const name of ["mode", "partner", "map", "picture"]) view[name] = values.get(name);
  for (const name of ["grid", "contours", "landmarks", "cross"]) {
    view[name] = values.has(name) && !find(`[name=${name}]`, form).closest("label").hidden;
  }
  for (const name of ["share", "black", "white", "opacity"]) view[name] = Number(values.get(name));
}

function element(tag, className = "", text = "") {
  return Object.assign(document.createElement(tag), { className, textContent: text });
}

function mmAcross(scene, plane) {
  return scene.size[plane.column] * scene.spacing[plane.column];
}

// One plane: three pictures, of which the modes with one picture use the first, and a slider.
function buildPlane(scene, plane, number, app) {
  const box = element("div", "plane");
  box.tabIndex = 0;
  box.style.flexGrow = mmAcross(scene, plane);
  box.style.setProperty("--share", mmAcross(scene, plane) / Math.max(...scene.planes.map((p) => mmAcross(scene, p))));
  box.setAttribute("aria-label", plane.name);
  const pictures = box.appendChild(element("div", "pictures"));
  const canvases = Object.keys(NAMES).map((kind) => {
    const figure = pictures.appendChild(element("figure"));
    const canvas = figure.appendChild(element("canvas"));
    canvas.dataset.kind = kind;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${NAMES[kind]}, ${plane.name}`);
    listenToPointer(app, number, canvas);
    return { figure, canvas, caption: figure.appendChild(element("figcaption")) };
  });
  const step = box.appendChild(element("label", "step", plane.name));
  const slider = step.appendChild(element("input"));
  Object.assign(slider, { type: "range", min: 0, max: scene.size[plane.normal] - 1 });
  slider.setAttribute("aria-label", `${plane.name} slice`);
  slider.addEventListener("input", () => goTo(app, number, Number(slider.value)));
  const output = step.appendChild(element("output"));
  box.addEventListener("focusin", () => (app.view.active = number));
  find("#planes").append(box);
  return { plane, canvases, slider, output };
}

function goTo(app, number, index) {
  const { plane } = app.planes[number];
  const last = app.scene.size[plane.normal] - 1;
  app.view.active = number;
  app.view.cursor[plane.normal] = Math.min(Math.max(index, 0), last);
  app.refresh();
}

function show(app) {
  const { scene, view } = app;
  find("#viewer").dataset.mode = view.mode;
  find("#partners").hidden = view.mode === "all";
  find("#blend").hidden = view.mode !== "blend";
  const alone = view.mode === "all" && NARROW.matches;
  find("#pictures").hidden = !alone;
  find("#opacity").hidden = !view.map;
  for (const { plane, canvases, slider, output } of app.planes) {
    canvases.forEach(({ figure, canvas, caption }, k) => {
      figure.hidden = alone ? canvas.dataset.kind !== view.picture : view.mode !== "all" && k > 0;
      if (figure.hidden) return;
      const kind = view.mode === "all" ? canvas.dataset.kind : view.mode;
      draw(scene, plane, canvas, kind, view);
      caption.textContent = captionOf(kind, view);
    });
    slider.value = view.cursor[plane.normal];
    output.textContent = `${view.cursor[plane.normal] + 1} / ${scene.size[plane.normal]}`;
  }
  showBar(scene, view);
  find("#readout").textContent = readout(scene, view);
  find("#note").textContent = noteOf(scene, view);
}

function captionOf(kind, view) {
  const other = NAMES[view.partner];
  const captions = {
    blend: `fixed and ${other}`,
    flicker: view.swapped ? other : "fixed",
    checker: `fixed and ${other}`,
    difference: `fixed − ${other}`,
  };
  return captions[kind] ?? NAMES[kind];
}

function noteOf(scene, view) {
  const notes = [];
  const sees = view.mode === "all" || view.partner === "before";
  if (sees) notes.push(scene.centred ? "The images hardly overlap as scanned: moving is shown with centres aligned." : "Moving is shown where the scanner put it.");
  if (view.mode === "difference") notes.push("Mid-grey where both agree; between modalities it says little.");
  if (view.grid) notes.push(`The lines are a regular grid of ${scene.gridSpacing} mm in the moving image, seen from the fixed image.`);
  if (view.contours) notes.push("Contours: solid fixed, dashed warped.");
  return notes.join(" ");
}

function showBar(scene, view) {
  const map = scene.maps[view.map]; // none for labels
  const bar = find("#bar");
  bar.hidden = !map;
  if (!map) return;
  for (const part of ["name", "low", "high", "extra"]) find(`.${part}`, bar).textContent = map[part];
  const context = find("canvas", bar).getContext("2d");
  const pixels = context.createImageData(256, 1);
  for (let k = 0; k < 256; k++) {
    const code = map.first + Math.round((k / 255) * (map.last - map.first));
    pixels.data.set(map.colours.subarray(4 * code, 4 * code + 4), 4 * k);
  }
  context.putImageData(pixels, 0, 0);
}

function readout(scene, view) {
  const lps = lpsOf(scene, view.cursor.slice(0, scene.components));
  const ends = ["RL", "AP", "IS"];
  const place = lps.map((mm, axis) => `${ends[axis][mm > 0 ? 1 : 0]} ${Math.abs(mm).toFixed(1)}`);
  const code = scene.volumes.jacobian[offsetOf(scene, view.cursor)];
  const { first, last, limit } = scene.maps.jacobian;
  const value = limit ** ((2 * (code - first)) / (last - first) - 1);
  const volume = code === NO_DATA ? "" : ` · Jacobian ${code < first ? "≤ 0, folded" : value.toFixed(2)}`;
  const label = scene.labels[scene.volumes.fixedLabels?.[offsetOf(scene, view.cursor)] - 1];
  const structure = label ? ` · ${label.name || `label ${label.label}`} of fixed` : "";
  return `Cursor: ${scene.letters.length ? place.join(", ") : lps.map((mm) => mm.toFixed(1)).join(", ")} mm · moves ${movedMm(scene, view.cursor).toFixed(1)} mm${volume}${structure}`;
}

function swap(app) {
  const flicker = find("[name=mode][value=flicker]");
  if (app.view.mode !== "flicker") flicker.checked = true;
  app.view.runs = false;
  app.view.swapped = !app.view.swapped;
  app.refresh();
}

// A control that was clicked keeps the focus, but the keys are the pictures' until Tab is pressed:
// whoever walks with Tab uses arrows and space on the controls themselves.
function keysAreTaken(app, event) {
  const target = event.target.closest("input, button, summary, a");
  const chosen = target?.matches("[type=radio], [type=checkbox]");
  return target && !(chosen && app.view.pointed) && !(event.key === " " && target.type === "range");
}

function onKey(app, event) {
  if (event.key === "Tab") app.view.pointed = false;
  if (event.ctrlKey || event.metaKey || event.altKey || keysAreTaken(app, event)) return;
  const focused = event.target.closest(".plane");
  const steps = { ArrowLeft: -1, ArrowRight: 1, ...(focused && { ArrowDown: -1, ArrowUp: 1 }) };
  const { plane } = app.planes[app.view.active];
  if (event.key === " ") swap(app);
  else if (event.key in ZOOM_KEYS) zoomByKey(app, event.key);
  else if (event.key in steps) goTo(app, app.view.active, app.view.cursor[plane.normal] + steps[event.key]);
  else return;
  event.preventDefault();
}

function listen(app) {
  find("#controls").addEventListener("input", app.refresh);
  find("#controls").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("pointerdown", () => (app.view.pointed = true), true);
  document.addEventListener("keydown", (event) => onKey(app, event));
  document.addEventListener("click", ({ target }) => {
    const row = target.closest("[data-jump]");
    if (!row) return;
    app.view.cursor = [...app.scene.landmarks[Number(row.dataset.jump)].voxel];
    app.refresh();
    find("#viewer").scrollIntoView();
  });
  new ResizeObserver(app.refresh).observe(find("#planes"));
  NARROW.addEventListener("change", app.refresh);
  setInterval(() => {
    if (app.view.mode !== "flicker" || !app.view.runs) return;
    app.view.swapped = !app.view.swapped;
    app.refresh();
  }, 700);
}

function listenToCopy() {
  const button = find("#copy");
  button?.addEventListener("click", async () => {
    getSelection().selectAllChildren(find("#command"));
    // Pages opened from a folder may be denied the clipboard; the text is selected then.
    await navigator.clipboard?.writeText(find("#command").textContent).catch(() => {});
    button.textContent = "Copied";
  });
}

async function start() {
  const scene = await loadScene();
  for (const { label, colour } of scene.labels) find(`svg[data-label="${label}"] rect`)?.setAttribute("fill", colour);
  for (const label of document.querySelectorAll("[data-needs]")) label.hidden = !scene.has.includes(label.dataset.needs);
  const app = { scene, view: makeView(scene), planes: [] };
  let waiting = false;
  app.refresh = () => {
    readControls(app.view);
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      show(app);
    });
  };
  app.planes = scene.planes.map((plane, number) => buildPlane(scene, plane, number, app));
  listen(app);
  readControls(app.view);
  show(app);
  document.body.dataset.ready = "true";
}

listenToCopy();
start().catch((error) => {
  Object.assign(find("#trouble"), { hidden: false, textContent: `The pictures can't be drawn: ${error.message}. A browser of 2023 or later is needed.` });
});
