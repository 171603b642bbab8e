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
    const tokens = numbers.piece.map((piece, index) => {
      const element = document.createElement("span");
      const level = numbers.level[index];
      element.className = "token";
      element.textContent = coloured.pieces[piece];
      if (index < numbers.prompt) element.classList.add("given");
      else if (level) element.classList.add(`${level > 0 ? "good" : "bad"}-${Math.abs(level)}`);
      return element;
    });
    sample.replaceChildren(...tokens);
    walk(sample, tokens, (index) => said(numbers, index));
  }

  function said(numbers, index) {
    const text = JSON.stringify(coloured.pieces[numbers.piece[index]]);
    if (numbers.rank[index] === null) return `${text}, the first token`;
    const fixed = (value) => (value === null ? "not finite" : value.toFixed(2));
    const good = numbers.good[index];
    const difference = numbers.difference[index];
    const known = good !== null && difference !== null;
    return [
      text + (index < numbers.prompt ? ", of the prompt" : ""),
      `difference ${difference > 0 ? "+" : ""}${fixed(difference)}`,
      `log p GOOD ${fixed(good)}, rank ${numbers.rank[index]}; BAD ${fixed(known ? good - difference : null)}`,
      `plausible tokens ${numbers.plausible[index]}, entropy ${fixed(numbers.entropy[index])}`,
      "With the same noise:",
      ...[["vanilla", "vanilla"], ["plausible-only", "masked"], ["CD", "cd"]].map(
        ([name, column]) => `${name} draws ${coloured.pieces[numbers[column][index]]}`,
      ),
    ].join("\n");
  }

  // One stop of the Tab key for a text; the arrow keys, Home and End move along its tokens.
  function walk(sample, tokens, numbersOf) {
    let here = 0;
    sample.tabIndex = 0;
    sample.setAttribute("role", "group");
    sample.setAttribute("aria-label", "Text; arrow keys read the numbers of its tokens");
    const unfolded = () => {
      const button = sample.parentElement.querySelector(".expand");
      if (sample.classList.contains("folded")) unfold(button);
    };
    const tell = (index, byKey = false) => {
      tokens[here].classList.remove("here");
      here = Math.max(0, Math.min(tokens.length - 1, index));
      tokens[here].classList.add("here");
      readout.textContent = numbersOf(here);
      if (byKey) tokens[here].scrollIntoView({ block: "nearest" });
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
      unfolded(); // a token that is folded away could not be seen
      const backwards = getComputedStyle(sample).direction === "rtl" && event.key.match(/Left|Right/);
      tell(here + (backwards ? -1 : 1) * steps[event.key], true);
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
    const below = box.bottom + readout.offsetHeight + 16 < innerHeight;
    readout.style.top = `${scrollY + (below ? box.bottom + 8 : box.top - readout.offsetHeight - 8)}px`;
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
