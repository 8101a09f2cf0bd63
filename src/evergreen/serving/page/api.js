/** Requests to the server: with the key, asked for where one is needed; they fail with what the server says. */

const KEY = "evergreen-key";
let question = null;

export class Problem extends Error {
  constructor(detail, status = 0) {
    super(detail);
    this.status = status;
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

/** Return the answer, or throw a Problem. `send` may be another function than fetch. */
export async function request(path, options = {}, send = fetch) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = key ? { ...options.headers, Authorization: `Bearer ${key}` } : options.headers;
    const response = await send(path, { ...options, headers }).catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Problem("The server can't be reached. Check that it runs, then try again.");
    });
    if (response.ok) return response;
    if (response.status !== 401) throw await readProblem(response);
    // Another request may have got a new key meanwhile.
    if (sessionStorage.getItem(KEY) === key) {
      await askForKey(key ? "The server does not accept this key." : "This server needs an API key.");
    }
  }
}

export const getJson = async (path) => (await request(path)).json();

export const postJson = async (path, body) =>
  (
    await request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) })
  ).json();

/** Send a file as a form; unlike fetch, this tells how much of it is sent. */
export async function upload(path, file, signal, onProgress) {
  const body = new FormData();
  body.append("file", file);
  const send = (url, { headers = {} }) =>
    new Promise((resolve, reject) => {
      const sent = new XMLHttpRequest();
      sent.open("POST", url);
      for (const [name, value] of Object.entries(headers)) sent.setRequestHeader(name, value);
      sent.upload.onprogress = (event) => onProgress(event.loaded / event.total);
      sent.onload = () => resolve(new Response(sent.response, { status: sent.status }));
      sent.onerror = () => reject(new TypeError());
      sent.onabort = () => reject(new DOMException("", "AbortError"));
      signal.addEventListener("abort", () => sent.abort());
      sent.send(body);
    });
  return (await request(path, {}, send)).json();
}

/** Save a file of the server; a plain link could not send the key. */
export async function download(path) {
  const url = URL.createObjectURL(await (await request(path)).blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = path.split("/").pop();
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Ask for a key once, however many requests wait for it. */
export function askForKey(reason) {
  question ??= new Promise((resolve, reject) => {
    const dialog = document.querySelector("#key-dialog");
    const input = dialog.querySelector("input");
    document.querySelector("#key-button").hidden = false;
    document.querySelector("#key-reason").textContent = reason;
    input.value = "";
    dialog.returnValue = "";
    dialog.showModal();
    input.focus();
    const finish = () => {
      if (dialog.returnValue !== "save") return reject(new Problem("An API key is needed for this.", 401));
      sessionStorage.setItem(KEY, input.value);
      input.value = "";
      return resolve();
    };
    dialog.addEventListener("close", finish, { once: true });
  }).finally(() => {
    question = null;
  });
  return question;
}

async function readProblem(response) {
  const details = await response.json().catch(() => ({}));
  return new Problem(details.detail ?? details.title ?? `The server answered ${response.status}.`, response.status);
}
