// The pointer on a picture, and the part of the image that all planes show: view.zoom, and the middle
// of it, view.centre, in parts of the image's extent along each axis.

const LARGEST_ZOOM = 16;
const ZOOM_KEYS = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, 0: 0 }; // 0: all of the image

// A drag takes the cursor along, with Shift what a magnified picture shows; fingers scroll the page.
function listenToPointer(app, number, canvas) {
  let from = null;
  canvas.addEventListener("click", (event) => pick(app, number, canvas, event));
  canvas.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch" || event.button) return;
    from = event;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    if (event.shiftKey) pan(app, number, canvas, event.clientX - from.clientX, event.clientY - from.clientY);
    else pick(app, number, canvas, event);
    from = event;
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (from = null));
  canvas.addEventListener("wheel", (event) => onWheel(app, number, canvas, event), { passive: false });
}

// [part across, part down] of the whole slice where a pointer is, in the direction of the two axes.
function partAt(app, number, canvas, event) {
  const { plane } = app.planes[number];
  const { zoom, centre } = app.view;
  const part = [event.offsetX / canvas.clientWidth, event.offsetY / canvas.clientHeight];
  if (plane.rowsUp) part[1] = 1 - part[1];
  return [plane.column, plane.row].map((axis, k) => centre[axis] + (part[k] - 0.5) / zoom);
}

function pick(app, number, canvas, event) {
  if (event.shiftKey) return;
  const { plane } = app.planes[number];
  const { size } = app.scene;
  const part = partAt(app, number, canvas, event);
  [plane.column, plane.row].forEach((axis, k) => {
    app.view.cursor[axis] = Math.min(Math.max(Math.floor(part[k] * size[axis]), 0), size[axis] - 1);
  });
  app.view.active = number;
  app.refresh();
}

function pan(app, number, canvas, right, down) {
  const { plane } = app.planes[number];
  const { zoom, centre } = app.view;
  centre[plane.column] -= right / canvas.clientWidth / zoom;
  centre[plane.row] += ((plane.rowsUp ? 1 : -1) * down) / canvas.clientHeight / zoom;
  magnify(app, 1);
}

// All planes are magnified alike, and what they show stays inside of the image. fixed: axes and the
// parts of them that stay where they are on the screen.
function magnify(app, factor, fixed = []) {
  const { view } = app;
  const zoom = Math.min(Math.max(view.zoom * factor, 1), LARGEST_ZOOM);
  for (const [axis, part] of fixed) view.centre[axis] = part + ((view.centre[axis] - part) * view.zoom) / zoom;
  view.zoom = zoom;
  view.centre = view.centre.map((c) => Math.min(Math.max(c, 0.5 / zoom), 1 - 0.5 / zoom));
  app.refresh();
}

// With Ctrl, and from two fingers on a touchpad, the wheel magnifies; on the plane that was clicked it
// steps through slices; elsewhere it scrolls the page.
function onWheel(app, number, canvas, event) {
  const { plane } = app.planes[number];
  const stepping = document.activeElement === canvas.closest(".plane");
  if (!event.ctrlKey && !stepping) return;
  event.preventDefault();
  const axes = [plane.column, plane.row];
  const part = partAt(app, number, canvas, event);
  if (event.ctrlKey) magnify(app, 2 ** (-event.deltaY / 300), axes.map((axis, k) => [axis, part[k]]));
  else goTo(app, number, app.view.cursor[plane.normal] - Math.sign(event.deltaY));
}

function zoomByKey(app, key) {
  const { cursor, zoom } = app.view;
  magnify(app, ZOOM_KEYS[key] || 1 / zoom, cursor.map((c, axis) => [axis, (c + 0.5) / app.scene.size[axis]]));
}
