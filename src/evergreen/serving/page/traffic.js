/** What `/metrics` says, in words for people. */

import { bars, element, keepLargest, percent, terms } from "./dom.js";

const SAMPLE = /^(\w+)(?:\{(.*)\})? (\S+)$/gm;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const LOOKS = 13; // at one in five seconds: a minute

let history = [];

/** Show the figures in a section; the rates are those since earlier calls. */
export function showTraffic(section, text) {
  const now = { time: performance.now(), samples: parse(text) };
  if (history.length && countRequests(now) < countRequests(history.at(-1))) history = []; // the server restarted
  history = [...history, now].slice(-LOOKS);
  const value = (name) => select(now, name)[0]?.value;
  section.querySelector("dl").replaceChildren(
    ...terms([
      ["Requests", describeRate()],
      ["Median latency", describeLatency()],
      ["Texts waiting", String(value("evergreen_queue_texts") ?? "unknown")],
      ["Workers", String(value("evergreen_workers") ?? "unknown")],
      ["Prediction log", describeLog(value("evergreen_log_available"), value("evergreen_log_spooled_rows"))],
    ]),
  );
  section.querySelector(".result").replaceChildren(...countLabels(now));
}

/** Samples of the Prometheus text format. */
export function parse(text) {
  return [...text.matchAll(SAMPLE)].map(([, name, labels = "", value]) => ({
    name,
    labels: Object.fromEntries([...labels.matchAll(LABEL)].map(([, key, raw]) => [key, raw.replace(/\\(.)/g, "$1")])),
    value: Number(value),
  }));
}

/** The median of a histogram, [[upper bound, cumulative count], …], linear within its bucket. */
export function estimateMedian(buckets) {
  const half = (buckets.at(-1)?.[1] ?? 0) / 2;
  let [lower, below] = [0, 0];
  for (const [upper, count] of buckets) {
    if (half && count >= half) return upper === Infinity ? lower : lower + ((upper - lower) * (half - below)) / (count - below);
    [lower, below] = [upper, count];
  }
  return null;
}

const select = (look, name, labels = {}) =>
  look.samples.filter(
    (sample) => sample.name === name && Object.entries(labels).every(([key, value]) => sample.labels[key] === value),
  );

/** All but this page's own looks. */
const countRequests = (look) =>
  select(look, "evergreen_requests_total")
    .filter(({ labels }) => labels.route !== "/metrics")
    .reduce((sum, { value }) => sum + value, 0);

function describeRate() {
  if (history.length < 2) return "counting";
  const [before, now] = history.slice(-2);
  const rate = (countRequests(now) - countRequests(before)) / ((now.time - before.time) / 1000);
  return `${rate.toFixed(1)} a second`;
}

function describeLatency() {
  const read = (look) =>
    select(look, "evergreen_request_seconds_bucket", { route: "/v1/classify" }).map(({ labels, value }) => [
      labels.le === "+Inf" ? Infinity : Number(labels.le),
      value,
    ]);
  const all = read(history.at(-1));
  const before = new Map(read(history[0]));
  const recent = estimateMedian(all.map(([upper, count]) => [upper, count - (before.get(upper) ?? 0)]));
  const median = recent ?? estimateMedian(all);
  if (median === null) return "no text classified yet";
  return `about ${(1000 * median).toFixed(median < 0.01 ? 1 : 0)} ms (${recent === null ? "since the start" : "last minute"})`;
}

function describeLog(available, spooled) {
  if (available === undefined) return "unknown";
  if (available) return "can be written";
  return element("strong", { className: "problem" }, `can't be written${spooled ? `, ${spooled} rows kept in files` : ""}`);
}

function countLabels(look) {
  return ["text", "video"].flatMap((kind) => {
    const counts = new Map();
    for (const { labels, value } of select(look, "evergreen_predictions_total", { kind })) {
      counts.set(labels.label, (counts.get(labels.label) ?? 0) + value);
    }
    const total = [...counts.values()].reduce((sum, count) => sum + count, 0);
    const describe = (fraction) => `${Math.round(fraction * total)} (${percent(fraction)})`;
    const rows = [...counts].sort().map(([label, count]) => [label, count / total, describe(count / total)]);
    return total ? [bars(`Predictions since the start: ${kind}`, keepLargest(rows, describe))] : [];
  });
}
