// The rest of a board, after `board.js`: what mouse, pen, keys, buttons and files do to it.

const radius = () => {
  const slider = find(".ld-brush input");
  return (Number(slider?.value || 4) / 100) * Math.max(...size());
};
const round = (value) => Math.round(value * 10) / 10;

const lines = new Set(["box", "lasso", "lasso-out"]);

function click([x, y], label) {
  const point = [Math.floor(x), Math.floor(y), label];
  pending.push({ point });
  draw();
  send("point", { x: point[0], y: point[1], label });
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
  if (tool === "window") {
    drag = { at, from: frame };
    stage.setPointerCapture(event.pointerId);
    event.preventDefault();
  } else if (tool === "brush" || tool === "erase") {
    const erase = (tool === "erase") !== (event.button === 2);
    stroke = { path: [at.map(round)], radius: radius(), erase };
    stage.setPointerCapture(event.pointerId);
    event.preventDefault();
    draw();
  } else if (lines.has(tool)) {
    const erase = (tool === "lasso-out") !== (event.button === 2 && tool !== "box");
    outline = { path: [at.map(round)], erase, box: tool === "box", fill: tool !== "box" };
    stage.setPointerCapture(event.pointerId);
    event.preventDefault();
  } else {
    const other = event.button === 2 || event.shiftKey;
    click(at, Number((tool === "add") !== other));
  }
});
stage.addEventListener("pointermove", (event) => {
  if (!picture) return;
  const at = toPicture(event);
  if (drag && tool === "window") return slide(...[0, 1].map((axis) => drag.from[axis] + at[axis] - drag.at[axis]));
  if (drag) {
    const { mode, from, centre } = drag;
    const [width, height] = size();
    const moved = [(at[0] - drag.at[0]) / width, (at[1] - drag.at[1]) / height];
    if (mode === "move") place({ dx: from.dx + moved[0], dy: from.dy + moved[1] });
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
  if (outline) {
    const last = outline.path[outline.path.length - 1];
    if (outline.box) outline.path[1] = at.map(round);
    else if (Math.hypot(at[0] - last[0], at[1] - last[1]) * view.scale > 2 && outline.path.length < 2000) {
      outline.path.push(at.map(round));
    }
    draw();
  }
  if (stroke || tool === "brush" || tool === "erase") draw();
});
stage.addEventListener("pointerup", () => {
  if (drag) {
    const { from } = drag;
    drag = null;
    if (live) {
      if (JSON.stringify(tidy(from)) !== JSON.stringify(live)) noteStep(from);
      place({}, true);
    }
    if (tool === "window") sendFrame();
  }
  if (outline) {
    const { path, erase, box } = outline;
    outline = null;
    if (path.length > (box ? 1 : 2)) {
      pending.push({ line: { path: box ? boxPath(path.flat()) : path, erase, fill: !box } });
      if (box) send("frame", { corners: path });
      else send("lasso", { points: path, erase });
    }
    draw();
  }
  if (!stroke) return;
  pending.push({ ...stroke });
  send("stroke", { points: stroke.path, radius: round(stroke.radius), erase: stroke.erase });
  stroke = null;
  draw();
});
stage.addEventListener("pointercancel", () => {
  drag = stroke = outline = null;
  draw();
});
stage.addEventListener("pointerleave", () => {
  pointer = null;
  if (!stroke && !drag) draw();
});
stage.addEventListener("contextmenu", (event) => event.preventDefault());
stage.addEventListener("blur", () => draw());

const keys = { a: "add", s: "subtract", b: "brush", e: "erase", x: "box", l: "lasso", k: "lasso-out" };
const nudges = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
stage.addEventListener("keydown", (event) => {
  if (!picture || event.ctrlKey || event.metaKey || event.altKey) return;
  const nudge = nudges[event.key];
  if (kind === "place") {
    if (!state.placement) return;
    const { scale, dx, dy, rotation, flip } = live || state.placement;
    const far = event.shiftKey ? 0.05 : 0.01;
    const key = event.key.toLowerCase();
    if (nudge) move({ dx: dx + nudge[0] * far, dy: dy + nudge[1] * far });
    else if (key === "+" || key === "=") move({ scale: scale * 1.05 });
    else if (key === "-") move({ scale: scale / 1.05 });
    else if (key === "[") move({ rotation: rotation + 5 });
    else if (key === "]") move({ rotation: rotation - 5 });
    else if (key === "f") move({ flip: !flip });
    else if (key === "z") event.shiftKey ? step(future, past) : step(past, future);
    else return;
    event.preventDefault();
    return;
  }
  const [width, height] = size();
  if (nudge && tool === "window") {
    slide(...[0, 1].map((axis) => frame[axis] + nudge[axis] * slack()[axis] * 0.05));
    sendFrame();
  } else if (nudge) {
    const step = Math.max(1, Math.round(Math.max(width, height) / (event.shiftKey ? 12 : 64)));
    cursor = cursor || [Math.floor(width / 2), Math.floor(height / 2)];
    cursor = [clamp(cursor[0] + nudge[0] * step, 0, width - 1), clamp(cursor[1] + nudge[1] * step, 0, height - 1)];
    draw();
  } else if ((event.key === "Enter" || event.key === " ") && cursor) {
    if (tool === "brush" || tool === "erase") {
      send("stroke", { points: [cursor], radius: round(radius()), erase: tool === "erase" });
    } else click(cursor, Number((tool === "add") !== event.shiftKey));
  } else if (keys[event.key]) choose(keys[event.key]);
  else if (event.key.toLowerCase() === "z") send("act", { name: event.shiftKey ? "redo" : "undo" });
  else return;
  event.preventDefault();
});

function choose(name) {
  tool = name;
  for (const button of all("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === name));
  stage.dataset.tool = name;
  element.classList.toggle("ld-brushing", name === "brush" || name === "erase");
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
  else if (act === "flip") move({ flip: !(live || state.placement)?.flip });
  else if (act === "reset") move({ scale: 1, dx: 0, dy: 0, rotation: 0, flip: false }, true);
  else if (kind === "place" && act === "undo") step(past, future);
  else if (kind === "place" && act === "redo") step(future, past);
  else if (act) send("act", { name: act });
  if (pick) send("act", { name: "pick", index: Number(pick) });
  if (turn) move({ rotation: (live || state.placement).rotation + Number(turn) });
  if (zoom) move({ scale: (live || state.placement).scale * Number(zoom) });
  if (id) browse(id);
});

seeker?.addEventListener("submit", (event) => {
  event.preventDefault();
  const words = seeker.querySelector("input").value.trim();
  if (!picture || !words) return seeker.querySelector("input").focus();
  seeker.querySelector("button").disabled = true;
  readout.textContent = `Looking for “${words}” …`;
  send("seek", { words });
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
  link.download = `mask-${name}.png`;
  link.click();
}

// A file dropped or pasted on the board goes the way of a chosen one.
function give(files) {
  const input = fileInput(`${name}-upload`);
  if (!input || !files?.length) return;
  const parcel = new DataTransfer();
  parcel.items.add(files[0]);
  input.files = parcel.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}
if (kind === "clicks") {
  const inputs = `input[type=file]:is(:has(+ #${name}-upload), :has(+ #${name}-mask-upload))`;
  document.addEventListener("change", (event) => event.target.matches?.(inputs) && expect(), true);
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
if (kind === "clicks") {
  choose("add");
  frameIs(null);
}
read();
