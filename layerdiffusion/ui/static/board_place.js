// The rest of a board, after `board.js`: the subject under a hand, by the same affine map as on the server, drawn at once.

function drawSubject(place) {
  const [x, y] = state.centre;
  const [width, height] = size();
  pen.save();
  pen.beginPath();
  pen.rect(view.left, view.top, width * view.scale, height * view.scale);
  pen.clip();
  pen.translate(...toScreen([x + 0.5 + place.dx * width, y + 0.5 + place.dy * height]));
  pen.rotate((-place.rotation * Math.PI) / 180);
  pen.scale(place.scale * view.scale * (place.flip ? -1 : 1), place.scale * view.scale);
  pen.drawImage(cutout, -x - 0.5, -y - 0.5, width, height);
  pen.restore();
}
function handles(place) {
  const [x, y] = state.centre;
  const [halfWidth, halfHeight] = state.half;
  const [width, height] = size();
  const angle = (-place.rotation * Math.PI) / 180;
  const to = ([right, down]) => {
    const turned = [right * Math.cos(angle) - down * Math.sin(angle), right * Math.sin(angle) + down * Math.cos(angle)];
    return toScreen([
      x + 0.5 + place.dx * width + turned[0] * place.scale,
      y + 0.5 + place.dy * height + turned[1] * place.scale,
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
  const draw = () => {
    trace(corners);
    pen.closePath();
    trace([above, turn]);
  };
  drawLine(draw, [6, 4]);
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
let past = []; // placements before this one
let future = []; // and those that were undone
let placed = null; // the version of the photo that they are of
function forgetSteps() {
  if (placed !== state.photo) [past, future, placed] = [[], [], state.photo];
  for (const [name, steps] of [["undo", past], ["redo", future]]) find(`[data-act=${name}]`).disabled = !steps.length;
}
function step(from, to) {
  if (!from.length || !state.placement) return;
  to.push(live || state.placement);
  place(from.pop());
}
// A change that can be undone; a drag's is noted as a whole.
function move(change, now = false) {
  if (!state.placement) return;
  noteStep(live || state.placement);
  place(change, now);
}
function noteStep(before) {
  past.push(before);
  future = [];
}
let waiting = null;
let touched = 0;
// What the hand did last holds until the server has caught up with it, or has had the time to.
const settled = () =>
  !live || Date.now() - touched > 4000 || JSON.stringify(tidy(state.placement || live)) === JSON.stringify(live);
function place(change, now = false) {
  if (!state.placement) return;
  live = tidy({ ...(live || state.placement), ...change });
  forgetSteps();
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

