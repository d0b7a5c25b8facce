/* What every script of the page begins with: its data, and the colours that it is drawn in. */
"use strict";
window.busyhour = (() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  const NAMES = ["paper", "ink", "muted", "line", "band", "pass", "fail", "warn", "void"].concat(
    [1, 2, 3, 4, 5, 6].map((n) => `series-${n}`),
  );

  /* Each colour as it is seen now: of a pair, such as light-dark() is, a canvas knows nothing. */
  const probe = document.body.appendChild(document.createElement("span"));
  probe.hidden = true;
  const palette = () => Object.fromEntries(NAMES.map((name) => {
    probe.style.color = `var(--${name})`;
    return [name, getComputedStyle(probe).color];
  }));
  /* The same colour, of which so much is seen. */
  const faded = (colour, share) => colour.replace(/^rgb\((.*)\)$/, `rgba($1, ${share})`);
  const changed = () => document.dispatchEvent(new CustomEvent("busyhour:theme"));

  /* As the system has it, then the other, then back again. */
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  const choose = (theme) => {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    if (button) button.setAttribute("aria-label", `Colours: ${theme || "as the system has them"}`);
    changed();
  };
  dark.addEventListener("change", changed);
  if (button) {
    button.addEventListener("click", () => {
      const other = dark.matches ? "light" : "dark";
      choose(root.dataset.theme ? "" : other);
    });
  }

  /* Paper is white, and has nothing to unfold. */
  let before = null;
  addEventListener("beforeprint", () => {
    const folded = [...document.querySelectorAll("details:not([open])")].filter((one) => !one.closest("footer, .grid"));
    before = { theme: root.dataset.theme, folded };
    folded.forEach((one) => (one.open = true));
    root.dataset.theme = "light";
    root.dataset.printing = "";
    changed();
  });
  addEventListener("afterprint", () => {
    if (!before) return;
    before.folded.forEach((one) => (one.open = false));
    delete root.dataset.printing;
    choose(before.theme || "");
    before = null;
  });

  const save = document.getElementById("save");
  if (save) {
    save.hidden = false;
    save.addEventListener("click", () => {
      const text = document.getElementById("judgement").textContent;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
      link.download = "judgement.json";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    });
  }
  return { data, palette, faded };
})();
