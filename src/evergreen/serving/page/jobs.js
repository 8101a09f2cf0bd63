/** A form that sends a file, follows the job that the server makes of it, and shows what came of it. */

import { Problem, getJson, request, upload } from "./api.js";

const STEPS = { queued: "Waiting for other jobs", running: "Working", succeeded: "Done", canceled: "Canceled" };

/** Let a section work; `show(job, result)` shows a job that succeeded. */
export function connectJobs(section, path, getLimit, show) {
  const [form, status, meter, result] = ["form", ".status", ".meter", ".result"].map((part) => section.querySelector(part));
  const [alert, cancel, input] = ["[role=alert]", ".cancel", "input"].map((part) => form.querySelector(part));
  const stored = `evergreen-job ${path}`;
  let stop = null;

  const report = (text, progress) => {
    if (status.textContent !== text) status.textContent = text; // a screen reader reads each change
    meter.hidden = progress === undefined;
    meter.querySelector("progress").value = progress ?? 0;
    meter.querySelector("span").textContent = `${Math.floor(100 * (progress ?? 0))} %`;
  };

  const run = async (start) => {
    if (stop) return;
    const controller = new AbortController();
    stop = () => controller.abort();
    alert.textContent = "";
    section.querySelectorAll(".result, .feedback").forEach((part) => part.replaceChildren());
    form.ariaBusy = "true";
    cancel.hidden = false;
    try {
      const job = await start(controller.signal);
      sessionStorage.setItem(stored, job.id); // so that a reload finds it again
      stop = () => request(`${path}/${job.id}`, { method: "DELETE" });
      await follow(job);
    } catch (error) {
      report(error.name === "AbortError" ? "Canceled" : "");
      if (error.name !== "AbortError") alert.textContent = error.message;
      if (error.status) sessionStorage.removeItem(stored);
    } finally {
      if (cancel === document.activeElement) form.querySelector("[type=submit]").focus();
      cancel.hidden = true;
      form.ariaBusy = "false";
      stop = null;
    }
  };

  const follow = async (job) => {
    while (job.status === "queued" || job.status === "running") {
      report(`${STEPS[job.status]}: ${job.file}`, job.progress);
      await new Promise((resolve) => setTimeout(resolve, 700));
      try {
        job = await getJson(`${path}/${job.id}`);
        alert.textContent = "";
      } catch (error) {
        if (error.status) throw error;
        alert.textContent = error.message; // the job goes on without us
      }
    }
    if (job.status === "failed") throw new Problem(job.detail ?? "The job failed.", 500);
    report(`${STEPS[job.status]}: ${job.file}`);
    if (job.status === "succeeded") await show(job, result);
    else sessionStorage.removeItem(stored);
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run((signal) => {
      const [file] = input.files;
      const limit = getLimit();
      // A server that refuses it breaks the connection, and its reason is lost.
      if (limit && file.size > limit) throw new Problem(`The file is larger than ${Math.floor(limit / 2 ** 20)} MB.`);
      return upload(path, file, signal, (part) => report(`Sending: ${file.name}`, part));
    });
  });
  cancel.addEventListener("click", () => stop?.()?.catch((error) => (alert.textContent = error.message)));
  acceptDrops(form.querySelector(".drop"), input);
  const id = sessionStorage.getItem(stored);
  if (id) run(() => getJson(`${path}/${id}`));
}

function acceptDrops(zone, input) {
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (event.dataTransfer.files.length) input.files = event.dataTransfer.files;
  });
}
