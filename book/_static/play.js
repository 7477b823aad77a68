/* Figures to play with: each `div.zu-play` holds the data of the figure that it names, as JSON.
   The still picture stays for print and for readers without scripts; this draws in its place. */
(() => {
  "use strict";

  /* ---- elements */

  const SVG = "http://www.w3.org/2000/svg";

  function set(element, attributes) {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  function html(tag, attributes = {}, ...children) {
    const element = set(document.createElement(tag), attributes);
    element.append(...children);
    return element;
  }

  function svg(parent, tag, attributes = {}, text = "") {
    const element = set(document.createElementNS(SVG, tag), attributes);
    element.textContent = text;
    parent.append(element);
    return element;
  }

  /* ---- controls: all of them native, with labels */

  let controls = 0;

  function labelled(text, input, ...more) {
    input.id = `zu-control-${++controls}`;
    return html("span", { class: "zu-control" }, html("label", { for: input.id }, text), ...more, input);
  }

  function select(label, names, chosen = 0) {
    const input = html("select");
    names.forEach((name, i) => input.append(new Option(name, i, i === chosen, i === chosen)));
    return { input, box: labelled(label, input), get value() { return +input.value; } };
  }

  function slider(label, most, start) {
    const input = html("input", { type: "range", min: 0, max: most, step: 1, value: start });
    const output = html("span", { class: "zu-value", "aria-hidden": "true" }); // said by the slider itself
    return {
      input, box: labelled(label, input, output), get value() { return +input.value; },
      say(text) { output.textContent = text; input.setAttribute("aria-valuetext", text); },
    };
  }

  /* A box to tick for each item of {name, colour, dash}; `on(i)` says whether it is ticked. */
  function ticks(legend, items) {
    const box = html("fieldset", {}, html("legend", {}, legend));
    const inputs = items.map((item) => {
      const input = html("input", { type: "checkbox" });
      input.checked = true;
      const mark = svg(html("span"), "svg", { width: 22, height: 10, "aria-hidden": "true" });
      svg(mark, "line", {
        x1: 0, x2: 22, y1: 5, y2: 5, stroke: item.colour || "none", "stroke-width": 3,
        "stroke-dasharray": item.dash || "",
      });
      box.append(html("label", {}, input, item.colour ? mark : "", ` ${item.name}`));
      return input;
    });
    return { box, on: (i) => inputs[i].checked };
  }

  /* ---- numbers and axes */

  const count = (value) => value.toLocaleString("en");

  function short(value) {
    const size = Math.abs(value);
    if (size >= 1000) return count(Math.round(value));
    if (size >= 100 || Number.isInteger(value)) return value.toFixed(0);
    return size >= 1 ? value.toFixed(1) : String(+value.toPrecision(2));
  }

  const interval = (e) => `${short(e.mean)} [${short(e.low)}, ${short(e.high)}]`;

  function extent(values) {
    const low = Math.min(...values);
    const high = Math.max(...values);
    const room = 0.06 * (high - low || 1);
    return [low - room, high + room];
  }

  function marks([low, high], log) {
    const found = [];
    if (log) {
      for (let k = Math.ceil(Math.log10(low)); k <= Math.log10(high); k++) found.push(10 ** k);
      return found;
    }
    const raw = (high - low) / 6;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= raw);
    for (let x = Math.ceil(low / step); x * step <= high; x++) found.push(+(x * step).toPrecision(12));
    return found;
  }

  function scale(from, to, log) {
    const f = log ? Math.log10 : (value) => value;
    const [a, b] = from.map(f);
    return (value) => to[0] + ((f(value) - a) / (b - a)) * (to[1] - to[0]);
  }

  /* An empty chart with its axes: {x, y} = {range, label, log, down}. Pixels come from X and Y. */
  function chart(parent, title, described, width, height, x, y) {
    const [left, right, top, bottom] = [52, width - 12, 28, height - 42];
    const root = svg(parent, "svg", {
      width, height, role: "img", "aria-label": title, "aria-describedby": described,
    });
    const X = scale(x.range, [left, right], x.log);
    const Y = scale(y.range, y.down ? [top, bottom] : [bottom, top], y.log);
    for (const value of marks(x.range, x.log)) {
      svg(root, "line", { class: "zu-grid", x1: X(value), x2: X(value), y1: top, y2: bottom });
      svg(root, "text", { x: X(value), y: bottom + 16, "text-anchor": "middle" }, short(value));
    }
    for (const value of marks(y.range, y.log)) {
      svg(root, "line", { class: "zu-grid", x1: left, x2: right, y1: Y(value), y2: Y(value) });
      svg(root, "text", { x: left - 6, y: Y(value) + 4, "text-anchor": "end" }, short(value));
    }
    svg(root, "text", { x: 2, y: 14 }, y.label);
    svg(root, "text", { x: right, y: height - 6, "text-anchor": "end" }, x.label);
    return { root, X, Y, left, right, top, bottom };
  }

  function path(at, xs, ys, attributes) {
    const d = xs.map((x, i) => `${i ? "L" : "M"}${at.X(x).toFixed(1)},${at.Y(ys[i]).toFixed(1)}`);
    return svg(at.root, "path", { d: d.join(""), fill: "none", "stroke-width": 2, ...attributes });
  }

  /* Names beside points, each in the first of four places where nothing else stands. */
  function beside(at, points) {
    const taken = points.map(({ x, y }) => [x - 5, y - 5, x + 5, y + 5]);
    const free = (a) => a[0] >= at.left && a[2] <= at.right + 10 && a[1] >= at.top - 24 && taken.every(
      (b) => a[2] < b[0] || a[0] > b[2] || a[3] < b[1] || a[1] > b[3]);
    for (const { x, y, name } of points) {
      const long = 6.8 * name.length;
      const places = [[x + 8, y - 7], [x - 8 - long, y - 7], [x + 8, y + 15], [x - 8 - long, y + 15],
        [x + 8, y - 21], [x + 8, y + 29], [x - 8 - long, y - 21], [x - 8 - long, y + 29],
        [x + 16, y + 4], [x + 8, y - 35], [x + 8, y + 43]];
      const boxes = places.map(([a, b]) => [a, b - 10, a + long, b + 3]);
      const best = Math.max(boxes.findIndex(free), 0);
      taken.push(boxes[best]);
      svg(at.root, "text", { x: places[best][0], y: places[best][1] }, name);
    }
  }

  /* ---- a figure: controls, pictures, a sentence and a table, drawn anew at each change */

  function widget(box, figure) {
    const id = `${figure.id}-said`;
    const parts = {
      id, controls: html("form", { class: "zu-controls" }), plots: html("div", { class: "zu-plots" }),
      said: html("p", { id, class: "zu-said", role: "status" }),
      table: html("table"),
    };
    parts.controls.addEventListener("submit", (event) => event.preventDefault());
    const wide = html("div", { class: "zu-wide", tabindex: 0, role: "region",
      "aria-label": "The numbers shown" }, parts.table);
    box.append(parts.controls, parts.plots, parts.said,
      html("details", {}, html("summary", {}, "The numbers shown, as a table"), wide));
    parts.rows = (head, rows) => {
      const line = (cells, tag) => html("tr", {}, ...cells.map((cell, i) => html(
        i && tag === "td" ? "td" : "th", { scope: tag === "th" ? "col" : "row" }, cell)));
      const body = rows.map((row) => line(row, "td"));
      body.flatMap((row) => [...row.querySelectorAll("td")]).forEach((cell) => cell.removeAttribute("scope"));
      parts.table.replaceChildren(html("thead", {}, line(head, "th")), html("tbody", {}, ...body));
    };
    return parts;
  }

  /* What a method forgets against what it keeps, with intervals over draws. */
  function trade(data, parts) {
    const keys = data.quantities.map(([key]) => key);
    const names = data.quantities.map(([, name]) => name);
    const facts = select("Facts", data.sets.map((one) => one.name));
    const across = select("Across", names, keys.indexOf(data.x));
    const up = select("Up", names, keys.indexOf(data.y));
    const all = new Map(data.sets.flatMap((one) => one.rows).map((row) => [row.name, row]));
    const methods = [...all.values()];
    const shown = ticks("Methods", methods);
    const more = ticks("Beside the means", [{ name: "each draw" }, { name: "95% intervals" }]);
    parts.controls.append(facts.box, across.box, up.box, shown.box, more.box);

    return () => {
      const [x, y] = [keys[across.value], keys[up.value]];
      const one = data.sets[facts.value];
      const there = one.rows.filter((row) => row.values[x] && row.values[y]);
      const rows = there.filter((row) => shown.on(methods.findIndex((m) => m.name === row.name)));
      const ends = (key) => extent(there.flatMap((row) => {
        const e = row.values[key];
        return [e.mean, ...(more.on(1) ? [e.low, e.high] : []),
          ...(more.on(0) ? Object.values(e.draws) : [])];
      }));
      const width = parts.plots.clientWidth;
      const at = chart(parts.plots, `${names[up.value]} against ${names[across.value]}`, parts.id, width,
        Math.min(440, 0.9 * width + 60), { range: ends(x), label: names[across.value] },
        { range: ends(y), label: names[up.value] });
      if (x.startsWith("forgotten") && y === "kept") {
        path(at, [0, 100], [100, 0], { stroke: "currentColor", "stroke-width": 1, "stroke-dasharray": "2 4" });
      }
      for (const { colour, values: { [x]: a, [y]: b } } of rows) {
        if (more.on(0)) {
          for (const seed of Object.keys(a.draws).filter((name) => name in b.draws)) {
            svg(at.root, "circle", { cx: at.X(a.draws[seed]), cy: at.Y(b.draws[seed]), r: 3, fill: colour, opacity: 0.4 });
          }
        }
        if (more.on(1)) {
          path(at, [a.low, a.high], [b.mean, b.mean], { stroke: colour });
          path(at, [a.mean, a.mean], [b.low, b.high], { stroke: colour });
        }
        svg(at.root, "circle", { cx: at.X(a.mean), cy: at.Y(b.mean), r: 6, fill: colour });
      }
      beside(at, rows.map((row) => ({
        name: row.name, x: at.X(row.values[x].mean), y: at.Y(row.values[y].mean) })));
      const say = (where, key, name) => {
        const [first, ...others] = [...rows].sort((a, b) => a.values[key].mean - b.values[key].mean);
        const end = (row) => `${short(row.values[key].mean)} (${row.name})`;
        return `${where}, ${name}: ${end(first)}${others.length ? ` to ${end(others.at(-1))}` : ""}.`;
      };
      parts.said.textContent = rows.length
        ? `${one.name}. ${say("Across", x, names[across.value])} ${say("Up", y, names[up.value])}`
        : `${one.name}. No method is ticked.`;
      parts.rows(["Method", "Draws", names[across.value], names[up.value]], rows.map((row) => [row.name,
        String(Object.keys(row.values[x].draws).length), interval(row.values[x]), interval(row.values[y])]));
    };
  }

  /* The rank of an answer after each layer. */
  function ranks(data, parts) {
    const start = data.facts.findIndex((fact) => fact.subject === data.subject);
    const fact = select("Fact about", data.facts.map((one) => one.subject), start);
    const asked = select("Asked", data.facts[0].prompts.map((one) => one.kind));
    const methods = data.methods.map((one, i) => ({ ...one, dash: ["3 3", "", "8 3", "8 3 2 3"][i % 4] }));
    const shown = ticks("The model", methods);
    const last = data.facts[0].prompts[0].rows[0].ranks.length - 1;
    const layer = slider("After layer", last, data.layer);
    parts.controls.append(fact.box, asked.box, layer.box, shown.box);

    return () => {
      const prompt = data.facts[fact.value].prompts[asked.value];
      const rows = prompt.rows.map((row, i) => ({ ...row, ...methods[i] })).filter((_, i) => shown.on(i));
      const width = parts.plots.clientWidth;
      const at = chart(parts.plots, `Rank of ${prompt.answer} by layer`, parts.id, width, 340,
        { range: [0, last], label: "after layer" },
        { range: [0.8, data.vocabulary], label: "rank of the answer’s first token (1: the likeliest)", log: true, down: true });
      const [from, to] = [Math.min(...data.edited) - 0.5, Math.max(...data.edited) + 0.5];
      svg(at.root, "rect", { class: "zu-shade", x: at.X(from), y: at.top, width: at.X(to) - at.X(from), height: at.bottom - at.top });
      svg(at.root, "text", { x: at.X((from + to) / 2), y: at.bottom - 6, "text-anchor": "middle" }, "edited");
      svg(at.root, "line", { class: "zu-cursor", x1: at.X(layer.value), x2: at.X(layer.value), y1: at.top, y2: at.bottom });
      for (const row of rows) {
        path(at, row.ranks.map((_, i) => i), row.ranks, { stroke: row.colour, "stroke-dasharray": row.dash });
        svg(at.root, "circle", { cx: at.X(layer.value), cy: at.Y(row.ranks[layer.value]), r: 4, fill: row.colour });
      }
      layer.say(`${layer.value}`);
      const each = rows.map((row) => `${row.name} ${count(row.ranks[layer.value])}`);
      parts.said.textContent = `“${prompt.prompt}” – ${prompt.answer}. Rank after layer ${layer.value} of ${last}: ${each.join(", ") || "no model is ticked"}.`;
      parts.rows(["The model", `Rank after layer ${layer.value}`, `Rank after layer ${last}`, "Likeliest next token"],
        rows.map((row) => [row.name, count(row.ranks[layer.value]), count(row.ranks[last]), row.says || "(a space)"]));
    };
  }

  /* What a threshold on the eigenvalues of C_0 keeps. */
  function cuts(data, parts) {
    const start = data.layers.findIndex((one) => one.layer === data.layer);
    const layer = select("Layer", data.layers.map((one) => `${one.layer}${one.edited ? ", edited" : ""}`), start);
    const cut = slider("Threshold", data.thresholds.length - 1, data.start);
    const half = html("button", { type: "button" }, "Half of the directions");
    const back = html("button", { type: "button" }, `Back to ${data.thresholds[data.start]}`);
    parts.controls.append(layer.box, cut.box, half, back);
    const go = (place) => {
      cut.input.value = place;
      cut.input.dispatchEvent(new Event("input", { bubbles: true }));
    };
    back.addEventListener("click", () => go(data.start));
    half.addEventListener("click", () => {
      const { directions, of } = data.layers[layer.value];
      const away = directions.map((q) => Math.abs(q - of / 2));
      go(away.indexOf(Math.min(...away)));
    });

    return () => {
      const one = data.layers[layer.value];
      const place = cut.value;
      const threshold = data.thresholds[place];
      const share = (100 * one.directions[place]) / one.of;
      const width = parts.plots.clientWidth;
      const each = width < 560 ? width : (width - 16) / 2;
      const across = { range: [0, 100], label: "directions, lowest first, %" };
      const spectrum = chart(parts.plots, `Spectrum at layer ${one.layer}`, parts.id, each, 280, across, {
        range: [Math.min(data.thresholds[0], ...one.eigenvalues), Math.max(...one.eigenvalues)],
        label: "eigenvalue", log: true });
      const energy = chart(parts.plots, `Energy in the directions kept at layer ${one.layer}`, parts.id, each, 280,
        { ...across, label: "directions kept, %" }, { range: [0, 100], label: "energy in them, %" });
      for (const at of [spectrum, energy]) {
        svg(at.root, "rect", { class: "zu-shade", x: at.left, y: at.top, width: at.X(share) - at.left, height: at.bottom - at.top });
      }
      path(spectrum, one.share, one.eigenvalues, { stroke: data.curves[0][2] });
      svg(spectrum.root, "line", { class: "zu-cursor", x1: spectrum.left, x2: spectrum.right,
        y1: spectrum.Y(threshold), y2: spectrum.Y(threshold) });
      data.curves.forEach(([key, name, stroke], i) => {
        const line = { stroke, "stroke-width": 2, "stroke-dasharray": ["", "3 3", "8 3"][i] };
        const y = energy.top + 12 + 16 * i;
        path(energy, one.share, one.curves[key], line);
        svg(energy.root, "circle", { cx: energy.X(share), cy: energy.Y(one.kept[key][place]), r: 4, fill: stroke });
        svg(energy.root, "line", { x1: energy.left + 8, x2: energy.left + 32, y1: y, y2: y, ...line });
        svg(energy.root, "text", { x: energy.left + 38, y: y + 4 }, name);
      });
      cut.say(`${threshold}`);
      const held = data.curves.map(([key, name]) => `${short(one.kept[key][place])}% of ${name}`);
      parts.said.textContent = `Layer ${one.layer}, threshold ${threshold}: ${count(one.directions[place])} of ${count(one.of)} directions stay (${short(share)}%). Of the energy they hold ${held.join(", ")}.`;
      parts.rows(["Layer", "Directions", "%", ...data.curves.map(([, name]) => `${name}, %`)],
        data.layers.map((row) => [String(row.layer), count(row.directions[place]), short((100 * row.directions[place]) / row.of),
          ...data.curves.map(([key]) => short(row.kept[key][place]))]));
    };
  }

  /* ---- begin */

  const KINDS = { trade, ranks, cuts };

  function begin(box) {
    const figure = document.getElementById(box.dataset.figure);
    const data = JSON.parse(box.querySelector("script").textContent);
    const parts = widget(box, figure);
    const draw = KINDS[data.kind](data, parts);
    const redraw = () => { parts.plots.replaceChildren(); draw(); };
    figure.querySelector("figcaption").before(box);
    box.hidden = false;
    redraw();
    figure.classList.add("zu-live"); // from now on the still picture is for print alone
    parts.controls.addEventListener("input", redraw);
    let width = parts.plots.clientWidth;
    new ResizeObserver(() => {
      if (parts.plots.clientWidth === width) return;
      width = parts.plots.clientWidth;
      redraw();
    }).observe(parts.plots);
  }

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("div.zu-play").forEach((box) => {
    try {
      begin(box);
    } catch (error) {
      box.hidden = true; // the still picture is there
      console.error(error);
    }
  }));
})();
