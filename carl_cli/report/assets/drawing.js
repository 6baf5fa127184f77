// One slice on one canvas: grey values first, then the coloured map, then lines and letters.

const GRID_COLOUR = "#57d7a4";
const CHECKER_PARTS = 8;

// Grey value of a pixel for a kind of picture: (offset, column, row) → 0…255.
function greyOf(scene, plane, kind, view) {
  const gain = 255 / Math.max(view.white - view.black, 1);
  const shown = (volume, o) => Math.min(Math.max((volume[o] - view.black) * gain, 0), 255);
  const fixed = (o) => shown(scene.volumes.fixed, o);
  const other = (o) => shown(scene.volumes[view.partner], o);
  const share = view.share / 100;
  const extent = Math.max(...scene.size.map((n, axis) => n * scene.spacing[axis]));
  const across = (CHECKER_PARTS * scene.spacing[plane.column]) / extent;
  const down = (CHECKER_PARTS * scene.spacing[plane.row]) / extent;
  const kinds = {
    blend: (o) => fixed(o) * (1 - share) + other(o) * share,
    flicker: (o) => (view.swapped ? other(o) : fixed(o)),
    checker: (o, column, row) => ((Math.floor(column * across) + Math.floor(row * down)) % 2 ? other(o) : fixed(o)),
    difference: (o) => 127.5 + (fixed(o) - other(o)) / 2,
  };
  return kinds[kind] ?? ((o) => shown(scene.volumes[kind], o));
}

function paint(scene, plane, index, colourOf) {
  const pixels = new ImageData(scene.size[plane.column], scene.size[plane.row]);
  let place = 0;
  eachPixel(scene, plane, index, (offset, column, row) => {
    pixels.data.set(colourOf(offset, column, row), place);
    place += 4;
  });
  const canvas = new OffscreenCanvas(pixels.width, pixels.height);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

function draw(scene, plane, canvas, kind, view) {
  const sheet = fitted(scene, plane, canvas, view);
  const { context } = sheet;
  const index = view.cursor[plane.normal];
  const grey = greyOf(scene, plane, kind, view);
  context.imageSmoothingQuality = "high";
  put(paint(scene, plane, index, (...pixel) => grey4(grey(...pixel))), sheet);
  if (view.map) drawMap(scene, plane, index, sheet, colourOf(scene, view.map, kind), view.opacity / 100);
  if (view.grid) drawGrid(scene, plane, index, sheet);
  if (view.contours) drawContours(scene, plane, index, sheet, kind, view);
  if (view.landmarks) drawLandmarks(scene, plane, index, sheet);
  if (view.cross) drawCross(view.cursor, sheet, plane);
  drawLetters(scene, plane, sheet);
}

function grey4(value) {
  return [value, value, value, 255];
}

// The picture of a whole slice, of which the canvas may show a part.
function put(picture, { context, left, top, wide, high }) {
  context.drawImage(picture, left, top, wide, high);
}

// Size the canvas for the screen; give positions of voxels on it. left, top, wide, high: of the whole
// slice in the canvas's pixels, which is larger than the canvas where the view is magnified.
function fitted(scene, plane, canvas, view) {
  const scale = Math.min(window.devicePixelRatio || 1, 3);
  const columns = scene.size[plane.column];
  const rows = scene.size[plane.row];
  const ratio = (rows * scene.spacing[plane.row]) / (columns * scene.spacing[plane.column]);
  const width = Math.max(1, Math.round(canvas.clientWidth * scale));
  const height = Math.max(1, Math.round(width * ratio));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const down = (voxel) => (plane.rowsUp ? rows - 1 - voxel : voxel);
  const middle = [view.centre[plane.column], plane.rowsUp ? 1 - view.centre[plane.row] : view.centre[plane.row]];
  const [wide, high] = [width * view.zoom, height * view.zoom];
  const [left, top] = [width / 2 - middle[0] * wide, height / 2 - middle[1] * high];
  return {
    context: canvas.getContext("2d"),
    width,
    height,
    scale,
    left,
    top,
    wide,
    high,
    x: (voxel) => left + ((voxel + 0.5) / columns) * wide,
    y: (voxel) => top + ((down(voxel) + 0.5) / rows) * high,
  };
}

// Colours of what lies over a picture: offset → RGBA. Labels lie over the image that they belong to.
function colourOf(scene, name, kind) {
  const own = kind === "warped" ? "warpedLabels" : "fixedLabels";
  const volume = name === "labels" ? scene.volumes[kind === "before" ? "" : own] : scene.volumes[name];
  const colours = name === "labels" ? scene.labelColours : scene.maps[name].colours;
  return (offset) => (volume ? colours.subarray(4 * volume[offset], 4 * volume[offset] + 4) : [0, 0, 0, 0]);
}

function drawMap(scene, plane, index, sheet, colour, opacity) {
  sheet.context.globalAlpha = opacity;
  sheet.context.imageSmoothingEnabled = false;
  put(paint(scene, plane, index, colour), sheet);
  sheet.context.imageSmoothingEnabled = true;
  sheet.context.globalAlpha = 1;
}

// Lines of a regular grid of the moving image: level lines of its coordinates.
function drawGrid(scene, plane, index, sheet) {
  const { context, scale } = sheet;
  context.strokeStyle = GRID_COLOUR;
  context.lineWidth = scale;
  context.beginPath();
  for (const axis of [plane.column, plane.row]) {
    const values = mappedSlice(scene, plane, index, axis);
    const x = (node) => sheet.x(nodeMm(scene, plane.column, node) / scene.spacing[plane.column]);
    const y = (node) => sheet.y(nodeMm(scene, plane.row, node) / scene.spacing[plane.row]);
    levelLines(values, scene.gridSpacing, (c, r) => [x(c), y(r)], context);
  }
  context.stroke();
}

// Marching squares at every multiple of `step`.
function levelLines(values, step, place, context) {
  for (let r = 0; r + 1 < values.length; r++) {
    for (let c = 0; c + 1 < values[r].length; c++) {
      const corners = [[c, r], [c + 1, r], [c + 1, r + 1], [c, r + 1]];
      const heights = corners.map(([column, row]) => values[row][column]);
      const top = Math.max(...heights);
      for (let level = Math.ceil(Math.min(...heights) / step) * step; level < top; level += step) {
        strokeCell(corners, heights, level, place, context);
      }
    }
  }
}

function strokeCell(corners, heights, level, place, context) {
  const crossings = [];
  corners.forEach(([c, r], k) => {
    const next = (k + 1) % 4;
    if (heights[k] < level === heights[next] < level) return;
    const part = (level - heights[k]) / (heights[next] - heights[k]);
    crossings.push(place(c + part * (corners[next][0] - c), r + part * (corners[next][1] - r)));
  });
  for (let k = 0; k + 1 < crossings.length; k += 2) {
    context.moveTo(...crossings[k]);
    context.lineTo(...crossings[k + 1]);
  }
}

// Fixed contours are solid; those of the moving segmentation, warped, are dashed.
function drawContours(scene, plane, index, sheet, kind, view) {
  const showsWarped = kind === "warped" || (view.mode !== "all" && view.partner === "warped");
  const names = showsWarped ? ["fixedLabels", "warpedLabels"] : ["fixedLabels"];
  for (const name of names.filter((n) => scene.volumes[n])) {
    sheet.context.setLineDash(name === "fixedLabels" ? [] : [4 * sheet.scale, 3 * sheet.scale]);
    sheet.context.lineWidth = 1.6 * sheet.scale;
    for (const [label, path] of borders(scene, plane, index, sheet, scene.volumes[name])) {
      sheet.context.strokeStyle = scene.labels[label - 1].colour;
      sheet.context.stroke(path);
    }
  }
  sheet.context.setLineDash([]);
}

// Label → path along the pixel edges where that label ends, in whole loops: dashes run along them.
function borders(scene, plane, index, { left, top, wide, high }, volume) {
  const columns = scene.size[plane.column];
  const rows = scene.size[plane.row];
  const slice = new Uint8Array(columns * rows);
  eachPixel(scene, plane, index, (offset, column, row) => (slice[row * columns + column] = volume[offset]));
  const at = (c, r) => (c < 0 || r < 0 || c >= columns || r >= rows ? 0 : slice[r * columns + c]);
  const corner = (c, r) => r * (columns + 1) + c;
  const place = (k) => [left + ((k % (columns + 1)) / columns) * wide, top + (Math.floor(k / (columns + 1)) / rows) * high];
  const edges = new Map();
  const add = (label, from, to) => {
    if (!label) return;
    if (!edges.has(label)) edges.set(label, new Map());
    edges.get(label).set(from, [...(edges.get(label).get(from) ?? []), to]);
  };
  for (let r = 0; r <= rows; r++) {
    for (let c = 0; c <= columns; c++) {
      const [here, left, above] = [at(c, r), at(c - 1, r), at(c, r - 1)];
      const [start, down, right] = [corner(c, r), corner(c, r + 1), corner(c + 1, r)];
      if (here !== left) {
        add(here, down, start);
        add(left, start, down);
      }
      if (here !== above) {
        add(here, start, right);
        add(above, right, start);
      }
    }
  }
  return new Map([...edges].map(([label, steps]) => [label, loops(steps, place)]));
}

// Steps run round their label clockwise, so that a walk along them ends where it began.
function loops(steps, place) {
  const path = new Path2D();
  for (const start of steps.keys()) {
    if (!steps.get(start).length) continue;
    path.moveTo(...place(start));
    for (let at = start; steps.get(at).length; path.lineTo(...place(at))) at = steps.get(at).pop();
  }
  return path;
}

function drawLandmarks(scene, plane, index, sheet) {
  const { context, scale } = sheet;
  const spacing = scene.spacing[plane.normal];
  context.font = `${11 * scale}px sans-serif`;
  context.textAlign = "left";
  context.textBaseline = "middle";
  for (const { position, error } of scene.landmarks) {
    if (Math.abs(position[plane.normal] - index) * spacing > Math.max(spacing, 3)) continue;
    const [x, y] = [sheet.x(position[plane.column]), sheet.y(position[plane.row])];
    context.strokeStyle = "#ff4fd8";
    context.lineWidth = 1.5 * scale;
    context.beginPath();
    context.arc(x, y, 5 * scale, 0, 2 * Math.PI);
    context.stroke();
    outlined(context, `${error.toFixed(1)} mm`, x + 8 * scale, y, scale);
  }
}

function drawCross(cursor, sheet, plane) {
  const { context, width, height, scale } = sheet;
  const [x, y] = [sheet.x(cursor[plane.column]), sheet.y(cursor[plane.row])];
  const gap = 8 * scale;
  context.strokeStyle = "rgba(255, 255, 255, 0.45)";
  context.lineWidth = scale;
  context.beginPath();
  for (const [x0, y0, x1, y1] of [[0, y, x - gap, y], [x + gap, y, width, y], [x, 0, x, y - gap], [x, y + gap, x, height]]) {
    context.moveTo(x0, y0);
    context.lineTo(x1, y1);
  }
  context.stroke();
}

function drawLetters(scene, plane, { context, width, height, scale }) {
  if (!scene.letters.length) return;
  const [left, right] = scene.letters[plane.column];
  const [first, last] = scene.letters[plane.row];
  const [top, bottom] = plane.rowsUp ? [last, first] : [first, last];
  const edge = 4 * scale;
  context.font = `bold ${13 * scale}px sans-serif`;
  for (const [letter, x, y, align, base] of [
    [left, edge, height / 2, "left", "middle"],
    [right, width - edge, height / 2, "right", "middle"],
    [top, width / 2, edge, "center", "top"],
    [bottom, width / 2, height - edge, "center", "bottom"],
  ]) {
    context.textAlign = align;
    context.textBaseline = base;
    outlined(context, letter, x, y, scale);
  }
}

function outlined(context, text, x, y, scale) {
  context.strokeStyle = "#000";
  context.lineWidth = 3 * scale;
  context.lineJoin = "round";
  context.strokeText(text, x, y);
  context.fillStyle = "#fff";
  context.fillText(text, x, y);
}
