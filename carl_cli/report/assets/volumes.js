// Volumes as carl_cli/report/html.py packs them: bytes, x fastest, then y, then z.
// A position is [x, y, z] in voxels of the display grid, whole numbers at voxel centres.

const NO_DATA = 255;

async function unpack(id) {
  const packed = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(plain).arrayBuffer();
}

async function loadScene() {
  const scene = JSON.parse(document.getElementById("scene").textContent);
  const [nx, ny] = scene.size;
  scene.stride = [1, nx, nx * ny];
  scene.volumes = {};
  for (const name of scene.packed) scene.volumes[name] = new Uint8Array(await unpack(name));
  scene.shift = new Int16Array(await unpack("mapped"));
  for (const map of Object.values(scene.maps)) {
    map.colours = Uint8Array.from(atob(map.colours), (c) => c.charCodeAt(0));
  }
  scene.labelColours = new Uint8Array(4 * (scene.labels.length + 1));
  scene.labels.forEach(({ colour }, k) => {
    scene.labelColours.set([1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)).concat(255), 4 * (k + 1));
  });
  return scene;
}

// Calls visit(offset in the volume, column, row) for the pixels of a slice, top row first.
function eachPixel(scene, plane, index, visit) {
  const { stride, size } = scene;
  const rows = size[plane.row];
  for (let row = 0; row < rows; row++) {
    const voxel = plane.rowsUp ? rows - 1 - row : row;
    let offset = index * stride[plane.normal] + voxel * stride[plane.row];
    for (let column = 0; column < size[plane.column]; column++, offset += stride[plane.column]) {
      visit(offset, column, row);
    }
  }
}

function offsetOf(scene, position) {
  return position.reduce((sum, p, axis) => sum + p * scene.stride[axis], 0);
}

// Millimetres from the grid's origin to a node of the lattice, along one display axis.
function nodeMm(scene, axis, node) {
  const nodes = scene.lattice[axis];
  return nodes > 1 ? (node * (scene.size[axis] - 1) * scene.spacing[axis]) / (nodes - 1) : 0;
}

// Coordinate along `axis`, mm, of the point that the transform maps a node [x, y, z] to.
function mappedMm(scene, node, axis) {
  const [lx, ly] = scene.lattice;
  const place = (node[0] + lx * (node[1] + ly * node[2])) * scene.components + axis;
  return nodeMm(scene, axis, node[axis]) + scene.shift[place] * scene.shiftUnit;
}

// [node below, node above, weight of the one above] of a position along an axis.
function between(scene, axis, position) {
  const last = scene.lattice[axis] - 1;
  const exact = scene.size[axis] > 1 ? (position * last) / (scene.size[axis] - 1) : 0;
  const below = Math.min(Math.floor(exact), Math.max(last - 1, 0));
  return [below, Math.min(below + 1, last), exact - below];
}

// Lattice of mapped coordinates in one slice: values[row][column], rows along plane.row.
function mappedSlice(scene, plane, index, axis) {
  const [below, above, weight] = between(scene, plane.normal, index);
  const node = [0, 0, 0];
  const value = (normal) => ((node[plane.normal] = normal), mappedMm(scene, node, axis));
  return Array.from({ length: scene.lattice[plane.row] }, (_, row) =>
    Array.from({ length: scene.lattice[plane.column] }, (_, column) => {
      node[plane.row] = row;
      node[plane.column] = column;
      return (1 - weight) * value(below) + weight * value(above);
    }),
  );
}

// How far the transform moves the point at a voxel, mm (nearest lattice node).
function movedMm(scene, position) {
  const node = position.map((p, axis) => {
    const [below, above, weight] = between(scene, axis, p);
    return weight < 0.5 ? below : above;
  });
  const shifts = Array.from({ length: scene.components }, (_, axis) => mappedMm(scene, node, axis) - nodeMm(scene, axis, node[axis]));
  return Math.hypot(...shifts);
}

function lpsOf(scene, position) {
  return scene.indexToLps.map((row) => row.slice(0, -1).reduce((sum, m, axis) => sum + m * position[axis], row.at(-1)));
}
