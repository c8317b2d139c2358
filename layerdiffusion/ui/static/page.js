// Light and dark, files dropped beside the boards, and a question before unfinished or unsaved work is left.
(() => {
  const CANCELS = "#cancel, #generate-cancel, #baselines-cancel";
  const stored = (() => {
    try {
      return localStorage.getItem("layerdiffusion-shade");
    } catch {
      return null;
    }
  })();
  const shade = (dark) => document.body.classList.toggle("dark", dark);
  const ready = (then) =>
    document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", then) : then();
  // Before Gradio's own listener, which ends the edit's stream, also for those who then stay.
  window.addEventListener("beforeunload", (event) => {
    const running = [...document.querySelectorAll(CANCELS)].some((button) => button.offsetParent);
    if (!running && !document.querySelector("#report [data-unsaved]")) return;
    event.preventDefault();
    event.stopImmediatePropagation();
  });
  ready(() => {
    if (stored) shade(stored === "dark");
    document.addEventListener("click", (event) => {
      if (!event.target.closest("#shade")) return;
      const dark = !document.body.classList.contains("dark");
      shade(dark);
      try {
        localStorage.setItem("layerdiffusion-shade", dark ? "dark" : "light");
      } catch {}
    });
    for (const name of ["dragover", "drop"]) {
      document.addEventListener(name, (event) => {
        if (event.target.closest?.(".ld-stage") || !event.dataTransfer?.types.includes("Files")) return;
        event.preventDefault();
        if (name !== "drop" || !event.dataTransfer.files.length) return;
        const input = document.querySelector("input[type=file]:has(+ #restore)");
        if (!input) return;
        const parcel = new DataTransfer();
        parcel.items.add(event.dataTransfer.files[0]);
        input.files = parcel.files;
        input.dispatchEvent(new Event("change", { bubbles: true }));
      });
    }
  });
})();
