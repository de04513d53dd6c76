"use strict";
// A map of cells on a canvas: pan, zoom, hover, colours by any column, search, a lasso that shows what is within it.
// Without this script the page shows the same map as a picture.
function unpack(text, Kind) {
  return new Kind(Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer);
}

function rgb(hex) {
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

// Levels of a number from the lowest to the highest, and the level of a cell without one, which is grey.
const HIGHEST = 254;
const NONE = 255;
const GREY = "#a6a6a6";

function newElement(name, text, properties) {
  return Object.assign(document.createElement(name), { textContent: text }, properties);
}

function startMap(figure) {
  const data = JSON.parse(figure.querySelector(".points").textContent);
  const x = unpack(data.x, Uint16Array);
  const y = unpack(data.y, Uint16Array);
  const groups = data.groups.map((group) => ({ ...group, codes: unpack(group.codes, group.wide ? Uint16Array : Uint8Array), pixels: group.colours.map(rgb).map(pixelOf) }));
  const values = data.values.map((value) => ({ ...value, cells: unpack(value.cells, Uint8Array) }));
  const wrong = data.wrong ? unpack(data.wrong, Uint8Array) : null;
  const ids = data.ids === null ? null : data.ids.split("\n");
  const label = groups[0].codes;
  const find = (name) => figure.querySelector(name);
  const canvas = find("canvas");
  const tip = find(".tip");
  const context = canvas.getContext("2d");
  const ramp = data.ramp.map(rgb);
  const rampPixels = Array.from({ length: NONE + 1 }, (_, level) => pixelOf(level === NONE ? rgb(GREY) : rampColour(level / HIGHEST)));
  const middle = groups.map(middles);
  const colouring = find(".colour");
  let scale = 1;
  let centre = [0.5, 0.5];
  let chosen = new Set(); // codes of the groups that are shown
  let within = null; // for each cell 1 within the selection; null for none
  let line = []; // of the lasso, in pixels of the canvas
  let found = -1; // a cell that was searched for, or stands in the middle
  let scheduled = false;
  let sequence = null; // of drawing; null after a change of what is shown
  const group = () => groups[colouring.value] || null;
  const shortName = (name) => (name.length > 28 ? name.slice(0, 27) + "…" : name);

  // A colour as a pixel of the canvas: alpha, blue, green, red.
  function pixelOf([red, green, blue]) {
    return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  }

  function rampColour(share) {
    const place = share * (ramp.length - 1);
    const low = Math.min(Math.floor(place), ramp.length - 2);
    return ramp[low].map((part, channel) => Math.round(part + (place - low) * (ramp[low + 1][channel] - part)));
  }

  // Of each group, the cell that lies nearest to the means of its places; -1 where the group is all over the map.
  function middles({ codes, names }) {
    const sums = names.map(() => [0, 0, 0, 0]);
    for (let index = 0; index < x.length; index++) {
      const sum = sums[codes[index]];
      sum[0] += x[index];
      sum[1] += y[index];
      sum[2] += 1;
    }
    const nearestOf = new Int32Array(names.length).fill(-1);
    const least = new Float64Array(names.length).fill(Infinity);
    const all = sums.reduce((total, sum) => total.map((part, place) => part + sum[place]), [0, 0, 0, 0]);
    let spread = 0;
    for (let index = 0; index < x.length; index++) {
      const sum = sums[codes[index]];
      const far = (x[index] - sum[0] / sum[2]) ** 2 + (y[index] - sum[1] / sum[2]) ** 2;
      sum[3] += far;
      spread += (x[index] - all[0] / all[2]) ** 2 + (y[index] - all[1] / all[2]) ** 2;
      if (far < least[codes[index]]) [least[codes[index]], nearestOf[codes[index]]] = [far, index];
    }
    sums.forEach((sum, code) => {
      if (sum[3] / sum[2] > 0.6 * (spread / all[2])) nearestOf[code] = -1;
    });
    return nearestOf;
  }

  // Pixels from the middle of the canvas to its shorter side stand for half of the map.
  const unit = () => scale * (Math.min(canvas.width, canvas.height) - 24 * devicePixelRatio);
  const across = (index) => (x[index] / 65535 - centre[0]) * unit() + canvas.width / 2;
  const down = (index) => (centre[1] - y[index] / 65535) * unit() + canvas.height / 2;
  const isShown = (index) => (within ? within[index] === 1 : !chosen.size || chosen.has(group().codes[index]));

  function draw() {
    scheduled = false;
    const { width, height } = canvas;
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const by = group();
    const [shades, codes] = by ? [by.pixels, by.codes] : [rampPixels, values[colouring.value - groups.length].cells];
    const faint = pixelOf(matchMedia("(prefers-color-scheme: dark)").matches ? [60, 64, 70] : [222, 222, 222]);
    const radius = Math.max(1, Math.min(4, Math.sqrt((60000 * scale) / x.length))) * Math.max(1, devicePixelRatio * 0.7);
    // Small points are squares of four pixels: a disc of that size looks like a cross.
    const disc = radius < 1.5 ? [[0, 0], [1, 0], [0, 1], [1, 1]] : [];
    for (let b = -Math.ceil(radius); b <= radius && radius >= 1.5; b++)
      for (let a = -Math.ceil(radius); a <= radius; a++) if (a * a + b * b <= radius * radius) disc.push([a, b]);
    const offsets = Int32Array.from(disc, ([a, b]) => b * width + a);
    const margin = Math.ceil(radius) + 1;
    const [ofX, ofY, size] = [width / 2 - centre[0] * unit(), height / 2 + centre[1] * unit(), unit() / 65535];
    const isFiltered = within !== null || chosen.size > 0;
    const { indices, below } = sequence || (sequence = inSequence(by));
    for (let turn = 0; turn < indices.length; turn++) {
      const index = indices[turn];
      const left = Math.round(x[index] * size + ofX);
      const top = Math.round(ofY - y[index] * size);
      if (left < margin || left >= width - margin || top < margin || top >= height - margin) continue;
      const shade = turn < below && isFiltered ? faint : shades[codes[index]];
      const place = top * width + left;
      for (let part = 0; part < offsets.length; part++) pixels[place + offsets[part]] = shade;
    }
    context.putImageData(image, 0, 0);
    const ink = getComputedStyle(document.body).color;
    if (wrong && find(".wrong").checked) ringWrong(ink, radius);
    if (by) writeNames(by, middle[colouring.value]);
    if (found >= 0) ring(found, radius + 6, ink, 2);
    if (line.length) drawLine(ink);
  }

  // Cells in the order in which they are drawn: what was not chosen, and cells without a label, lie below the others.
  function inSequence(by) {
    const indices = new Uint32Array(x.length);
    const isFiltered = within !== null || chosen.size > 0;
    let below = 0;
    let above = x.length;
    for (let index = 0; index < x.length; index++) {
      const isBelow = isFiltered ? !isShown(index) : by !== null && by.codes[index] === by.unknown;
      indices[isBelow ? below++ : --above] = index;
    }
    return { indices, below };
  }

  function ring(index, radius, ink, thickness) {
    context.strokeStyle = ink;
    context.lineWidth = thickness * devicePixelRatio;
    context.beginPath();
    context.arc(across(index), down(index), radius, 0, 7);
    context.stroke();
  }

  function ringWrong(ink, radius) {
    for (let index = 0; index < x.length; index++) if (wrong[index] && isShown(index)) ring(index, radius + 2.5, ink, 0.8);
  }

  function drawLine(ink) {
    context.strokeStyle = ink;
    context.lineWidth = 1.5 * devicePixelRatio;
    context.setLineDash([5 * devicePixelRatio, 4 * devicePixelRatio]);
    context.beginPath();
    line.forEach(([left, top]) => context.lineTo(left, top));
    context.closePath();
    context.stroke();
    context.setLineDash([]);
  }

  // Names in the middle of their groups, the largest group first; a name that would lie on another is not written.
  function writeNames(by, places) {
    const style = getComputedStyle(document.body);
    const size = 12 * devicePixelRatio;
    const boxes = [];
    context.font = "600 " + size + "px system-ui, sans-serif";
    context.textAlign = "center";
    context.lineWidth = 3.5 * devicePixelRatio;
    context.lineJoin = "round";
    for (const code of by.order) {
      if (places[code] < 0 || code === by.unknown || (chosen.size && !chosen.has(code))) continue;
      const [left, top] = [across(places[code]), down(places[code])];
      const half = context.measureText(shortName(by.names[code])).width / 2;
      const box = [left - half, top - size, left + half, top + size / 3];
      const isFree = boxes.every((other) => box[0] > other[2] || box[2] < other[0] || box[1] > other[3] || box[3] < other[1]);
      if (!isFree || box[0] < 0 || box[2] > canvas.width || box[1] < 0 || box[3] > canvas.height) continue;
      boxes.push(box);
      context.strokeStyle = style.backgroundColor;
      context.strokeText(shortName(by.names[code]), left, top);
      context.fillStyle = style.color;
      context.fillText(shortName(by.names[code]), left, top);
    }
  }

  function redraw() {
    if (!scheduled) requestAnimationFrame(draw);
    scheduled = true;
  }

  function fit() {
    const width = Math.round(canvas.clientWidth * devicePixelRatio);
    if (!width) return;
    canvas.style.height = Math.min(canvas.clientWidth, 560) + "px";
    canvas.width = width;
    canvas.height = Math.round(Math.min(canvas.clientWidth, 560) * devicePixelRatio);
    redraw();
  }

  function zoom(factor) {
    scale = Math.max(1, Math.min(200, scale * factor));
    if (scale === 1) centre = [0.5, 0.5];
    touch();
    redraw();
  }

  // A finger scrolls the page, unless there is something to move or to draw.
  function touch() {
    canvas.style.touchAction = scale > 1 || isLasso() ? "none" : "pan-y";
    canvas.style.cursor = isLasso() ? "crosshair" : "";
  }

  function move(toRight, downwards) {
    centre = [centre[0] - toRight / unit(), centre[1] + downwards / unit()];
    redraw();
  }

  function nearest(left, top, farthest) {
    const size = unit() / 65535;
    const [atX, atY] = [(left - canvas.width / 2) / size + 65535 * centre[0], 65535 * centre[1] - (top - canvas.height / 2) / size];
    let best = -1;
    let least = ((farthest * devicePixelRatio) / size) ** 2;
    for (let index = 0; index < x.length; index++) {
      const far = (x[index] - atX) * (x[index] - atX) + (y[index] - atY) * (y[index] - atY);
      if (far < least && isShown(index)) {
        least = far;
        best = index;
      }
    }
    return best;
  }

  function describe(index) {
    const row = "cell " + (data.rows ? data.rows[index] : index + 1) + " of the file";
    const lines = ids ? [data.idStart + ids[index] + data.idEnd, row] : [row];
    for (const by of groups) {
      const unknown = by.codes[index] === by.unknown;
      lines.push((by === groups[0] ? "" : by.name + ": ") + by.names[by.codes[index]]);
      if (by === groups[0] && data.best) {
        const [best, second] = [data.best[index], data.second[index]];
        if (unknown && best !== by.unknown) lines.push("nearest: " + by.names[best]);
        if (second !== by.unknown) lines.push("second: " + by.names[second]);
      }
    }
    if (wrong && wrong[index]) lines.push("the label is wrong");
    for (const value of values) lines.push(value.name + ": " + (value.cells[index] === NONE ? "–" : shown(value, value.cells[index] / HIGHEST)));
    return lines.join("\n");
  }

  // A share in percent, or a number between the ends of its column.
  function shown(value, share) {
    if (value.isShare) return Math.round(100 * share) + "%";
    return (value.low + share * (value.high - value.low)).toLocaleString("en", { maximumSignificantDigits: 3 });
  }

  function showTip(index, left, top) {
    tip.hidden = index < 0;
    if (index < 0) return;
    tip.textContent = describe(index);
    tip.style.left = Math.max(0, Math.min(left + 14, canvas.clientWidth - tip.offsetWidth)) + "px";
    tip.style.top = Math.max(0, top - tip.offsetHeight - 10) + "px";
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  // Go to a cell and say what is known of it.
  function goTo(index) {
    found = index;
    scale = Math.max(scale, 4);
    centre = [x[index] / 65535, y[index] / 65535];
    touch();
    redraw();
    showTip(index, canvas.clientWidth / 2, canvas.clientHeight / 2);
  }

  function choose(codes) {
    chosen = new Set(codes);
    within = null;
    for (const button of find(".legend").querySelectorAll("button"))
      button.setAttribute("aria-pressed", chosen.has(+button.dataset.code));
    showComposition();
    sequence = null;
    redraw();
  }

  function select(isWithin) {
    within = Uint8Array.from(x, (_, index) => +isWithin(index));
    if (!within.includes(1)) within = null;
    chosen = new Set();
    for (const button of find(".legend").querySelectorAll("button")) button.setAttribute("aria-pressed", false);
    showComposition();
    sequence = null;
    redraw();
  }

  function selectLine() {
    const corners = line;
    const size = unit() / 65535;
    const [ofX, ofY] = [canvas.width / 2 - centre[0] * unit(), canvas.height / 2 + centre[1] * unit()];
    line = [];
    if (corners.length < 3) return select(() => false);
    select((index) => {
      const [left, top] = [x[index] * size + ofX, ofY - y[index] * size];
      let inside = false;
      for (let i = 0, j = corners.length - 1; i < corners.length; j = i++) {
        const [ax, ay] = corners[i];
        const [bx, by] = corners[j];
        if (ay > top !== by > top && left < ((bx - ax) * (top - ay)) / (by - ay) + ax) inside = !inside;
      }
      return inside;
    });
  }

  // What the chosen cells are: groups of the column that colours the map (or labels), and means of the values.
  function showComposition() {
    const by = group() || groups[0];
    const counts = by.names.map(() => 0);
    const sums = values.map(() => 0);
    const known = values.map(() => 0);
    let number = 0;
    for (let index = 0; index < x.length; index++) {
      if (!(within ? within[index] : chosen.has(by.codes[index]))) continue;
      number += 1;
      counts[by.codes[index]] += 1;
      values.forEach((value, place) => {
        if (value.cells[index] === NONE) return;
        sums[place] += value.cells[index] / HIGHEST;
        known[place] += 1;
      });
    }
    find(".count").textContent = number ? number.toLocaleString("en") + " cells chosen" : "";
    find(".none").hidden = !number;
    const order = by.names.map((_, code) => code).filter((code) => counts[code]);
    order.sort((a, b) => counts[b] - counts[a]);
    const lines = order.slice(0, 12).map((code) => by.names[code] + ": " + counts[code].toLocaleString("en") + " (" + Math.round((100 * counts[code]) / number) + "%)");
    if (order.length > 12) lines.push(order.length - 12 + " more");
    values.forEach((value, place) => lines.push("mean " + value.name + ": " + (known[place] ? shown(value, sums[place] / known[place]) : "–")));
    find(".chosen").replaceChildren(...(number ? lines : []).map((text) => newElement("li", text)));
  }

  function showLegend() {
    const by = group();
    const items = [];
    if (by) {
      for (const code of by.order) {
        const button = newElement("button", "", { type: "button" });
        const dot = document.createElement("i");
        dot.style.background = by.colours[code];
        button.dataset.code = code;
        button.setAttribute("aria-pressed", chosen.has(code));
        button.append(dot, by.names[code] + " (" + by.counts[code].toLocaleString("en") + ")");
        button.onclick = () => choose(chosen.has(code) ? [...chosen].filter((other) => other !== code) : [...chosen, code]);
        items.push(button);
      }
    } else {
      const value = values[colouring.value - groups.length];
      const bar = newElement("div", "", { className: "ramp" });
      bar.style.background = "linear-gradient(to right, " + data.ramp.join(", ") + ")";
      items.push(shown(value, 0), bar, shown(value, 1));
    }
    const entries = items.map((item) => document.createElement("li"));
    entries.forEach((entry, place) => entry.append(items[place]));
    find(".legend").replaceChildren(...entries);
  }

  function search(text) {
    const wanted = text.trim().toLowerCase();
    found = -1;
    tip.hidden = true;
    const codes = wanted ? groups[0].order.filter((code) => groups[0].names[code].toLowerCase().includes(wanted)) : [];
    if (codes.length && colouring.value !== "0") {
      colouring.value = "0";
      showLegend();
    }
    if (group() || !wanted) choose(codes);
    if (!wanted || codes.length) return;
    const index = ids ? ids.findIndex((id) => (data.idStart + id + data.idEnd).toLowerCase() === wanted) : -1;
    const inside = index < 0 && ids && wanted.length > 3 ? ids.findIndex((id) => id.toLowerCase().includes(wanted)) : index;
    find(".count").textContent = inside < 0 ? "no such type" + (ids ? " or cell" : "") : "";
    if (inside >= 0) goTo(inside);
  }

  const isLasso = () => find(".lasso").getAttribute("aria-pressed") === "true";
  [...groups, ...values].forEach((column, place) => colouring.append(newElement("option", column.name, { value: place })));
  find(".screen").hidden = false;
  find(".paper").hidden = true;
  find(".mark").hidden = !wrong;
  find(".wrong").onchange = redraw;
  colouring.onchange = () => {
    chosen = new Set();
    sequence = null;
    showLegend();
    showComposition();
    redraw();
  };
  find(".search").oninput = (event) => search(event.target.value);
  find(".closer").onclick = () => zoom(1.6);
  find(".farther").onclick = () => zoom(1 / 1.6);
  find(".whole").onclick = () => {
    found = -1;
    tip.hidden = true;
    zoom(0);
  };
  find(".lasso").onclick = (event) => {
    event.currentTarget.setAttribute("aria-pressed", !isLasso());
    touch();
  };
  find(".view").onclick = () =>
    select((index) => across(index) >= 0 && across(index) < canvas.width && down(index) >= 0 && down(index) < canvas.height);
  find(".none").onclick = () => select(() => false);
  canvas.onkeydown = (event) => {
    const step = 40 * devicePixelRatio;
    const actions = {
      "+": () => zoom(1.6), "=": () => zoom(1.6), "-": () => zoom(1 / 1.6), 0: () => find(".whole").click(),
      ArrowLeft: () => move(step, 0), ArrowRight: () => move(-step, 0), ArrowUp: () => move(0, step), ArrowDown: () => move(0, -step),
      Enter: () => {
        found = nearest(canvas.width / 2, canvas.height / 2, 400);
        redraw();
        if (found >= 0) showTip(found, across(found) / devicePixelRatio, down(found) / devicePixelRatio);
        find(".count").textContent = found < 0 ? "" : describe(found).replaceAll("\n", ", ");
      },
      Escape: () => find(".none").click(),
    };
    if (!actions[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    actions[event.key]();
  };
  // The wheel scrolls the page until the map was clicked.
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (document.activeElement !== canvas) return;
      event.preventDefault();
      const [left, top] = place(event);
      const offset = [left - canvas.clientWidth / 2, top - canvas.clientHeight / 2].map((part) => part * devicePixelRatio);
      move(-offset[0], -offset[1]);
      zoom(Math.exp(-event.deltaY / 400));
      if (scale > 1) move(...offset);
    },
    { passive: false },
  );
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    if (isLasso()) line = [place(event).map((part) => part * devicePixelRatio)];
  };
  canvas.onpointermove = (event) => {
    const [left, top] = place(event);
    if (line.length) {
      line.push([left * devicePixelRatio, top * devicePixelRatio]);
      return redraw();
    }
    if (event.buttons & 1) move(event.movementX * devicePixelRatio, event.movementY * devicePixelRatio);
    showTip(nearest(left * devicePixelRatio, top * devicePixelRatio, 12), left, top);
  };
  canvas.onpointerup = () => line.length && selectLine();
  canvas.onpointercancel = () => (line = []);
  canvas.onpointerleave = () => (tip.hidden = true);
  matchMedia("(prefers-color-scheme: dark)").onchange = redraw;
  new ResizeObserver(fit).observe(find(".stage"));
  if (data.best) [data.best, data.second] = [data.best, data.second].map((codes) => unpack(codes, groups[0].wide ? Uint16Array : Uint8Array));
  touch();
  showLegend();
  showComposition();
  fit();
}

document.querySelectorAll(".map").forEach(startMap);
