"use strict";
// A map of cells on a canvas: pan, zoom, hover, colours by label or by a value, search. Without this script the page
// shows the same map as a picture.
function unpack(text, Kind) {
  return new Kind(Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer);
}

function rgb(hex) {
  return [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
}

function startMap(figure) {
  const data = JSON.parse(figure.querySelector(".points").textContent);
  const Codes = data.wide ? Uint16Array : Uint8Array;
  const x = unpack(data.x, Uint16Array);
  const y = unpack(data.y, Uint16Array);
  const label = unpack(data.label, Codes);
  const best = unpack(data.best, Codes);
  const second = unpack(data.second, Codes);
  const values = data.values.map((value) => ({ name: value.name, cells: unpack(value.cells, Uint8Array) }));
  const find = (name) => figure.querySelector(name);
  const canvas = find("canvas");
  const tip = find(".tip");
  const context = canvas.getContext("2d");
  const groupColours = data.colours.map(rgb);
  const ramp = data.ramp.map(rgb);
  let scale = 1;
  let centre = [0.5, 0.5];
  let chosen = new Set();
  let scheduled = false;

  // Pixels from the middle of the canvas to its shorter side stand for half of the map.
  const unit = () => scale * (Math.min(canvas.width, canvas.height) - 24 * devicePixelRatio);
  const across = (index) => (x[index] / 65535 - centre[0]) * unit() + canvas.width / 2;
  const down = (index) => (centre[1] - y[index] / 65535) * unit() + canvas.height / 2;

  function rampColour(share) {
    const place = share * (ramp.length - 1);
    const low = Math.min(Math.floor(place), ramp.length - 2);
    return ramp[low].map((part, channel) => Math.round(part + (place - low) * (ramp[low + 1][channel] - part)));
  }

  // Colour of each group or of each of the 256 levels of a value, as a pixel of the canvas: alpha, blue, green, red.
  const pixel = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;

  function draw() {
    scheduled = false;
    const image = context.createImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    const by = find(".colour").value;
    const shades = by === "label" ? groupColours.map(pixel) : Array.from({ length: 256 }, (_, level) => pixel(rampColour(level / 255)));
    const codes = by === "label" ? label : values[by].cells;
    const faint = pixel(matchMedia("(prefers-color-scheme: dark)").matches ? [60, 64, 70] : [222, 222, 222]);
    const radius = Math.max(1, Math.min(5, Math.sqrt((60000 * scale) / x.length))) * Math.max(1, devicePixelRatio * 0.7);
    const disc = [];
    for (let b = -Math.ceil(radius); b <= radius; b++)
      for (let a = -Math.ceil(radius); a <= radius; a++) if (a * a + b * b <= radius * radius) disc.push([a, b]);
    // What was not chosen, and cells without a label, lie below the others.
    const isBelow = (index) => (chosen.size ? !chosen.has(label[index]) : label[index] === data.unknown);
    for (const below of [true, false]) {
      for (let index = 0; index < x.length; index++) {
        if (isBelow(index) !== below) continue;
        const shade = below && chosen.size ? faint : shades[codes[index]];
        const left = Math.round(across(index));
        const top = Math.round(down(index));
        for (const [a, b] of disc) {
          if (left + a >= 0 && left + a < canvas.width && top + b >= 0 && top + b < canvas.height)
            pixels[(top + b) * canvas.width + left + a] = shade;
        }
      }
    }
    context.putImageData(image, 0, 0);
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
    canvas.style.touchAction = scale > 1 ? "none" : "pan-y";
    redraw();
  }

  function move(toRight, downwards) {
    centre = [centre[0] - toRight / unit(), centre[1] + downwards / unit()];
    redraw();
  }

  function nearest(left, top) {
    let found = -1;
    let least = (12 * devicePixelRatio) ** 2;
    for (let index = 0; index < x.length; index++) {
      if (chosen.size && !chosen.has(label[index])) continue;
      const far = (across(index) - left) ** 2 + (down(index) - top) ** 2;
      if (far < least) [least, found] = [far, index];
    }
    return found;
  }

  function point(event) {
    const box = canvas.getBoundingClientRect();
    const [left, top] = [event.clientX - box.left, event.clientY - box.top];
    const index = nearest(left * devicePixelRatio, top * devicePixelRatio);
    tip.hidden = index < 0;
    if (index < 0) return;
    const lines = ["cell " + (data.rows ? data.rows[index] : index + 1) + " of the file", data.names[label[index]]];
    if (label[index] === data.unknown && best[index] !== data.unknown) lines.push("nearest: " + data.names[best[index]]);
    if (second[index] !== data.unknown) lines.push("second: " + data.names[second[index]]);
    for (const value of values) lines.push(value.name + ": " + Math.round(value.cells[index] / 2.55) + "%");
    tip.textContent = lines.join("\n");
    tip.style.left = Math.min(left + 14, box.width - tip.offsetWidth) + "px";
    tip.style.top = Math.max(0, top - tip.offsetHeight - 10) + "px";
  }

  function choose(codes) {
    chosen = new Set(codes);
    for (const button of find(".legend").querySelectorAll("button"))
      button.setAttribute("aria-pressed", chosen.has(+button.dataset.code));
    const number = label.reduce((sum, code) => sum + chosen.has(code), 0);
    find(".count").textContent = chosen.size ? number.toLocaleString("en") + " cells chosen" : "";
    redraw();
  }

  function showLegend() {
    const by = find(".colour").value;
    const items = [];
    if (by === "label") {
      for (const code of data.order) {
        const button = document.createElement("button");
        const dot = document.createElement("i");
        dot.style.background = data.colours[code];
        button.type = "button";
        button.dataset.code = code;
        button.setAttribute("aria-pressed", chosen.has(code));
        button.append(dot, data.names[code] + " (" + data.counts[code].toLocaleString("en") + ")");
        button.onclick = () => choose(chosen.has(code) ? [...chosen].filter((other) => other !== code) : [...chosen, code]);
        items.push(button);
      }
    } else {
      const bar = document.createElement("div");
      bar.className = "ramp";
      bar.style.background = "linear-gradient(to right, " + data.ramp.join(", ") + ")";
      items.push("0%", bar, "100%");
    }
    find(".legend").replaceChildren(
      ...items.map((item) => {
        const entry = document.createElement("li");
        entry.append(item);
        return entry;
      }),
    );
  }

  find(".screen").hidden = false;
  find(".paper").hidden = true;
  find(".colour").onchange = () => (showLegend(), redraw());
  find(".search").oninput = (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    choose(wanted ? data.order.filter((code) => data.names[code].toLowerCase().includes(wanted)) : []);
    if (wanted && !chosen.size) find(".count").textContent = "no such type";
  };
  find(".closer").onclick = () => zoom(1.6);
  find(".farther").onclick = () => zoom(1 / 1.6);
  find(".whole").onclick = () => zoom(0);
  canvas.onkeydown = (event) => {
    const step = 40 * devicePixelRatio;
    const actions = {
      "+": () => zoom(1.6), "=": () => zoom(1.6), "-": () => zoom(1 / 1.6), 0: () => zoom(0),
      ArrowLeft: () => move(step, 0), ArrowRight: () => move(-step, 0), ArrowUp: () => move(0, step), ArrowDown: () => move(0, -step),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  };
  // The wheel scrolls the page until the map was clicked.
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (document.activeElement !== canvas) return;
      event.preventDefault();
      const box = canvas.getBoundingClientRect();
      const offset = [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2].map((part) => part * devicePixelRatio);
      move(-offset[0], -offset[1]);
      zoom(Math.exp(-event.deltaY / 400));
      if (scale > 1) move(...offset);
    },
    { passive: false },
  );
  canvas.onpointerdown = (event) => canvas.setPointerCapture(event.pointerId);
  canvas.onpointermove = (event) => {
    if (event.buttons & 1) move(event.movementX * devicePixelRatio, event.movementY * devicePixelRatio);
    point(event);
  };
  canvas.onpointerleave = () => (tip.hidden = true);
  canvas.style.touchAction = "pan-y";
  matchMedia("(prefers-color-scheme: dark)").onchange = redraw;
  new ResizeObserver(fit).observe(find(".stage"));
  showLegend();
  fit();
}

document.querySelectorAll(".map").forEach(startMap);
