// Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
// Runs in every page before its own scripts. Gives the page a clock that only `vlmq.settle` moves, a random generator
// of its own until the task is seeded, and no way out; and offers `vlmq`, what the environment asks of a page.
(() => {
  "use strict";

  // Time stands still between two actions, whatever the model's speed. The same steps make the same moments.

  const EPOCH = Date.UTC(2026, 0, 1, 12);
  const RealDate = Date;
  const frame = window.requestAnimationFrame.bind(window);
  const realTimeout = window.setTimeout.bind(window);
  let now = EPOCH;
  let nextTimer = 1;
  const timers = new Map();

  function schedule(callback, delay, args, every) {
    timers.set(nextTimer, {callback, args, every, due: now + delay});
    return nextTimer++;
  }
  const cancel = (id) => { timers.delete(id); };
  window.setTimeout = (callback, delay, ...args) => schedule(callback, Math.max(1, delay || 0), args);
  window.setInterval = (callback, delay, ...args) => {
    const every = Math.max(4, delay || 0);
    return schedule(callback, every, args, every);
  };
  window.requestAnimationFrame = (callback) => schedule(() => callback(now - EPOCH), 16, []);
  window.clearTimeout = window.clearInterval = window.cancelAnimationFrame = cancel;
  performance.now = () => now - EPOCH;
  window.Date = new Proxy(RealDate, {
    construct: (target, args, newTarget) => Reflect.construct(target, args.length ? args : [now], newTarget),
    apply: () => new RealDate(now).toString(),
    get: (target, key) => key === "now" ? () => now : Reflect.get(target, key),
  });

  async function advance(milliseconds) {
    const end = now + milliseconds;
    for (;;) {
      let id = null;
      for (const [key, timer] of timers) {
        if (timer.due <= end && (id === null || timer.due < timers.get(id).due)) id = key;
      }
      if (id === null) break;
      const timer = timers.get(id);
      now = Math.max(now, timer.due);
      if (timer.every) timer.due = now + timer.every;
      else timers.delete(id);
      try {
        timer.callback.apply(window, timer.args);
      } catch (error) {
        console.error(error);
      }
      await null;  // promises that this timer kept
    }
    now = end;
  }

  // Chance: xorshift until the task calls Math.seedrandom.

  let state = 2463534242;
  Math.random = () => {
    state ^= state << 13; state ^= state >>> 17; state ^= state << 5;
    return (state >>> 0) / 4294967296;
  };

  // No way out: no native dialogs, no navigation by forms and links. The page's own handlers run before these.

  window.alert = () => {};
  window.confirm = () => true;
  window.prompt = () => null;
  window.open = () => null;
  window.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("click", (event) => {
    const link = event.target instanceof Element && event.target.closest("a[href]");
    if (link && !(link.getAttribute("href") || "").startsWith("#")) event.preventDefault();
  });

  // Nothing moves by itself, and the score beside the task is not the agent's to see.

  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`
    *, *::before, *::after {
      transition: none !important; animation: none !important; caret-color: transparent !important;
      scroll-behavior: auto !important;
    }
    #reward-display, #click-canvas { display: none !important; }
  `);
  document.adoptedStyleSheets = [sheet];

  // Elements

  const refs = new WeakMap();
  const elements = new Map();
  const IGNORED = new Set(["query", "reward-display", "sync-task-cover", "click-canvas"]);
  const SKIPPED = new Set(["SCRIPT", "STYLE", "LINK", "META", "HEAD", "TEMPLATE", "NOSCRIPT", "OPTION", "OPTGROUP", "BR"]);
  const SHAPES = new Set(["circle", "ellipse", "rect", "polygon", "polyline", "path", "line", "text", "image"]);
  const GROUPS = new Set(["table", "tr", "ul", "ol", "form", "fieldset", "nav", "section"]);
  const INPUT_ROLES = {
    button: "button", submit: "button", reset: "button", image: "button", checkbox: "checkbox", radio: "radio",
    range: "slider", number: "spinbutton", date: "date", time: "time", month: "month", week: "week", color: "color",
    "datetime-local": "datetime",
  };
  const TAG_ROLES = {
    a: "link", button: "button", textarea: "textbox", td: "cell", th: "cell", li: "listitem", tr: "row", ul: "list",
    ol: "list", img: "image", label: "label", h1: "heading", h2: "heading", h3: "heading", h4: "heading",
  };
  const CONTROLS = new Set([
    "link", "button", "checkbox", "radio", "slider", "spinbutton", "textbox", "combobox", "listbox", "tab", "menuitem",
    "option", "switch", "label",
  ]);
  // These tell what they are by all the text in them.
  const WHOLE = new Set(["link", "button", "tab", "menuitem", "option", "label"]);

  const squeeze = (text) => text.replace(/\s+/g, " ").trim();

  function refOf(element) {
    if (!refs.has(element)) {
      const ref = String(elements.size + 1);
      refs.set(element, ref);
      elements.set(ref, element);
    }
    return refs.get(element);
  }

  function roleOf(element, tag) {
    const given = element.getAttribute("role");
    if (given) return given;
    if (tag === "input") return INPUT_ROLES[element.type] || "textbox";
    if (tag === "select") return element.multiple || element.size > 1 ? "listbox" : "combobox";
    if (element.isContentEditable && !element.parentElement?.isContentEditable) return "textbox";
    if (classesOf(element).includes("ui-slider-handle")) return "slider";
    if (TAG_ROLES[tag]) return TAG_ROLES[tag];
    if (element instanceof SVGElement || tag === "canvas") return tag;
    return ownText(element) ? "text" : "box";
  }

  const ownText = (element) =>
    squeeze([...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE).map((node) => node.data).join(" "));

  function nameOf(element, tag, role) {
    const given = element.getAttribute("aria-label");
    if (given) return squeeze(given);
    if (tag === "input" && role === "button") return element.value;
    if (["input", "select", "textarea"].includes(tag)) {
      const label = element.labels?.[0];
      return squeeze(label?.textContent || element.placeholder || element.title || "");
    }
    return (WHOLE.has(role) ? squeeze(element.textContent) : ownText(element)) || element.title || element.alt || "";
  }

  const clear = (color) => color === "none" || /^rgba.*, 0\)$/.test(color);

  function colorOf(element, style) {
    if (element instanceof SVGElement) return clear(style.fill) ? style.stroke : style.fill;
    return clear(style.backgroundColor) ? "" : style.backgroundColor;
  }

  const POINTERS = new Set(["pointer", "move", "grab", "crosshair"]);

  function isControl(element, tag, role, style, parentStyle) {
    return CONTROLS.has(role) || SHAPES.has(tag) || tag === "canvas" || element.onclick !== null || element.tabIndex >= 0
      || (POINTERS.has(style.cursor) && parentStyle.cursor !== style.cursor)
      || /\bui-(draggable|sortable-handle)\b/.test(classesOf(element));
  }

  // Something without text that can be seen: a coloured square, an icon.
  const isBox = (element, style) =>
    element.childElementCount === 0 && !(element instanceof SVGElement)
      && (!clear(style.backgroundColor) || style.backgroundImage !== "none" || style.content.startsWith("url(")
        || element.tagName === "IMG" || parseFloat(style.borderTopWidth) > 0);

  const classesOf = (element) => element.getAttribute("class") || "";

  function clip(box, element) {
    for (let parent = element.parentElement; parent; parent = parent.parentElement) {
      if (parent instanceof SVGElement || getComputedStyle(parent).overflow === "visible") continue;
      if (parent === document.body || parent === document.documentElement) continue;
      const other = parent.getBoundingClientRect();
      box = {
        left: Math.max(box.left, other.left), top: Math.max(box.top, other.top),
        right: Math.min(box.right, other.right), bottom: Math.min(box.bottom, other.bottom),
      };
    }
    return box;
  }

  function inView(element, box) {
    const {left, right, top, bottom} = clip(box, element);
    const x = (box.left + box.right) / 2, y = (box.top + box.bottom) / 2;
    return left <= x && x <= right && top <= y && y <= bottom && x >= 0 && x <= innerWidth && y >= 0 && y <= innerHeight;
  }

  function describe(element, tag, role, style, parent, group) {
    const box = element.getBoundingClientRect();
    const checkable = role === "checkbox" || role === "radio";
    const value = role === "textbox" && element.isContentEditable ? element.innerText : element.value;
    return {
      ref: refOf(element), parent, group, tag, role, name: nameOf(element, tag, role), id: element.id,
      classes: classesOf(element),
      value: typeof value === "string" && !checkable && role !== "button" && tag !== "li" ? value : null,
      checked: tag === "input" && checkable ? element.checked : null,
      selected: element.getAttribute("aria-selected") === "true" || /\b(selected|clicked)\b/.test(classesOf(element)),
      disabled: Boolean(element.disabled), readonly: Boolean(element.readOnly),
      focused: document.activeElement === element,
      type: tag === "input" ? element.type : "",
      options: tag === "select" ? [...element.options].map((option) => [squeeze(option.text), option.selected]) : [],
      color: colorOf(element, style), in_view: inView(element, box),
      x: (box.left + box.right) / 2, y: (box.top + box.bottom) / 2, width: box.width, height: box.height,
    };
  }

  function collect(element, parent, parentStyle, told, found) {
    if (SKIPPED.has(element.tagName) || IGNORED.has(element.id)) return;
    const style = getComputedStyle(element);
    if (style.display === "none") return;
    const tag = element.tagName.toLowerCase();
    const role = roleOf(element, tag);
    const box = element.getBoundingClientRect();
    // Smaller things are for screen readers, lines apart.
    const visible = style.visibility === "visible" && (box.width > 1 && box.height > 1 || tag === "line");
    if (visible && element !== document.body) {
      // What told all its text already needs telling of only the controls in it.
      const listed = told ? role !== "presentation" && (CONTROLS.has(role) || element.tabIndex >= 0)
        : isControl(element, tag, role, style, parentStyle) || ownText(element) !== "" || isBox(element, style);
      if (listed) {
        found.push(describe(element, tag, role, style, parent, false));
        parent = refOf(element);
        told = told || WHOLE.has(role);
      } else if (GROUPS.has(tag) || element.hasAttribute("role")) {
        found.push(describe(element, tag, element.getAttribute("role") || TAG_ROLES[tag] || tag, style, parent, true));
        parent = refOf(element);
      }
    }
    if (tag !== "select") for (const child of element.children) collect(child, parent, style, told, found);
  }

  function page() {
    const found = [];
    collect(document.body, null, getComputedStyle(document.body), false, found);
    return found;
  }

  // Acting. A function that cannot do what it is asked returns {error}.

  function find(ref) {
    const element = elements.get(ref);
    return element && element.isConnected && element.checkVisibility({visibilityProperty: true}) ? element : null;
  }
  const missing = (ref) => ({error: `there is no element ${ref} on the page`});

  const hits = (element, x, y) => {
    const top = document.elementFromPoint(x, y);
    return top !== null && (element.contains(top) || top.closest("label")?.control === element);
  };

  // Where to point at the element: its middle, or else the first place of a grid over it that nothing covers.
  function point(ref) {
    const element = find(ref);
    if (!element) return missing(ref);
    element.scrollIntoView({block: "nearest", inline: "nearest"});
    return place(ref, element);
  }

  function place(ref, element) {
    for (const box of [element.getBoundingClientRect(), ...element.getClientRects()]) {
      for (const i of [4, 1, 7, 2, 6, 3, 5]) {
        for (const j of [4, 1, 7, 2, 6, 3, 5]) {
          const x = box.left + box.width * j / 8, y = box.top + box.height * i / 8;
          if (hits(element, x, y)) return {x, y};
        }
      }
    }
    return {error: `element ${ref} is covered by something else or out of reach`};
  }

  // From one element to another; the second is looked at again where it is once the first is in view.
  function way(from, to) {
    const last = point(to);
    if (last.error) return last;
    const start = point(from);
    if (start.error) return start;
    const end = place(to, find(to));
    return end.error ? {error: `elements ${from} and ${to} are not in view together`} : {from: start, to: end};
  }

  function focus(ref) {
    const element = find(ref);
    if (!element) return missing(ref);
    element.scrollIntoView({block: "nearest", inline: "nearest"});
    element.focus();
    if (document.activeElement !== element) return {error: `element ${ref} cannot be focused`};
    return {};
  }

  const PICKERS = new Set(["date", "time", "month", "week", "datetime-local", "color", "range"]);
  const changed = (element) => ["input", "change"].forEach((type) => element.dispatchEvent(new Event(type, {bubbles: true})));

  // Selects what is in a text field, for the browser to type over it; a picker is set here: {done: true}.
  function prepareFill(ref, text) {
    const element = find(ref);
    if (!element) return missing(ref);
    const field = element instanceof HTMLTextAreaElement || element instanceof HTMLInputElement;
    if (!(field && !["checkbox", "radio", "button", "submit", "reset", "file", "image"].includes(element.type)) && !element.isContentEditable) {
      return {error: `element ${ref} is no text field`};
    }
    if (element.disabled || element.readOnly) return {error: `element ${ref} is read-only or disabled`};
    const problem = focus(ref);
    if (problem.error) return problem;
    if (field && PICKERS.has(element.type)) {
      const before = element.value;
      element.value = text;
      if (element.value !== text) {
        const took = element.value;
        element.value = before;
        const form = {date: "2026-01-31", time: "13:30", month: "2026-01", week: "2026-W05", "datetime-local": "2026-01-31T13:30",
          color: "#ff8800"}[element.type] || took;
        return {error: `${JSON.stringify(text.slice(0, 40))} is no ${element.type} for element ${ref}: write it as ${form}`};
      }
      changed(element);
      return {done: true};
    }
    if (field) element.select();
    else getSelection().selectAllChildren(element);
    return {done: false};
  }

  function select(ref, labels) {
    const element = find(ref);
    if (!element) return missing(ref);
    if (!(element instanceof HTMLSelectElement)) return {error: `element ${ref} is no list of options`};
    if (labels.length > 1 && !element.multiple) return {error: `element ${ref} takes one option only`};
    const options = [...element.options];
    const chosen = labels.map((label) => options.find((option) => squeeze(option.text) === squeeze(label) || option.value === label));
    const unknown = labels[chosen.indexOf(undefined)];
    if (unknown !== undefined) {
      const known = options.slice(0, 20).map((option) => squeeze(option.text)).join(", ");
      return {error: `element ${ref} has no option ${JSON.stringify(unknown.slice(0, 40))}; it has ${known}`};
    }
    element.focus();
    for (const option of options) option.selected = chosen.includes(option);
    changed(element);
    return {};
  }

  // Scrolls what is under the mouse: the innermost part that can still move that way.
  function scroll(x, y, dx, dy) {
    for (let element = document.elementFromPoint(x, y); element; element = element.parentElement) {
      const {scrollLeft, scrollTop} = element;
      if (element !== document.documentElement && getComputedStyle(element).overflow === "visible" && !(element instanceof HTMLTextAreaElement)) continue;
      element.scrollBy(dx, dy);
      if (element.scrollLeft !== scrollLeft || element.scrollTop !== scrollTop) return {};
    }
    return {error: "nothing under the mouse scrolls that way"};
  }

  // Episodes

  let started = false;

  const images = [];  // kept, so that they stay loaded

  // Icons come from style sheets and would otherwise load when first shown, some time later.
  async function loadImages() {
    for (const {cssRules, href} of document.styleSheets) {
      const css = [...cssRules].map((rule) => rule.cssText).join("\n");
      for (const url of new Set([...css.matchAll(/url\("([^"]+)"\)/g)].map((match) => match[1]))) {
        const image = new Image();
        image.src = new URL(url, href || document.baseURI);
        images.push(image);
      }
    }
    await loaded(images);
  }

  // Files load in milliseconds; one that does not is not worth an episode.
  const loaded = (list) => Promise.all(list.filter((image) => !image.complete).map((image) => new Promise((resolve) => {
    image.addEventListener("load", resolve);
    image.addEventListener("error", resolve);
    realTimeout(resolve, 2000);
  })));

  // The page covers itself in its load event, behind which the driver need not wait.
  async function ready() {
    while (!window.core?.cover_div) await new Promise((resolve) => { realTimeout(resolve, 5); });
  }

  // `terminal` writes what was typed as HTML, scripts in it included.
  function typedIsText() {
    for (const name of ["generateTerminalLine", "generateTerminalOutput"]) {
      const write = window[name];
      if (write) window[name] = (typed) => write(typed.replace(/[&<>]/g, (character) => `&#${character.charCodeAt(0)};`));
    }
  }

  // What an earlier episode copied is no part of this one. Copying takes a user's gesture, which the caller gives.
  function emptyClipboard() {
    const empty = (event) => {
      event.clipboardData.setData("text/plain", "");
      event.preventDefault();
      event.stopImmediatePropagation();
    };
    window.addEventListener("copy", empty, true);
    document.execCommand("copy");
    window.removeEventListener("copy", empty, true);
  }

  async function start(seed) {
    await ready();
    typedIsText();
    await loadImages();
    core.EPISODE_MAX_TIME = 1e9;
    Math.seedrandom(seed);
    core.startEpisodeReal();
    core.startEpisodeReal = () => {};  // a click on the cover of the end, the second of a double click, say, starts nothing
    started = true;
  }

  function goal() {
    const utterance = core.getUtterance();
    return squeeze(typeof utterance === "string" ? utterance : utterance.utterance);
  }

  function report() {
    if (!started) return {left: true};
    if (WOB_DONE_GLOBAL) return {left: false, done: true, reward: Number(WOB_RAW_REWARD_GLOBAL) || 0};
    return {left: false, done: false, goal: goal(), elements: page()};
  }

  // Lets the browser deliver its events, the page's clock go on, and reports.
  async function settle(milliseconds) {
    await new Promise((resolve) => { frame(resolve); realTimeout(resolve, 200); });
    if (started) await advance(milliseconds);
    await loaded([...document.images]);
    return report();
  }

  Object.defineProperty(window, "vlmq", {value: Object.freeze({emptyClipboard, start, settle, point, way, focus, prepareFill, select, scroll})});
})();
