// The explorer looks numbers up and shows them; it computes none. Text is only ever set as text, never as HTML.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const controls = { dataset: at("dataset"), policy: at("policy"), threshold: at("threshold"), risk: at("risk"), band: at("band"), example: at("example") };
  const DIGITS = { auc: 3, log_loss: 3, mean_exit_layer: 1, token_layer_fraction: 3, latency_ms_mean: 0, disagreement: 3 };
  const EXTREME = 1e8; // thresholds beyond it stand for "everybody" and "nobody"

  const named = (text) => text.replaceAll("_", " ");
  const percent = (share) => Number((100 * share).toPrecision(3));
  const shown = (value, digits) => (value === null || value === undefined ? "–" : value.toFixed(digits));

  function make(tag, text, attributes = {}) {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  }

  function choices(select, entries, wanted) {
    select.replaceChildren(...entries.map(([value, text]) => make("option", text, { value })));
    select.value = entries.some(([value]) => String(value) === String(wanted)) ? wanted : entries[0]?.[0] ?? "";
  }

  const study = () => data.studies.find((one) => one.dataset === controls.dataset.value);
  const policy = () => study().policies.find((one) => one.name === controls.policy.value);
  const place = () => Number(controls.threshold.value);

  function told(block, where) {
    const value = block.thresholds[where];
    if (block.name === "static") return `everybody stops after layer ${study().layers[where]}`;
    if (value <= -EXTREME) return "lowest: everybody stops at the first exit";
    if (value >= EXTREME) return "highest: nobody stops before the last layer";
    return `${value.toPrecision(3)}${where === block.chosen ? " (chosen on validation)" : ""}`;
  }

  // The same setting at one place of the policy's thresholds, in the chosen band
  function measured(block, where) {
    const numbers = block.settings[controls.band.value];
    const found = Object.fromEntries(Object.entries(numbers).map(([name, values]) => [name, values[where]]));
    return { ...found, disagreement: controls.band.value === "any number" ? block.disagreement[where] : null };
  }

  function showNumbers() {
    const block = policy(), last = study().policies.find((one) => one.name === "static");
    const now = measured(block, place()), full = measured(last, last.thresholds.length - 1);
    for (const cell of document.querySelectorAll("[data-measure]")) cell.textContent = shown(now[cell.dataset.measure], DIGITS[cell.dataset.measure]);
    for (const cell of document.querySelectorAll("[data-full]")) cell.textContent = shown(full[cell.dataset.full], DIGITS[cell.dataset.full]);
    const band = study().bands[controls.band.value];
    const source = { measured: "Time: measured", "of a fixed exit of the same work": "Time: that of a fixed exit of the same work" }[now.latency_source] ?? "Time: not measured for this setting";
    at("latency-note").textContent = `${source}, on ${band.timed} timed requests. One prompt for each item takes ${band.plain_ms === null ? "a time that was not measured" : `${shown(band.plain_ms, 0)} ms`}.`;
    at("band-note").textContent = `${band.rows} test rows in ${band.requests} requests.`;
    at("dataset-note").textContent = `From ${study().source}.`;
    at("policy-note").textContent = `Stops when this is at least the threshold: ${block.description}.`;
    at("threshold-note").textContent = told(block, place());
    controls.threshold.setAttribute("aria-valuetext", told(block, place()));
  }

  function showRisk() {
    const block = policy(), bound = controls.risk.value;
    if (bound === "") at("risk-note").textContent = "No promise: the threshold is yours.";
    else if (block.promised[bound] === null) at("risk-note").textContent = "Not measured for these results.";
    else if (block.promised[bound] < 0) at("risk-note").textContent = "No threshold can be promised with so few people: everybody runs to full depth.";
    else at("risk-note").textContent = `On average over people, at most ${percent(bound)} % of a person’s answers change, with ${percent(1 - study().delta)} % certainty, as long as people stay alike.`;
  }

  function draw(tag, attributes, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    at("chart").append(element);
  }

  function showChart() {
    const block = policy(), last = study().policies.find((one) => one.name === "static"), band = controls.band.value;
    const points = (one) => one.settings[band].auc.map((auc, i) => [one.settings[band].mean_exit_layer[i], auc]).filter(([, auc]) => auc !== null);
    const fixed = points(last), mine = points(block), now = measured(block, place()), all = [...fixed, ...mine];
    const interval = study().bands[band].auc_ci95 ?? [], heights = [...all.map(([, auc]) => auc), ...interval];
    const low = Math.min(...heights), high = Math.max(...heights), depth = study().layers.at(-1);
    const x = (layer) => 50 + 410 * layer / depth, y = (auc) => 250 - 225 * (auc - low) / (high - low || 1);
    at("chart").replaceChildren(at("chart-title"));
    draw("path", { class: "axis", d: "M50 20V260H465", fill: "none" });
    for (const value of [low, (low + high) / 2, high]) draw("text", { x: 4, y: y(value) + 4 }, value.toFixed(3));
    for (const layer of study().layers) draw("text", { x: x(layer), y: 276, "text-anchor": "middle" }, layer);
    draw("text", { x: 255, y: 294, "text-anchor": "middle" }, "mean exit depth (layers)");
    draw("text", { x: 4, y: 12 }, "AUC");
    if (interval.length) draw("path", { class: "static", d: `M${x(depth)} ${y(interval[0])}V${y(interval[1])}` });
    draw("path", { class: "static", d: "M" + fixed.map(([layer, auc]) => `${x(layer)} ${y(auc)}`).join("L") });
    for (const [layer, auc] of fixed) draw("rect", { x: x(layer) - 4, y: y(auc) - 4, width: 8, height: 8 });
    for (const [layer, auc] of mine) draw("circle", { class: "policy", cx: x(layer), cy: y(auc), r: 4 });
    if (now.auc !== null) draw("path", { class: "now", d: `M${x(now.mean_exit_layer)} ${y(now.auc)}m0-10l10 10l-10 10l-10-10z` });
    at("chart-title").textContent = `AUC against mean exit depth; this setting: AUC ${shown(now.auc, 3)} at ${shown(now.mean_exit_layer, 1)} of ${depth} layers`;
  }

  function showExample() {
    const known = study().examples, which = Number(controls.example.value), example = known[which];
    at("walk").hidden = example === undefined;
    if (example === undefined) return;
    const stop = policy().exits[which][place()], layers = study().layers, says = (p) => (p > study().base_rate ? "yes" : "no");
    at("outcome").textContent = `Stops after layer ${layers[stop]} of ${layers.at(-1)} and says ${says(example.p_yes[stop])} (${example.p_yes[stop].toFixed(3)}; yes is above ${study().base_rate.toFixed(3)}, the click rate on validation); full depth says ${says(example.p_yes.at(-1))} (${example.p_yes.at(-1).toFixed(3)}). The person ${example.label ? "clicked" : "did not click"}.`;
    at("heads").replaceChildren(...example.p_yes.map((p, e) => {
      const row = make("tr", undefined, { class: e < stop ? "before" : e === stop ? "stop" : "after" });
      const bar = make("td", undefined, { class: "bars" });
      bar.append(make("span", undefined, { class: "bar" }));
      bar.firstChild.style.width = `${100 * p}%`;
      row.append(make("th", layers[e], { scope: "row" }), make("td", p.toFixed(3)), bar, make("td", says(p)), make("td", e < stop ? "goes on" : e === stop ? "stops here" : "never computed"));
      return row;
    }));
    at("prompt").textContent = example.prompt;
    at("evidence-title").hidden = example.evidence.length === 0;
    at("evidence").replaceChildren(...example.evidence.map(([name, value]) => {
      const row = make("tr");
      row.append(make("th", name, { scope: "row" }), make("td", value));
      return row;
    }));
    at("page").setAttribute("href", example.link);
  }

  function show() {
    showNumbers();
    showRisk();
    showChart();
    showExample();
  }

  function choosePolicy() {
    const block = policy();
    controls.threshold.max = block.thresholds.length - 1;
    controls.threshold.value = block.chosen ?? block.thresholds.length - 1;
    choices(controls.risk, [["", "none"], ...Object.keys(block.promised).map((bound) => [bound, `at most ${percent(bound)} % of answers change`])], "");
    show();
  }

  function chooseDataset() {
    choices(controls.policy, study().policies.map((one) => [one.name, named(one.name)]), study().best);
    choices(controls.band, Object.keys(study().bands).map((name) => [name, name]), "any number");
    choices(controls.example, study().examples.map((one, i) => [i, `${one.title} (${one.label ? "clicked" : "not clicked"})`]), 0);
    choosePolicy();
  }

  function chooseRisk() {
    const block = policy(), where = block.promised[controls.risk.value];
    if (where !== undefined && where !== null) controls.threshold.value = where < 0 ? block.thresholds.length - 1 : where;
    show();
  }

  function step(by) {
    const n = study().examples.length;
    if (n) controls.example.value = (Number(controls.example.value) + by + n) % n;
    showExample();
  }

  choices(controls.dataset, data.studies.map((one) => [one.dataset, one.dataset]), data.first);
  controls.dataset.addEventListener("change", chooseDataset);
  controls.policy.addEventListener("change", choosePolicy);
  controls.threshold.addEventListener("input", () => { controls.risk.value = ""; show(); });
  controls.risk.addEventListener("change", chooseRisk);
  controls.band.addEventListener("change", show);
  controls.example.addEventListener("change", showExample);
  at("previous").addEventListener("click", () => step(-1));
  at("next").addEventListener("click", () => step(1));
  at("reset").addEventListener("click", chooseDataset);
  chooseDataset();
})();
