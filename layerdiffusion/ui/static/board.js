// A board: a picture to click and paint on, or the subject to move about. Runs once for each board, with
// `board_place.js` and `board_input.js` after it; Gradio gives it `element`, `trigger`, `props` and `watch`. The server
// sends `props.value` (JSON: marks or placement) and `props.picture` (JSON: a data URL), each with its version; the
// board draws what is newest and reports what was done to it.
// Its own name, from the page: an update that comes before a board is shown leaves of `props` what it holds alone.
const name = element.closest("[id$=-board]").id.replace("-board", "");
const kind = name === "place" ? "place" : "clicks";
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
let outline = null; // a lasso or a box being drawn: { path, erase, box }
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

// --- agreeing with the server: responses may overtake each other, or get lost ---

const ASK_AFTER = 600; // milliseconds between what was done and a question, and between questions
const ASKS = 4;
let marks = {}; // the newest value that came
let sheet = {}; // the newest picture that came
let asks = 0;
let asking = null;
const behind = () => kind === "clicks" && (marks.picture_version || 0) !== (sheet.version || 0);
// Something is on its way: should no newer value come of it, ask for it.
function expect() {
  if (kind !== "clicks") return;
  asks = ASKS;
  clearTimeout(asking);
  asking = setTimeout(ask, ASK_AFTER);
}
function ask() {
  trigger("ask", { version: marks.version || 0, picture: sheet.version || 0 });
  asks = Math.max(0, asks - 1);
  if (asks > 0) asking = setTimeout(ask, ASK_AFTER);
}
function send(name, data) {
  trigger(name, data);
  expect();
}
function take() {
  const [value, image] = [props.value, props.picture].map((text) => JSON.parse(text || "{}"));
  const newer = (value.version || 0) > (marks.version || 0);
  if (newer) marks = value;
  if ((image.version || 0) > (sheet.version || 0)) [sheet, frame] = [image, null];
  if (behind()) {
    if (!asks) expect();
  } else if (newer) {
    asks = 0;
    clearTimeout(asking);
  }
}
// The board of both layers comes after every change, with the versions that the others should have.
const announce = () => marks.versions && document.dispatchEvent(new CustomEvent("ld-versions", { detail: marks }));
const seeker = element.querySelector(".ld-find");
let suggested = ""; // the words that were put into the field for the user
if (kind === "clicks") {
  document.addEventListener("ld-versions", function compare({ detail }) {
    if (!element.isConnected) return document.removeEventListener("ld-versions", compare);
    frameIs((detail.windows || {})[name]);
    const field = seeker.querySelector("input");
    const noun = detail.nouns?.[name];
    if (noun !== undefined && field.value === suggested && field !== document.activeElement) {
      field.value = suggested = noun;
    }
    if ((detail.versions[name] || 0) > (marks.version || 0)) {
      clearTimeout(asking);
      asks = ASKS;
      ask();
    }
  });
}

let reading = 0;
async function read() {
  take();
  announce();
  if (behind()) return;
  const mine = ++reading;
  const next = marks;
  const loaded = await Promise.all([
    load(kind === "place" ? next.composite : sheet.url),
    load(next.mask),
    load(next.subject),
    load(next.background),
  ]);
  if (mine !== reading) return; // a newer value came meanwhile
  [picture, mask, cutout, ground] = loaded;
  state = next;
  pending = [];
  if (!drag && settled()) live = null;
  if (kind === "place") forgetSteps();
  element.classList.toggle("ld-has-picture", Boolean(picture));
  element.dataset.version = next.version ?? "";
  element.dataset.points = (next.points || []).length;
  element.dataset.area = next.area ?? 0;
  const names = next.found ? ["Best", "Second", "Third"] : ["Part", "More", "Whole"];
  for (const button of all("[data-pick]")) {
    const index = Number(button.dataset.pick);
    button.textContent = names[index];
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
  if (seeker) seeker.querySelector("button").disabled = !picture;
  if (readout) readout.textContent = live ? describe(live) : next.readout || "";
  layout();
}

// --- geometry: the picture is fitted into the stage; picture pixels in, screen pixels out ---

let view = { left: 0, top: 0, scale: 1, ratio: 1 };
function size() {
  return [state.width || 1, state.height || 1];
}
function layout() {
  const [width, height] = size();
  stage.style.aspectRatio = picture ? clamp(width / height, 0.8, 2) : "";
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
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const colour = (name) => getComputedStyle(element).getPropertyValue(name).trim();

// --- drawing ---

function draw() {
  pen.setTransform(view.ratio, 0, 0, view.ratio, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (!picture) return;
  const [width, height] = size();
  pen.imageSmoothingQuality = "high";
  const placed = live || state.placement; // a held subject that has not moved yet has no live placement
  const moving = kind === "place" && (live || drag) && placed && ground && cutout;
  pen.drawImage(moving ? ground : picture, view.left, view.top, width * view.scale, height * view.scale);
  if (kind === "place") {
    if (moving) drawSubject(placed);
    if (cutout) drawHandles(placed);
    return;
  }
  if (mask) drawMask();
  if (slides()) drawFrame();
  for (const path of pending.filter((item) => item.path)) drawStroke(path);
  if (stroke) drawStroke(stroke);
  if (state.box) drawOutline({ path: boxPath(state.box) });
  for (const item of pending.filter((one) => one.line)) drawOutline(item.line);
  if (outline) drawOutline({ ...outline, path: outline.box ? boxPath(outline.path.flat()) : outline.path });
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

// --- the window: what the model sees of a picture of another shape; the rest is shaded ---

let frame = null; // left, top, right, bottom
const slack = () => [size()[0] - (frame[2] - frame[0]), size()[1] - (frame[3] - frame[1])];
const slides = () => frame && Math.max(...slack()) > 0.01 * Math.max(...size());
function frameIs(box) {
  if (drag) return;
  frame = box || null;
  const button = find("[data-tool=window]");
  button.hidden = !slides();
  if (button.hidden && tool === "window") choose("add");
  draw();
}
function slide(across, down) {
  const [width, height] = [frame[2] - frame[0], frame[3] - frame[1]];
  const left = clamp(across, 0, slack()[0]);
  const top = clamp(down, 0, slack()[1]);
  frame = [left, top, left + width, top + height];
  draw();
}
function sendFrame() {
  const [x, y] = slack().map((way, axis) => (way > 0 ? frame[axis] / way : 0.5));
  send("act", { name: "window", x, y });
}
function drawFrame() {
  const [left, top] = toScreen(frame);
  const [width, height] = [(frame[2] - frame[0]) * view.scale, (frame[3] - frame[1]) * view.scale];
  pen.fillStyle = "rgba(15, 12, 30, .55)";
  pen.beginPath();
  pen.rect(view.left, view.top, size()[0] * view.scale, size()[1] * view.scale);
  pen.rect(left, top, width, height);
  pen.fill("evenodd");
  pen.strokeStyle = tool === "window" ? colour("--ld-accent") : "#fff";
  pen.lineWidth = tool === "window" ? 3 : 1.5;
  pen.strokeRect(left, top, width, height);
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
// A line through screen points, and a white one in a dark one, which is told apart on any picture.
const trace = (points) => points.forEach((at, index) => (index ? pen.lineTo(...at) : pen.moveTo(...at)));
function drawLine(draw, dash = []) {
  for (const [shade, width, pattern] of [["rgba(15, 12, 30, .8)", 3.5, []], ["#fff", 1.5, dash]]) {
    pen.strokeStyle = shade;
    pen.lineWidth = width;
    pen.setLineDash(pattern);
    pen.beginPath();
    draw();
    pen.stroke();
  }
  pen.setLineDash([]);
}
function drawStroke({ path, radius, erase }) {
  pen.strokeStyle = erase ? "rgba(15, 12, 30, .55)" : colour("--ld-mask");
  pen.globalAlpha = erase ? 1 : 0.6;
  pen.lineWidth = 2 * radius * view.scale;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  trace(path.map(toScreen));
  if (path.length === 1) pen.lineTo(...toScreen([path[0][0] + 0.01, path[0][1]]));
  pen.stroke();
  pen.globalAlpha = 1;
}
const boxPath = ([left, top, right, bottom]) => [[left, top], [right, top], [right, bottom], [left, bottom]];
// A closed line; it is filled while it is drawn, but for a box.
function drawOutline({ path, erase, fill }) {
  const draw = () => {
    trace(path.map(toScreen));
    pen.closePath();
  };
  drawLine(draw, [6, 4]);
  if (!fill) return;
  pen.globalAlpha = 0.35;
  pen.fillStyle = erase ? colour("--ld-subtract") : colour("--ld-mask");
  pen.fill();
  pen.globalAlpha = 1;
}
function drawBrush(at) {
  drawLine(() => pen.arc(...toScreen(at), radius() * view.scale, 0, 2 * Math.PI));
}
function drawCursor() {
  const [left, top] = toScreen([cursor[0] + 0.5, cursor[1] + 0.5]);
  drawLine(() => {
    trace([[left - 12, top], [left + 12, top]]);
    trace([[left, top - 12], [left, top + 12]]);
  });
}
