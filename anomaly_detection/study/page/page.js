// The menus and the slider of a report. The page holds all values; nothing is fetched.
"use strict";

const byId = (id) => document.getElementById(id);

// A menu whose options name the elements of a group, of which one is shown.
function switchBetween(menu) {
  const show = () => document.querySelectorAll(`[data-of="${menu.id}"]`).forEach((each) => { each.hidden = each.dataset.name !== menu.value; });
  menu.addEventListener("change", show);
  show(); // a browser may remember what was chosen before the page was loaded again
}

function integers(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Array.from({ length: bytes.length / 2 }, (_, place) => view.getInt16(2 * place, true));
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text; // never markup: file names may hold anything
  return made;
}

function share(count, all) {
  return all ? `${(count / all).toFixed(3)} (${count} of ${all})` : "–";
}

// What one dataset's images are called when its threshold moves by a shift in thousandths of its spread.
function judge(part, test, shift) {
  const counts = { hits: 0, abnormal: 0, passes: 0, normal: 0, alarms: 0 };
  const added = [], removed = [];
  part.values.forEach((distance, place) => {
    const called = distance > shift, abnormal = test.labels[place] === "1";
    counts[abnormal ? "abnormal" : "normal"] += 1;
    if (abnormal && called) counts.hits += 1;
    if (!abnormal && !called) counts.passes += 1;
    if (called !== distance > 0) (called ? added : removed).push({ name: test.images[place], dataset: test.dataset, abnormal });
  });
  counts.alarms = part.highest.filter((distance) => distance > shift).length;
  return { ...counts, added, removed };
}

function cells(part, test, told, shift) {
  const patients = part.highest.length;
  return [
    test.dataset,
    (part.threshold + (shift / 1000) * part.spread).toPrecision(4),
    `${told.alarms} of ${patients} ${part.unit}`,
    patients ? `${((100 * (told.alarms + 1)) / (patients + 1)).toFixed(1)} %` : "–",
    share(told.hits, told.abnormal),
    share(told.passes, told.normal),
    `${told.added.length + told.removed.length}`,
  ];
}

function listNames(list, flips) {
  list.replaceChildren(...flips.map((flip) => element("li", `${flip.name} (${flip.dataset}, ${flip.abnormal ? "abnormal" : "normal"})`)));
}

function operatingPoint() {
  const data = JSON.parse(byId("operating-data").textContent);
  const menu = byId("network"), slider = byId("shift");
  const unpack = (part) => ({ ...part, values: integers(part.distances), highest: integers(part.normals) });
  let network;
  const update = () => {
    const shift = network.shifts[slider.value];
    const told = network.parts.map((part) => judge(part, data.tests[part.test], shift));
    const rows = network.parts.map((part, place) => {
      const row = document.createElement("tr");
      row.replaceChildren(...cells(part, data.tests[part.test], told[place], shift).map((text) => element("td", text)));
      return row;
    });
    byId("operating-rows").replaceChildren(...rows);
    const added = told.flatMap((each) => each.added), removed = told.flatMap((each) => each.removed);
    const words = shift === 0 ? "as set on validation normals" : `${Math.abs(shift / 1000).toFixed(3)} spreads ${shift > 0 ? "higher" : "lower"} than set`;
    byId("shift-words").textContent = words;
    slider.setAttribute("aria-valuetext", `thresholds ${words}`);
    byId("added-count").textContent = added.length;
    byId("removed-count").textContent = removed.length;
    listNames(byId("added"), added);
    listNames(byId("removed"), removed);
  };
  const choose = () => {
    const chosen = data.networks[menu.value];
    network = { ...chosen, parts: chosen.parts.map(unpack) };
    slider.max = network.shifts.length - 1;
    slider.value = network.shifts.indexOf(0);
    update();
  };
  menu.addEventListener("change", choose);
  slider.addEventListener("input", update);
  byId("as-set").addEventListener("click", () => { slider.value = network.shifts.indexOf(0); update(); });
  choose();
}

// On paper nothing can be pressed; links lead nowhere there.
let unfolded = [];
window.addEventListener("beforeprint", () => {
  unfolded = [...document.querySelectorAll("details:not([open]):not(:has(a))")];
  unfolded.forEach((each) => { each.open = true; });
});
window.addEventListener("afterprint", () => unfolded.forEach((each) => { each.open = false; }));

document.querySelectorAll("select.switch").forEach(switchBetween);
if (byId("operating-data")) operatingPoint();
