// The presentation: one example a slide, arrow keys to walk, Escape to leave.
const deck = element.querySelector(".ld-slides");
const pages = Array.from(element.querySelectorAll(".ld-slide"));
let at = 0;
let before = null;
function show(index) {
  at = (index + pages.length) % pages.length;
  pages.forEach((page, number) => (page.hidden = number !== at));
  deck.dataset.at = at;
}
function open() {
  if (!pages.length) return;
  before = document.activeElement;
  document.body.appendChild(deck);
  deck.hidden = false;
  document.body.classList.add("ld-presenting");
  show(at);
  deck.querySelector(".ld-slide-on").focus();
}
function close() {
  deck.hidden = true;
  document.body.classList.remove("ld-presenting");
  before?.focus?.();
}
document.addEventListener("click", (event) => {
  if (event.target.closest("#present")) open();
});
deck.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const { step, open: name } = button.dataset;
  if (step === "close") close();
  else if (step) show(at + Number(step));
  if (name) {
    trigger("open", { name });
    close();
  }
});
document.addEventListener("keydown", (event) => {
  if (deck.hidden) return;
  const steps = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1 };
  if (event.key === "Escape") close();
  else if (event.key === "Home") show(0);
  else if (event.key === "End") show(pages.length - 1);
  else if (event.key in steps && !(event.key === " " && event.target.closest?.("button"))) show(at + steps[event.key]);
  else return;
  event.preventDefault();
});
