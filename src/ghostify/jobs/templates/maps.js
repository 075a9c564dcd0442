"use strict";
(() => {
  const layers = JSON.parse(document.getElementById("layers").textContent);
  const colours = JSON.parse(document.getElementById("colours").textContent);
  const by = (id) => document.getElementById(id);
  const svgNode = (kind, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", kind);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const element = (kind, text = "", className = "") => {
    const node = document.createElement(kind);
    node.textContent = text;
    node.className = className;
    return node;
  };
  const percent = (share) => `${(100 * share).toFixed(share < 0.00995 ? 2 : share < 0.0995 ? 1 : 0)}\u00a0%`;

  // A short address for each sheet: hundreds of tiles with a megabyte of `data:` each would take seconds.
  const addresses = new Map();
  function address(sheet) {
    if (!addresses.has(sheet)) {
      const [kind, content] = sheet.uri.slice("data:".length).split(";base64,");
      const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
      addresses.set(sheet, URL.createObjectURL(new Blob([bytes], { type: kind })));
    }
    return addresses.get(sheet);
  }

  let layer = layers[0];
  let size = "3";
  let cells = []; // by index of the map
  let held = null; // index of a map that was tapped
  let current = 0; // the one that the keyboard is at

  // A cutting of a layer's sheet of maps.
  function tile(sheet, index) {
    const node = element("span", "", "tile");
    const column = index % sheet.columns, row = Math.floor(index / sheet.columns);
    node.style.backgroundImage = `url("${address(sheet)}")`;
    node.style.backgroundSize = `${100 * sheet.columns}% ${100 * sheet.rows}%`;
    const across = sheet.columns > 1 ? (100 * column) / (sheet.columns - 1) : 0;
    const down = sheet.rows > 1 ? (100 * row) / (sheet.rows - 1) : 0;
    node.style.backgroundPosition = `${across}% ${down}%`;
    return node;
  }

  // With a ghost beside, a cell is one of its maps; which of the original's that stands for:
  const own = (index) => (layer.against ? layer.against.original[index] : index);
  const count = () => (layer.against ? layer.against.maps : layer.maps);
  const isConstant = (index) => layer.constant.includes(own(index));
  const role = (index) => (!layer.intrinsic ? "" : layer.intrinsic.includes(index) ? "intrinsic" : "ghost");
  const error = (index) => (layer.against ? layer.against.error[index] : layer.partners[size].error[index]);

  function words(index) {
    const what = { intrinsic: ", made by convolution", ghost: ", a ghost", "": "" }[role(index)];
    let text = `Map ${index}${what}.`;
    if (layer.against) {
      const stands = own(index) === index ? "" : ` It stands for the original's map ${own(index)}.`;
      text += `${stands} It misses ${percent(error(index))} of the original's variance.`;
    }
    if (isConstant(index)) return `${text} ${layer.against ? "The original's" : "It"} is constant.`;
    const partner = layer.partners[size];
    const mine = layer.against ? `In the original, map ${partner.source[own(index)]}` : `Map ${partner.source[index]}`;
    return `${text} ${mine} is most like it: the best ${size}×${size} filter of that one leaves ${percent(partner.error[own(index)])}.`;
  }

  // The maps of a layer as elements, made once.
  const made = new Map();
  function cellsOf(which) {
    if (made.has(which)) return made.get(which);
    const ghosts = which.against;
    const all = Array.from({ length: ghosts ? ghosts.maps : which.maps }, (_, index) => {
      const cell = element("div", "", "map");
      const original = ghosts ? ghosts.original[index] : index;
      cell.setAttribute("role", "option");
      cell.dataset.index = index;
      cell.append(tile(which.sheet, original));
      if (ghosts) cell.append(tile(ghosts.sheet, index), tile(ghosts.difference, index));
      if (which.intrinsic) cell.classList.add(which.intrinsic.includes(index) ? "intrinsic" : "ghost");
      if (which.constant.includes(original)) cell.classList.add("constant");
      return cell;
    });
    made.set(which, all);
    return all;
  }

  function build() {
    const grid = by("maps");
    if (held !== null) hold(null);
    grid.replaceChildren();
    grid.style.setProperty("--aspect", layer.width / layer.height);
    grid.style.setProperty("--cell", layer.against ? "9rem" : count() > 600 ? "1.7rem" : count() > 128 ? "2.4rem" : "4rem");
    cells = cellsOf(layer);
    current = 0;
    cells.forEach((cell, index) => (cell.tabIndex = index === 0 ? 0 : -1));
    const roles = by("roles");
    if (roles) roles.hidden = !layer.intrinsic;
    const kind = layer.against ? "of the ghost" : "";
    by("maps-heading").textContent = `${layer.layer}: ${count()} maps ${kind} of ${layer.height}×${layer.width} pixels`;
    if (layer.against && layer.against.paired_by === "likeness")
      by("maps-heading").textContent += ", each beside the original's that it is most like";
    sort();
  }

  function sort() {
    const order = Array.from(cells.keys());
    const key = {
      place: (index) => index,
      similar: (index) => (isConstant(index) ? 2 : error(index)),
      alone: (index) => (isConstant(index) ? 2 : -error(index)),
      varied: (index) => -layer.variance[own(index)],
    }[by("order").value];
    order.sort((a, b) => key(a) - key(b) || a - b);
    by("maps").append(...order.map((index) => cells[index]));
    refresh();
  }

  // What depends on the size of the filter.
  function refresh() {
    cells.forEach((cell, index) => {
      cell.setAttribute("aria-label", words(index));
      cell.classList.remove("pair");
      cell.style.removeProperty("--pair");
      cell.querySelector(".badge")?.remove();
    });
    if (!layer.against)
      layer.pairs[size].forEach((pair, place) => {
        for (const index of [pair.source, pair.target]) {
          cells[index].classList.add("pair");
          cells[index].style.setProperty("--pair", colours[place]);
          cells[index].append(element("span", "ABCDEFGH"[place], "badge"));
        }
      });
    for (const node of document.querySelectorAll(".size-name")) node.textContent = `${size}×${size}`;
    by("size-name").textContent = `${size}×${size}`;
    by("size").setAttribute("aria-valuetext", `${size}×${size}`);
    pairsTable();
    curves();
    link();
    show(held ?? current);
  }

  function link() {
    by("maps").querySelector(".links")?.remove();
    if (layer.against) return;
    const lines = svgNode("svg", { class: "links", "aria-hidden": "true" });
    const middle = (cell) => [cell.offsetLeft + cell.offsetWidth / 2, cell.offsetTop + cell.offsetHeight / 2];
    const ends = layer.pairs[size].map((pair) => [...middle(cells[pair.source]), ...middle(cells[pair.target])]);
    ends.forEach(([x1, y1, x2, y2], place) => lines.append(svgNode("line", { x1, y1, x2, y2, stroke: colours[place] })));
    by("maps").append(lines);
  }

  function show(index) {
    for (const cell of by("maps").querySelectorAll(".shown, .partner")) cell.classList.remove("shown", "partner");
    cells[index].classList.add("shown");
    const detail = by("detail");
    const tiles = element("div", "", "tiles");
    const picture = (node, caption) => {
      const figure = element("figure");
      node.style.display = "block";
      node.style.setProperty("--aspect", layer.width / layer.height);
      figure.append(node, element("figcaption", caption));
      tiles.append(figure);
    };
    const source = layer.partners[size].source[own(index)];
    picture(tile(layer.sheet, own(index)), layer.against ? `original ${own(index)}` : `map ${index}`);
    if (layer.against) {
      picture(tile(layer.against.sheet, index), `ghost ${index}`);
      picture(tile(layer.against.difference, index), "difference");
    } else if (source >= 0) {
      picture(tile(layer.sheet, source), `its partner ${source}`);
      cells[source].classList.add("partner");
    }
    detail.replaceChildren(tiles, element("p", words(index)));
    if (source >= 0) {
      const table = element("table");
      table.append(element("caption", `The filter; ${layer.partners[size].bias[own(index)].toPrecision(2)} is added`));
      const weight = layer.partners[size].weight[own(index)];
      const most = Math.max(...weight.map(Math.abs)) || 1;
      for (let row = 0; row < size; row++) {
        const line = table.insertRow();
        for (let column = 0; column < size; column++) {
          const value = weight[row * size + column];
          const cell = line.insertCell();
          cell.textContent = value.toFixed(2);
          const strength = Math.round((60 * Math.abs(value)) / most);
          cell.style.background = `color-mix(in srgb, var(--${value < 0 ? "ghost" : "original"}) ${strength}%, transparent)`;
        }
      }
      detail.append(table);
    }
  }

  function pairsTable() {
    const table = by("pairs");
    const sizes = Object.keys(layer.partners);
    const head = element("tr");
    for (const text of ["pair", "from map", "to map", ...sizes.map((d) => `d\u00a0=\u00a0${d}`)]) {
      const cell = element("th", text);
      cell.scope = "col";
      head.append(cell);
    }
    const rows = layer.pairs[size].map((pair, place) => {
      const row = element("tr");
      const name = element("th", "ABCDEFGH"[place], "swatch");
      name.scope = "row";
      name.style.setProperty("--pair", colours[place]);
      const errors = sizes.map((d) => (100 * pair.filters[d].error).toFixed(2));
      row.append(name, ...[pair.source, pair.target, ...errors].map((value) => element("td", value)));
      return row;
    });
    table.replaceChildren(head, ...rows);
    const pixels = layer.height * layer.width;
    by("chance").textContent = sizes.map((d) => `${percent((d * d) / pixels)} (d = ${d})`).join(", ");
  }

  function curves() {
    const width = by("explained").clientWidth; // drawn in the page's own pixels: text is as large as elsewhere
    by("explained").setAttribute("viewBox", `0 0 ${width} 260`);
    const left = 45, right = width - 15, top = 10, bottom = 220;
    const x = (m) => left + ((right - left) * (m - 1)) / Math.max(1, layer.maps - 1);
    const y = (share) => bottom - (bottom - top) * share;
    const parts = [];
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      parts.push(svgNode("line", { x1: left, x2: right, y1: y(share), y2: y(share), stroke: "var(--line)" }));
      const text = svgNode("text", { x: left - 6, y: y(share) + 4, "text-anchor": "end", "font-size": 12 });
      text.textContent = `${100 * share} %`;
      parts.push(text);
    }
    for (const m of [1, Math.round(layer.maps / 4), Math.round(layer.maps / 2), layer.maps]) {
      const text = svgNode("text", { x: x(m), y: bottom + 18, "text-anchor": "middle", "font-size": 12 });
      text.textContent = m;
      parts.push(text);
    }
    const label = svgNode("text", { x: (left + right) / 2, y: bottom + 36, "text-anchor": "middle", "font-size": 12 });
    label.textContent = "intrinsic maps m";
    parts.push(label);
    const ways = { dropped: "original", [`${size}×${size} filters`]: "ghost", combinations: "third" };
    const half = [];
    for (const [way, colour] of Object.entries(ways)) {
      const { maps, share } = layer.explained[way];
      const points = maps.map((m, place) => `${x(m)},${y(share[place])}`).join(" ");
      parts.push(svgNode("polyline", { points, fill: "none", stroke: `var(--${colour})`, "stroke-width": 2 }));
      const place = maps.findIndex((m) => m >= layer.maps / 2);
      half.push(`${percent(share[place])} (${way})`);
    }
    by("explained").replaceChildren(...parts);
    by("explained-text").textContent = `Half of the maps explain ${half.join(", ")}.`;
  }

  function chooseLayer(place) {
    layer = layers[place];
    const sizes = Object.keys(layer.partners);
    by("size").max = sizes.length - 1;
    size = sizes[Math.min(by("size").value, sizes.length - 1)];
    build();
  }

  const cellOf = (event) => event.target.closest?.(".map");

  function hold(index) {
    if (held !== null) cells[held].removeAttribute("aria-selected");
    held = index;
    if (index !== null) cells[index].setAttribute("aria-selected", "true");
  }

  function moveTo(cell) {
    cells[current].tabIndex = -1;
    current = Number(cell.dataset.index);
    cell.tabIndex = 0;
    cell.focus();
  }

  const grid = by("maps");
  grid.addEventListener("pointerover", (event) => {
    const cell = cellOf(event);
    if (cell && held === null && event.pointerType === "mouse") show(Number(cell.dataset.index));
  });
  grid.addEventListener("click", (event) => {
    const cell = cellOf(event);
    if (!cell) return;
    const index = Number(cell.dataset.index);
    hold(held === index ? null : index);
    moveTo(cell);
    show(index);
  });
  grid.addEventListener("focusin", (event) => {
    const cell = cellOf(event);
    if (cell && held === null) show(Number(cell.dataset.index));
  });
  grid.addEventListener("keydown", (event) => {
    const order = Array.from(grid.querySelectorAll(".map"));
    const place = order.indexOf(cells[current]);
    const columns = order.filter((cell) => cell.offsetTop === order[0].offsetTop).length;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -place, End: order.length - 1 - place };
    if (event.key in steps) {
      const next = order[place + steps[event.key]];
      if (next) {
        hold(null);
        moveTo(next);
      }
    } else if (event.key === "Enter" || event.key === " ") {
      hold(held === current ? null : current);
      show(current);
    } else if (event.key === "Escape") {
      hold(null);
      show(current);
    } else return;
    event.preventDefault();
  });
  by("layer")?.addEventListener("change", (event) => chooseLayer(Number(event.target.value)));
  by("size").addEventListener("input", (event) => {
    size = Object.keys(layer.partners)[event.target.value];
    by("order").value === "place" ? refresh() : sort();
  });
  by("order").addEventListener("change", sort);
  new ResizeObserver(link).observe(grid);
  chooseLayer(0);
  new ResizeObserver(curves).observe(by("explained"));
  // The other layers while nobody waits.
  const idle = window.requestIdleCallback ?? ((work) => setTimeout(work, 200));
  for (const other of layers)
    idle(() => {
      cellsOf(other);
      for (const sheet of [other.sheet, other.against?.sheet, other.against?.difference])
        if (sheet) Object.assign(new Image(), { src: address(sheet) }).decode();
    });
})();
