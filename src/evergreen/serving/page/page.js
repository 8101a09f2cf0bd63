/** The page: connects its sections with the server. */

import { askForKey, download, getJson, hasKey, postJson, request } from "./api.js";
import { bars, button, element, keepLargest, percent, terms } from "./dom.js";
import { connectJobs } from "./jobs.js";
import { render } from "./markdown.js";
import { showTraffic } from "./traffic.js";

const section = (id) => document.querySelector(`#${id}`);
let models = null;

/** Do something, and show in a section why it failed. */
async function attempt(part, action) {
  const alert = part.querySelector("[role=alert]");
  alert.textContent = "";
  try {
    await action();
  } catch (error) {
    alert.textContent = error.message;
  }
}

function connectText() {
  const part = section("text");
  const [form, input, result] = ["form", "textarea", ".result"].map((name) => part.querySelector(name));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (form.ariaBusy === "true") return;
    form.ariaBusy = "true";
    attempt(part, async () => {
      const { predictions } = await postJson("/v1/classify", { text: input.value });
      const [{ id, label, probabilities }] = predictions;
      const rows = Object.entries(probabilities).map(([name, value]) => [name, value, percent(value)]);
      const table = bars("Calibrated probabilities", keepLargest(rows, percent));
      result.replaceChildren(element("p", { className: "verdict" }, label), table);
      askForFeedback(part, id, label, Object.keys(probabilities));
    }).finally(() => (form.ariaBusy = "false"));
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

function askForFeedback(part, id, predicted, labels) {
  const answer = element("p", { role: "status" });
  const question = element("p", { id: `${part.id}-question` }, "Was it right? Choose the label it should have.");
  const describe = (label) => (label === predicted ? `${label} (right)` : label);
  const buttons = labels.map((label) => button(describe(label), () => give(label)));
  const give = (label) =>
    attempt(part, async () => {
      await postJson("/v1/feedback", { prediction_id: id, label, source: "page" });
      buttons.forEach((one, index) => (one.ariaPressed = String(labels[index] === label)));
      answer.textContent = `Stored: ${label}. Thank you.`;
    });
  const group = element("div", { className: "buttons", role: "group" }, ...(labels.length > 12 ? choose() : buttons));
  /** Of many labels, a list that the keyboard searches. */
  function choose() {
    const list = element("select", {}, ...labels.map((label) => element("option", { value: label }, describe(label))));
    list.setAttribute("aria-labelledby", question.id);
    list.value = predicted;
    return [list, button("Give", () => give(list.value))];
  }
  group.setAttribute("aria-labelledby", question.id);
  const name = element("p", { className: "id" }, `Prediction ${id}`);
  part.querySelector(".feedback").replaceChildren(question, group, answer, name);
}

async function showVideo(job, result) {
  const { answer, score, threshold, ranges, prediction_id: id } = job.summary;
  const find = (name) => job.results.find((path) => path.endsWith(`/${name}`));
  const load = async (name) => URL.createObjectURL(await (await request(find(name))).blob());
  const [image, video] = await Promise.all([load("timeline.png"), load("overlay.mp4")]);
  const player = element("video", { src: video, controls: true, muted: true, ariaLabel: `Heat map of ${job.file}` });
  const plot = element("img", { src: image, alt: `Score over time, highest ${score.toFixed(2)}, threshold ${threshold.toFixed(2)}` });
  // Shown once their sizes are known, so that nothing moves under a pointer; a browser that saves data may not tell.
  const sized = new Promise((resolve) => {
    ["loadedmetadata", "error"].forEach((kind) => player.addEventListener(kind, resolve));
    setTimeout(resolve, 2000);
  });
  await Promise.all([plot.decode().catch(() => {}), sized]);
  const jumps = ranges.map((range) => {
    const text = `${range.start_seconds.toFixed(1)} to ${range.end_seconds.toFixed(1)} s, score ${range.score.toFixed(2)}`;
    return button(text, () => (player.currentTime = range.start_seconds));
  });
  const verdict = element("p", { className: answer ? "verdict anomaly" : "verdict", role: "status" });
  result.replaceChildren(
    verdict,
    element("p", {}, `Score ${score.toFixed(2)}, ${answer ? "at or above" : "below"} the threshold of ${threshold.toFixed(2)}.`),
    ...(jumps.length ? [element("p", {}, "Where (press to jump there):"), element("div", { className: "buttons" }, ...jumps)] : []),
    element("figure", {}, plot, element("figcaption", {}, "Score of each frame")),
    element("figure", {}, player, element("figcaption", {}, "Heat map: the brighter, the less the model expected it")),
    button("Download result.json", () => attempt(section("video"), () => download(find("result.json")))),
  );
  verdict.textContent = answer ? "1: an anomaly" : "0: no anomaly";
  askForFeedback(section("video"), id, String(answer), ["0", "1"]);
}

function showBatch(job, result) {
  const { rows, predicted, rejected } = job.summary;
  const links = job.results.map((path) =>
    button(`Download ${path.split("/").pop()}`, () => attempt(section("batch"), () => download(path))),
  );
  const text = `${predicted} of ${rows} rows classified${rejected ? `, ${rejected} rejected` : ""}.`;
  result.replaceChildren(element("p", { role: "status" }, text), element("div", { className: "buttons" }, ...links));
}

const loadModels = () =>
  attempt(section("models"), async () => {
    const result = section("models").querySelector(".result");
    result.replaceChildren();
    models = await getJson("/v1/model");
    result.replaceChildren(...[models.text, models.video].filter(Boolean).flatMap(describeModel));
    section("video").querySelector("[type=submit]").disabled = models.video === null;
    if (!models.video) section("video").querySelector(".status").textContent = "This server has no video model.";
  });

function listLabels(labels) {
  const all = labels.join(", ");
  if (labels.length <= 12) return all;
  return element("details", {}, element("summary", {}, `${labels.length} labels`), all);
}

function describeModel(model) {
  const time = (text) => element("time", { dateTime: text }, new Date(text).toLocaleString());
  const short = (text) => element("code", { title: text }, text.slice(0, 12));
  const rows = [
    ["Version", model.version],
    ["Run", short(model.run)],
    ["Data hash", short(model.data_hash)],
    ["Trained", time(model.trained_at)],
    ["Labels", listLabels(model.labels)],
  ];
  const card = model.card && element("details", {}, element("summary", {}, `Model card of ${model.name}`));
  card?.append(element("div", { className: "card" }, ...render(model.card)));
  return [element("h3", {}, model.name), element("dl", {}, ...terms(rows)), ...(card ? [card] : [])];
}

async function loadVerdict() {
  const result = section("monitoring").querySelector(".result");
  try {
    const { status, summary, what_to_do, since, until, reasons } = await getJson("/v1/monitoring/verdict.json");
    const items = reasons.map((reason) => element("li", {}, reason.message));
    result.replaceChildren(
      element("p", { className: `verdict ${status}` }, summary),
      element("p", {}, `${what_to_do} (${since.slice(0, 10)} until ${until.slice(0, 10)})`),
      element("ul", {}, ...items),
      element("p", {}, linkReport("report.html", "Open the report"), " · ", linkReport("drift.html", "Distributions")),
    );
  } catch (error) {
    result.textContent = error.status === 404 ? "No report yet: the monitor has not run." : error.message;
  }
}

function linkReport(name, text) {
  const path = `/v1/monitoring/${name}`;
  const link = element("a", { href: path, target: "_blank", rel: "noopener" }, text);
  link.addEventListener("click", (event) => {
    if (!hasKey()) return;
    event.preventDefault(); // a link can't send the key
    download(path).catch((error) => link.after(element("span", { className: "problem" }, ` ${error.message}`)));
  });
  return link;
}

function watchTraffic() {
  const part = section("traffic");
  const look = async () => {
    if (document.hidden || !part.querySelector("input").checked) return;
    await attempt(part, async () => showTraffic(part, await (await request("/metrics")).text()));
  };
  look();
  setInterval(look, 5000);
}

connectText();
connectJobs(section("video"), "/v1/videos", () => models?.limits.upload_bytes, showVideo);
connectJobs(section("batch"), "/v1/batches", () => models?.limits.upload_bytes, showBatch);
section("key-button").hidden = !hasKey();
section("key-button").addEventListener("click", () =>
  askForKey("The new key takes the place of the old one.").then(() => Promise.all([loadModels(), loadVerdict()]), () => {}),
);
loadModels();
loadVerdict();
watchTraffic();
