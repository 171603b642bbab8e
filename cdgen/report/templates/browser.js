"use strict";
// Search, filter, expand and colour the samples. Without this script the page shows all of them, whole.
(() => {
  const browser = document.getElementById("browser");
  const form = browser.querySelector(".filters");
  const items = [...browser.querySelectorAll(".item")].map((element) => ({
    element,
    prompt: element.dataset.prompt,
    texts: [...element.querySelectorAll(".text")].map((text) => ({
      reason: text.dataset.reason,
      tokens: Number(text.dataset.tokens),
      words: text.querySelector(".sample").textContent.toLowerCase(),
    })),
  }));
  const more = document.getElementById("more");
  const found = document.getElementById("found");
  const PAGE = 10; // items that are shown at once, and added by the button
  let limit = PAGE;

  function matches(item, wanted) {
    const fits = (text) =>
      (!wanted.reason || text.reason === wanted.reason) &&
      text.tokens >= wanted.least &&
      text.tokens <= wanted.most &&
      text.words.includes(wanted.words);
    return (!wanted.prompt || item.prompt === wanted.prompt) && item.texts.some(fits);
  }

  function show() {
    const field = (name) => form.elements[name].value;
    const wanted = {
      words: field("words").trim().toLowerCase(),
      prompt: field("prompt"),
      reason: field("reason"),
      least: field("least") === "" ? 0 : Number(field("least")),
      most: field("most") === "" ? Infinity : Number(field("most")),
    };
    const hits = items.filter((item) => matches(item, wanted));
    const shown = new Set(hits.slice(0, limit));
    for (const item of items) {
      item.element.hidden = !shown.has(item);
      if (shown.has(item)) prepare(item.element);
    }
    found.textContent = `${hits.length} of ${items.length} samples match, ${shown.size} are shown`;
    more.hidden = shown.size === hits.length;
  }

  // Colour the texts of an item when it is first shown, and fold the long ones.
  function prepare(element) {
    if (element.dataset.ready) return;
    element.dataset.ready = "yes";
    for (const text of element.querySelectorAll(".text")) {
      const sample = text.querySelector(".sample");
      colour(sample, text.dataset.key);
      sample.classList.add("folded");
      const button = text.querySelector(".expand");
      button.hidden = sample.scrollHeight <= sample.clientHeight + 4;
      if (button.hidden) sample.classList.remove("folded");
    }
  }

  function unfold(button) {
    const sample = document.getElementById(button.getAttribute("aria-controls"));
    const folded = sample.classList.toggle("folded");
    button.setAttribute("aria-expanded", String(!folded));
    button.textContent = folded ? "Show the whole text" : "Fold";
  }

  // ---- tokens: each has the numbers of both models --------------------------------------------

  const source = document.getElementById("tokens");
  const coloured = source ? JSON.parse(source.textContent) : { pieces: [], texts: {} };
  const readout = document.getElementById("readout");

  function colour(sample, key) {
    const numbers = coloured.texts[key];
    if (!numbers) return;
    const tokens = numbers.token.map((token, index) => {
      const element = document.createElement("span");
      const difference = numbers.difference[index];
      element.className = "token";
      element.textContent = coloured.pieces[token];
      if (index < numbers.prompt) element.classList.add("given");
      else if (difference !== null) {
        element.style.setProperty("--share", `${Math.min(60, Math.abs(difference) * 12)}%`);
        element.style.setProperty("--tint", `var(--${difference < 0 ? "less" : "more"})`);
        if (difference < -0.5) element.classList.add("less");
      }
      return element;
    });
    sample.replaceChildren(...tokens);
    walk(sample, tokens, (index) => said(numbers, index));
  }

  function said(numbers, index) {
    const piece = (token) => (token === null ? "none" : JSON.stringify(coloured.pieces[token]));
    const lines = [piece(numbers.token[index]) + (index < numbers.prompt ? ", given" : "")];
    if (numbers.good[index] === null) return lines[0];
    const fixed = (value) => (value === null ? "not measured" : value.toFixed(2));
    const difference = numbers.difference[index];
    lines.push(`log p GOOD ${fixed(numbers.good[index])}, rank ${numbers.rank[index]}`);
    lines.push(`log p BAD ${fixed(difference === null ? null : numbers.good[index] - difference)}`);
    lines.push(`difference ${difference > 0 ? "+" : ""}${fixed(difference)}`);
    lines.push(`plausible tokens ${numbers.plausible[index]}, entropy ${fixed(numbers.entropy[index])}`);
    lines.push(`with the same noise: vanilla ${piece(numbers.vanilla[index])},`
      + ` plausible-only ${piece(numbers.masked[index])}, CD ${piece(numbers.cd[index])}`);
    return lines.join("\n");
  }

  // One stop of the Tab key for a text; the arrow keys, Home and End move along its tokens.
  function walk(sample, tokens, numbersOf) {
    let here = 0;
    sample.tabIndex = 0;
    sample.setAttribute("role", "application");
    sample.setAttribute("aria-roledescription", "text, token by token");
    sample.setAttribute("aria-label", "Tokens: arrow keys read their numbers");
    sample.setAttribute("aria-describedby", "readout");
    const tell = (index) => {
      tokens[here].classList.remove("here");
      here = Math.max(0, Math.min(tokens.length - 1, index));
      tokens[here].classList.add("here");
      readout.textContent = numbersOf(here);
      place(tokens[here]);
    };
    const leave = () => {
      tokens[here].classList.remove("here");
      readout.hidden = true;
    };
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -1e9, End: 1e9 };
    sample.addEventListener("keydown", (event) => {
      if (event.key === "Escape") leave();
      if (!(event.key in steps)) return;
      event.preventDefault();
      const backwards = getComputedStyle(sample).direction === "rtl" && event.key.match(/Left|Right/);
      tell(here + (backwards ? -1 : 1) * steps[event.key]);
    });
    sample.addEventListener("focus", () => sample.matches(":focus-visible") && tell(here));
    sample.addEventListener("blur", leave);
    sample.addEventListener("pointerover", (event) => {
      const index = tokens.indexOf(event.target);
      if (index >= 0) tell(index);
    });
    sample.addEventListener("pointerleave", leave);
  }

  function place(token) {
    readout.hidden = false;
    const box = token.getBoundingClientRect();
    const room = document.documentElement.clientWidth - readout.offsetWidth - 8;
    readout.style.left = `${scrollX + Math.max(8, Math.min(box.left, room))}px`;
    readout.style.top = `${scrollY + box.bottom + 8}px`;
  }

  // ---- the controls ---------------------------------------------------------------------------

  const again = () => {
    limit = PAGE;
    show();
  };
  form.addEventListener("input", again);
  form.addEventListener("reset", () => setTimeout(again)); // after the fields are empty
  form.addEventListener("submit", (event) => event.preventDefault());
  browser.addEventListener("click", (event) => {
    if (event.target.matches(".expand")) unfold(event.target);
  });
  more.addEventListener("click", () => {
    limit += PAGE;
    show();
  });
  form.hidden = false;
  for (const legend of browser.querySelectorAll(".legend")) legend.hidden = false;
  show();
})();
