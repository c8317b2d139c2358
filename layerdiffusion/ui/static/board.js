// A board: a picture to click and paint on, or the subject to move about. Runs once for each board; Gradio gives it
// `element`, `trigger`, `props` and `watch`. The server's word is `props.value` (JSON: marks or placement) and
// `props.picture` (a data URL); the board only draws what it was told, and tells what was done to it.
const kind = props.kind;
const stage = element.querySelector(".ld-stage");
const canvas = element.querySelector("canvas");
const empty = element.querySelector(".ld-empty");
const readout = element.querySelector(".ld-readout");
const pen = canvas.getContext("2d");
const find = (selector) => element.querySelector(selector);
const all = (selector) => Array.from(element.querySelectorAll(selector));

let state = {};
let picture = null; // the image under the marks
let mask = null;
let cutout = null; // the subject alone
let ground = null; // the background without its own subject
let tool = "add";
let pending = []; // clicks and strokes on their way to the server
let stroke = null;
let pointer = null; // where the mouse is, in picture pixels
let cursor = null; // where the keyboard is, in picture pixels
let drag = null;
let live = null; // the placement while a hand is on it

const load = (url) =>
  new Promise((done) => {
    if (!url) return done(null);
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => done(null);
    image.src = url;
  });

let reading = 0;
async function read() {
  const mine = ++reading;
  const next = JSON.parse(props.value || "{}");
  const loaded = await Promise.all([
    load(kind === "place" ? next.composite : props.picture),
    load(next.mask),
    load(next.subject),
    load(next.background),
  ]);
  if (mine !== reading) return; // a newer value came meanwhile
  [picture, mask, cutout, ground] = loaded;
  state = next;
  pending = [];
  if (!drag && settled()) live = null;
  element.classList.toggle("ld-has-picture", Boolean(picture));
  element.dataset.version = next.version ?? "";
  element.dataset.points = (next.points || []).length;
  element.dataset.area = next.area ?? 0;
  for (const button of all("[data-pick]")) {
    const index = Number(button.dataset.pick);
    button.hidden = !(next.candidates > index);
    button.setAttribute("aria-pressed", String(next.pick === index));
  }
  const picks = find(".ld-picks");
  if (picks) picks.hidden = !(next.candidates > 1);
  for (const button of all("[data-needs]")) button.disabled = !next[button.dataset.needs];
  stage.setAttribute("aria-label", next.description || stage.dataset.label);
  if (empty) {
    empty.hidden = Boolean(picture);
    const words = empty.querySelector(".ld-empty-words");
    if (words && next.empty) words.textContent = next.empty;
  }
  if (readout) readout.textContent = live ? describe(live) : next.readout || "";
  layout();
}

// --- geometry: the picture is fitted into the stage; picture pixels in, screen pixels out ---

let view = { left: 0, top: 0, scale: 1, ratio: 1 };
function size() {
  if (kind === "place") return [state.size || 1, state.size || 1];
  return [state.width || 1, state.height || 1];
}
function layout() {
  const [width, height] = size();
  const box = stage.getBoundingClientRect();
  if (!box.width) return;
  const ratio = window.devicePixelRatio || 1;
  const scale = Math.min(box.width / width, box.height / height);
  view = { left: (box.width - width * scale) / 2, top: (box.height - height * scale) / 2, scale, ratio };
  canvas.width = Math.round(box.width * ratio);
  canvas.height = Math.round(box.height * ratio);
  draw();
}
function toPicture(event) {
  const box = stage.getBoundingClientRect();
  return [
    (event.clientX - box.left - stage.clientLeft - view.left) / view.scale,
    (event.clientY - box.top - stage.clientTop - view.top) / view.scale,
  ];
}
const toScreen = ([x, y]) => [view.left + x * view.scale, view.top + y * view.scale];
const inside = ([x, y]) => x >= 0 && y >= 0 && x < size()[0] && y < size()[1];
const colour = (name) => getComputedStyle(element).getPropertyValue(name).trim();

// --- drawing ---

function draw() {
  pen.setTransform(view.ratio, 0, 0, view.ratio, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (!picture) return;
  const [width, height] = size();
  pen.imageSmoothingQuality = "high";
  const moving = kind === "place" && (live || drag) && ground && cutout;
  pen.drawImage(moving ? ground : picture, view.left, view.top, width * view.scale, height * view.scale);
  if (kind === "place") {
    if (moving) drawSubject(live);
    if (cutout) drawHandles(live || state.placement);
    return;
  }
  if (mask) drawMask();
  for (const path of pending.filter((item) => item.path)) drawStroke(path);
  if (stroke) drawStroke(stroke);
  for (const [x, y, label] of state.points || []) drawPoint(x, y, label, 1);
  for (const { point } of pending.filter((item) => item.point)) drawPoint(...point, 0.55);
  if (cursor && document.activeElement === stage) drawCursor();
  if (pointer && (tool === "brush" || tool === "erase")) drawBrush(pointer);
}

// The mask is a tint and a white line in a dark one: the line is told apart on any picture, without its colour.
function drawMask() {
  const layer = document.createElement("canvas");
  layer.width = canvas.width;
  layer.height = canvas.height;
  const on = layer.getContext("2d");
  const [width, height] = size();
  const box = [view.left, view.top, width * view.scale, height * view.scale].map((value) => value * view.ratio);
  const stamp = (fill) => {
    const copy = document.createElement("canvas");
    copy.width = layer.width;
    copy.height = layer.height;
    const to = copy.getContext("2d");
    to.imageSmoothingEnabled = view.scale < 1;
    to.drawImage(mask, ...box);
    to.globalCompositeOperation = "source-in";
    to.fillStyle = fill;
    to.fillRect(0, 0, copy.width, copy.height);
    return copy;
  };
  const ring = (reach, fill) => {
    const copy = stamp(fill);
    for (let turn = 0; turn < 12; turn++) {
      const angle = (turn * Math.PI) / 6;
      on.drawImage(copy, reach * Math.cos(angle), reach * Math.sin(angle));
    }
  };
  ring(2.6 * view.ratio, "rgba(15, 12, 30, .9)");
  ring(1.5 * view.ratio, "#fff");
  on.globalCompositeOperation = "destination-out";
  on.drawImage(stamp("#000"), 0, 0);
  on.globalCompositeOperation = "source-over";
  on.globalAlpha = 0.42;
  on.drawImage(stamp(colour("--ld-mask")), 0, 0);
  pen.drawImage(layer, 0, 0, layer.width / view.ratio, layer.height / view.ratio);
}

function drawPoint(x, y, label, alpha) {
  const [left, top] = toScreen([x + 0.5, y + 0.5]);
  pen.globalAlpha = alpha;
  disc(left, top, 10, "rgba(15, 12, 30, .85)");
  disc(left, top, 8.5, "#fff");
  disc(left, top, 7, label ? colour("--ld-add") : colour("--ld-subtract"));
  pen.strokeStyle = "#fff";
  pen.lineWidth = 2.2;
  pen.lineCap = "round";
  pen.beginPath();
  pen.moveTo(left - 3.6, top);
  pen.lineTo(left + 3.6, top);
  if (label) {
    pen.moveTo(left, top - 3.6);
    pen.lineTo(left, top + 3.6);
  }
  pen.stroke();
  pen.globalAlpha = 1;
}
function disc(left, top, radius, fill) {
  pen.fillStyle = fill;
  pen.beginPath();
  pen.arc(left, top, radius, 0, 2 * Math.PI);
  pen.fill();
}
function drawStroke({ path, radius, erase }) {
  pen.strokeStyle = erase ? "rgba(15, 12, 30, .55)" : colour("--ld-mask");
  pen.globalAlpha = erase ? 1 : 0.6;
  pen.lineWidth = 2 * radius * view.scale;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  path.forEach((at, index) => (index ? pen.lineTo(...toScreen(at)) : pen.moveTo(...toScreen(at))));
  if (path.length === 1) pen.lineTo(...toScreen([path[0][0] + 0.01, path[0][1]]));
  pen.stroke();
  pen.globalAlpha = 1;
}
function drawBrush(at) {
  const [left, top] = toScreen(at);
  for (const [fill, width] of [["rgba(15, 12, 30, .8)", 3], ["#fff", 1.5]]) {
    pen.strokeStyle = fill;
    pen.lineWidth = width;
    pen.beginPath();
    pen.arc(left, top, radius() * view.scale, 0, 2 * Math.PI);
    pen.stroke();
  }
}
function drawCursor() {
  const [left, top] = toScreen([cursor[0] + 0.5, cursor[1] + 0.5]);
  for (const [fill, width] of [["rgba(15, 12, 30, .8)", 3.5], ["#fff", 1.5]]) {
    pen.strokeStyle = fill;
    pen.lineWidth = width;
    pen.beginPath();
    pen.moveTo(left - 12, top);
    pen.lineTo(left + 12, top);
    pen.moveTo(left, top - 12);
    pen.lineTo(left, top + 12);
    pen.stroke();
  }
}

// --- the subject under a hand: the same affine map as on the server, drawn at once ---

function drawSubject(place) {
  const [x, y] = state.centre;
  const side = state.size;
  pen.save();
  pen.beginPath();
  pen.rect(view.left, view.top, side * view.scale, side * view.scale);
  pen.clip();
  pen.translate(...toScreen([x + 0.5 + place.dx * side, y + 0.5 + place.dy * side]));
  pen.rotate((-place.rotation * Math.PI) / 180);
  pen.scale(place.scale * view.scale * (place.flip ? -1 : 1), place.scale * view.scale);
  pen.drawImage(cutout, -x - 0.5, -y - 0.5, side, side);
  pen.restore();
}
function handles(place) {
  const [x, y] = state.centre;
  const [halfWidth, halfHeight] = state.half;
  const angle = (-place.rotation * Math.PI) / 180;
  const to = ([right, down]) => {
    const turned = [right * Math.cos(angle) - down * Math.sin(angle), right * Math.sin(angle) + down * Math.cos(angle)];
    return toScreen([
      x + 0.5 + place.dx * state.size + turned[0] * place.scale,
      y + 0.5 + place.dy * state.size + turned[1] * place.scale,
    ]);
  };
  const corners = [[-halfWidth, -halfHeight], [halfWidth, -halfHeight], [halfWidth, halfHeight], [-halfWidth, halfHeight]];
  const above = to([0, -halfHeight]);
  const centre = to([0, 0]);
  const away = Math.hypot(above[0] - centre[0], above[1] - centre[1]) || 1;
  const reach = (away + 22) / away;
  const turn = [centre[0] + (above[0] - centre[0]) * reach, centre[1] + (above[1] - centre[1]) * reach];
  return { corners: corners.map(to), above, turn, centre };
}
function drawHandles(place) {
  if (!place) return;
  const { corners, above, turn } = handles(place);
  for (const [fill, width] of [["rgba(15, 12, 30, .75)", 3.5], ["#fff", 1.5]]) {
    pen.strokeStyle = fill;
    pen.lineWidth = width;
    pen.setLineDash(width < 2 ? [6, 4] : []);
    pen.beginPath();
    corners.forEach((at, index) => (index ? pen.lineTo(...at) : pen.moveTo(...at)));
    pen.closePath();
    pen.moveTo(...above);
    pen.lineTo(...turn);
    pen.stroke();
  }
  pen.setLineDash([]);
  for (const at of [...corners, turn]) {
    disc(...at, 7, "rgba(15, 12, 30, .85)");
    disc(...at, 5.5, "#fff");
    disc(...at, 3.5, colour("--ld-accent"));
  }
}
const near = (event, at) => {
  const box = stage.getBoundingClientRect();
  return Math.hypot(event.clientX - box.left - at[0], event.clientY - box.top - at[1]) < 16;
};
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const degrees = (value) => ((((value + 180) % 360) + 360) % 360) - 180;
function tidy(place) {
  return {
    scale: clamp(Number(place.scale.toFixed(3)), 0.2, 4),
    dx: clamp(Number(place.dx.toFixed(4)), -1, 1),
    dy: clamp(Number(place.dy.toFixed(4)), -1, 1),
    rotation: Number(degrees(place.rotation).toFixed(1)),
    flip: Boolean(place.flip),
  };
}
let waiting = null;
let touched = 0;
// What the hand did last holds until the server has caught up with it, or has had the time to.
const settled = () =>
  !live || Date.now() - touched > 4000 || JSON.stringify(tidy(state.placement || live)) === JSON.stringify(live);
function place(change, now = false) {
  if (!state.placement) return;
  live = tidy({ ...(live || state.placement), ...change });
  if (readout) readout.textContent = describe(live);
  draw();
  clearTimeout(waiting);
  touched = Date.now();
  const wanted = live;
  if (!drag) waiting = setTimeout(() => trigger("place", wanted), now ? 0 : 250);
}
const describe = ({ scale, dx, dy, rotation, flip }) =>
  `size ×${scale.toFixed(2)} · right ${Math.round(100 * dx)} % · down ${Math.round(100 * dy)} % · ` +
  `turned ${Math.round(rotation)}°${flip ? " · mirrored" : ""}`;

// --- hands ---

const radius = () => {
  const slider = find(".ld-brush input");
  return (Number(slider?.value || 4) / 100) * Math.max(...size());
};
const round = (value) => Math.round(value * 10) / 10;

function click([x, y], label) {
  const point = [Math.floor(x), Math.floor(y), label];
  pending.push({ point });
  draw();
  trigger("point", { x: point[0], y: point[1], label });
}

stage.addEventListener("pointerdown", (event) => {
  if (!picture) return;
  const at = toPicture(event);
  stage.focus({ preventScroll: true });
  cursor = null;
  if (kind === "place") {
    if (!cutout || !state.placement) return;
    const spots = handles(state.placement);
    const mode = near(event, spots.turn) ? "turn" : spots.corners.some((spot) => near(event, spot)) ? "scale" : "move";
    const box = stage.getBoundingClientRect();
    drag = { mode, at, from: { ...(live || state.placement) }, centre: [spots.centre[0] + box.left, spots.centre[1] + box.top], x: event.clientX, y: event.clientY };
    stage.setPointerCapture(event.pointerId);
    event.preventDefault();
    return;
  }
  if (!inside(at)) return;
  if (tool === "brush" || tool === "erase") {
    const erase = (tool === "erase") !== (event.button === 2);
    stroke = { path: [at.map(round)], radius: radius(), erase };
    stage.setPointerCapture(event.pointerId);
    event.preventDefault();
    draw();
  } else {
    const other = event.button === 2 || event.shiftKey;
    click(at, Number((tool === "add") !== other));
  }
});
stage.addEventListener("pointermove", (event) => {
  if (!picture) return;
  const at = toPicture(event);
  if (drag) {
    const { mode, from, centre } = drag;
    const side = state.size;
    if (mode === "move") place({ dx: from.dx + (at[0] - drag.at[0]) / side, dy: from.dy + (at[1] - drag.at[1]) / side });
    const now = [event.clientX - centre[0], event.clientY - centre[1]];
    const then = [drag.x - centre[0], drag.y - centre[1]];
    if (mode === "scale") place({ scale: (from.scale * Math.hypot(...now)) / (Math.hypot(...then) || 1) });
    if (mode === "turn") {
      const angle = ((Math.atan2(then[1], then[0]) - Math.atan2(now[1], now[0])) * 180) / Math.PI;
      const turned = degrees(from.rotation + angle);
      place({ rotation: event.shiftKey ? Math.round(turned / 15) * 15 : turned });
    }
    return;
  }
  pointer = inside(at) ? at : null;
  if (stroke) {
    const last = stroke.path[stroke.path.length - 1];
    if (Math.hypot(at[0] - last[0], at[1] - last[1]) * view.scale > 1.5 && stroke.path.length < 2000) {
      stroke.path.push(at.map(round));
    }
  }
  if (stroke || tool === "brush" || tool === "erase") draw();
});
stage.addEventListener("pointerup", () => {
  if (drag) {
    drag = null;
    if (live) place({}, true);
  }
  if (!stroke) return;
  pending.push({ ...stroke });
  trigger("stroke", { points: stroke.path, radius: round(stroke.radius), erase: stroke.erase });
  stroke = null;
  draw();
});
stage.addEventListener("pointerleave", () => {
  pointer = null;
  if (!stroke && !drag) draw();
});
stage.addEventListener("contextmenu", (event) => event.preventDefault());
stage.addEventListener("blur", () => draw());

const nudges = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
stage.addEventListener("keydown", (event) => {
  if (!picture || event.ctrlKey || event.metaKey || event.altKey) return;
  const nudge = nudges[event.key];
  if (kind === "place") {
    if (!state.placement) return;
    const { scale, dx, dy, rotation, flip } = live || state.placement;
    const step = event.shiftKey ? 0.05 : 0.01;
    if (nudge) place({ dx: dx + nudge[0] * step, dy: dy + nudge[1] * step });
    else if (event.key === "+" || event.key === "=") place({ scale: scale * 1.05 });
    else if (event.key === "-") place({ scale: scale / 1.05 });
    else if (event.key === "[") place({ rotation: rotation + 5 });
    else if (event.key === "]") place({ rotation: rotation - 5 });
    else if (event.key.toLowerCase() === "f") place({ flip: !flip });
    else return;
    event.preventDefault();
    return;
  }
  const [width, height] = size();
  if (nudge) {
    const step = Math.max(1, Math.round(Math.max(width, height) / (event.shiftKey ? 12 : 64)));
    cursor = cursor || [Math.floor(width / 2), Math.floor(height / 2)];
    cursor = [clamp(cursor[0] + nudge[0] * step, 0, width - 1), clamp(cursor[1] + nudge[1] * step, 0, height - 1)];
    draw();
  } else if ((event.key === "Enter" || event.key === " ") && cursor) {
    if (tool === "brush" || tool === "erase") {
      trigger("stroke", { points: [cursor], radius: round(radius()), erase: tool === "erase" });
    } else click(cursor, Number((tool === "add") !== event.shiftKey));
  } else if ({ a: 1, s: 1, b: 1, e: 1 }[event.key]) choose({ a: "add", s: "subtract", b: "brush", e: "erase" }[event.key]);
  else if (event.key === "z") trigger("act", { name: "undo" });
  else return;
  event.preventDefault();
});

function choose(name) {
  tool = name;
  for (const button of all("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === name));
  stage.dataset.tool = name;
  element.classList.toggle("ld-painting", name === "brush" || name === "erase");
  draw();
}
// Gradio puts an upload button's file input just before the button.
const fileInput = (id) => document.querySelector(`input[type=file]:has(+ #${id})`);
const browse = (id) => fileInput(id)?.click();

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || !element.contains(button)) return;
  const { tool: chosen, act, pick, browse: id, turn, zoom } = button.dataset;
  if (chosen) choose(chosen);
  if (act === "download") download();
  else if (act === "flip") place({ flip: !(live || state.placement)?.flip });
  else if (act === "reset") place({ scale: 1, dx: 0, dy: 0, rotation: 0, flip: false }, true);
  else if (act) trigger("act", { name: act });
  if (pick) trigger("act", { name: "pick", index: Number(pick) });
  if (turn) place({ rotation: (live || state.placement).rotation + Number(turn) });
  if (zoom) place({ scale: (live || state.placement).scale * Number(zoom) });
  if (id) browse(id);
});

// The mask as a black and white PNG, straight from what is shown.
function download() {
  if (!mask) return;
  const [width, height] = size();
  const sheet = document.createElement("canvas");
  sheet.width = width;
  sheet.height = height;
  const on = sheet.getContext("2d");
  on.drawImage(mask, 0, 0, width, height);
  on.globalCompositeOperation = "source-in";
  on.fillStyle = "#fff";
  on.fillRect(0, 0, width, height);
  on.globalCompositeOperation = "destination-over";
  on.fillStyle = "#000";
  on.fillRect(0, 0, width, height);
  const link = document.createElement("a");
  link.href = sheet.toDataURL("image/png");
  link.download = `mask-${props.name}.png`;
  link.click();
}

// A file dropped or pasted on the board goes the way of a chosen one.
function give(files) {
  const input = fileInput(props.upload);
  if (!input || !files?.length) return;
  const parcel = new DataTransfer();
  parcel.items.add(files[0]);
  input.files = parcel.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}
if (props.upload) {
  stage.addEventListener("dragover", (event) => {
    event.preventDefault();
    element.classList.add("ld-over");
  });
  for (const name of ["dragleave", "drop"]) stage.addEventListener(name, () => element.classList.remove("ld-over"));
  stage.addEventListener("drop", (event) => {
    event.preventDefault();
    give(event.dataTransfer.files);
  });
  stage.addEventListener("paste", (event) => give(event.clipboardData.files));
}

new ResizeObserver(layout).observe(stage);
watch(["value", "picture"], read);
if (kind === "clicks") choose("add");
read();
