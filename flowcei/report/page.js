"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = (id) => JSON.parse(byId(id).textContent);

  // Frames: a slider shows one at a time.
  document.querySelectorAll(".frames").forEach((box) => {
    const figures = [...box.querySelectorAll("figure")];
    const [slider, said] = [box.querySelector("input"), box.querySelector("output")];
    const show = () => {
      figures.forEach((figure, k) => (figure.hidden = k !== Number(slider.value)));
      said.textContent = figures[Number(slider.value)].textContent.trim();
    };
    slider.addEventListener("input", show);
    box.querySelector(".controls").hidden = false;
    show();
  });

  // Tables: a click on a heading sorts, a button copies as CSV.
  const value = (cell) => (cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value));
  const sort = (table, column, button) => {
    const falling = button.getAttribute("aria-sort") === "ascending";
    table.querySelectorAll("th button").forEach((other) => other.removeAttribute("aria-sort"));
    button.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const [x, y] = [value(a.cells[column]), value(b.cells[column])];
      const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return falling ? -order : order;
    });
    table.tBodies[0].append(...rows);
  };
  // A spreadsheet runs a cell that begins with one of these; an apostrophe hides it.
  const quoted = (text) => {
    const safe = /^[=+\-@\t]/.test(text) && Number.isNaN(Number(text)) ? "'" + text : text;
    return /[",\n]/.test(safe) ? '"' + safe.replaceAll('"', '""') + '"' : safe;
  };
  const csv = (table) =>
    [...table.rows].map((row) => [...row.cells].map((cell) => quoted(cell.textContent.trim())).join(",")).join("\n");
  document.querySelectorAll("table.sortable").forEach((table) => {
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = cell.textContent;
      button.addEventListener("click", () => sort(table, column, button));
      cell.replaceChildren(button);
    });
    const copy = document.createElement("button");
    copy.type = "button";
    copy.className = "copy";
    copy.textContent = "copy as CSV";
    copy.addEventListener("click", async () => {
      const area = document.createElement("textarea");
      area.value = csv(table);
      document.body.append(area);
      area.select();
      document.execCommand("copy"); // works in a file opened from a disk, where navigator.clipboard does not
      area.remove();
      copy.textContent = "copied";
    });
    table.parentElement.after(copy);
  });

  // Events by number.
  const { columns, rows } = data("events-table");
  const found = byId("looked-up");
  if (found) {
    byId("search-controls").hidden = false;
    columns.forEach((name) => {
      const cell = document.createElement("th");
      cell.textContent = name;
      found.tHead.rows[0].append(cell);
    });
    byId("number").addEventListener("input", (event) => {
      const wanted = event.target.value.trim();
      const hits = wanted ? rows.filter((row) => String(row[0]).startsWith(wanted)) : [];
      hits.sort((a, b) => a[0] - b[0]);
      found.hidden = !hits.length;
      byId("hits").textContent = wanted ? `${hits.length} of ${rows.length} events` : "";
      found.tBodies[0].replaceChildren(
        ...hits.slice(0, 10).map((row) => {
          const line = document.createElement("tr");
          columns.forEach((_, k) => {
            const cell = document.createElement("td");
            cell.textContent = row[k] ?? "";
            line.append(cell);
          });
          return line;
        }),
      );
    });
  }

  // The structure that turns; where the browser has no WebGL the pictures below say the same.
  const cards = data("cards");
  const stage = byId("stage");
  if (!stage || !cards.length || typeof $3Dmol === "undefined") return;
  stage.hidden = false;
  let viewer;
  try {
    viewer = $3Dmol.createViewer(stage, { backgroundColor: "white" });
  } catch (error) {
    viewer = null;
  }
  if (!viewer) {
    stage.hidden = true;
    return;
  }
  byId("viewer-controls").hidden = false;
  cards.forEach((card, k) => byId("card").append(new Option(card.title, String(k))));
  const draw = () => {
    const card = cards[Number(byId("card").value)];
    viewer.removeAllModels();
    viewer.addModel(card.mean, "xyz").setStyle({}, { sphere: { scale: 0.22 }, stick: { radius: 0.09 } });
    if (byId("show-samples").checked)
      card.samples.forEach((xyz) => viewer.addModel(xyz, "xyz").setStyle({}, { stick: { radius: 0.015, opacity: 0.5 } }));
    if (byId("show-modes").checked)
      card.modes.forEach((xyz, k) =>
        viewer.addModel(xyz, "xyz").setStyle({}, { stick: { radius: 0.05, color: ["#d55e00", "#009e73", "#cc79a7"][k % 3] } }),
      );
    viewer.zoomTo();
    viewer.zoom(1.4);
    viewer.render();
  };
  ["card", "show-samples", "show-modes"].forEach((id) => byId(id).addEventListener("change", draw));
  let turning = false;
  byId("spin").addEventListener("click", () => {
    turning = !turning;
    viewer.spin(turning ? "y" : false);
    byId("spin").textContent = turning ? "stop" : "turn";
  });
  draw();
})();
