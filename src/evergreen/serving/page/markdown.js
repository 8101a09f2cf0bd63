/** A small, safe part of Markdown, for model cards: no HTML, no images, links only to the web. */

import { element } from "./dom.js";

const INLINE = /`([^`]+)`|\*\*(.+?)\*\*|\*([^\s*][^*]*)\*|!\[[^\]]*\]\([^)]*\)|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/g;
const HEADING = /^(#{1,6})\s+(.*)/;
const ITEM = /^\s*(?:[-*+]|\d+[.)])\s+(.*)/;
const FENCE = /^```/;
const ROW = /^\s*\|/;

/** Return elements; the first level of heading becomes h4. */
export function render(markdown) {
  const lines = markdown.replace(/^---\n[^]*?\n---\n/, "").split("\n");
  const blocks = [];
  /** Take the lines while they match, or all up to the first that begins another block. */
  const take = (matches) => {
    const end = lines.findIndex((line) => !matches(line));
    return lines.splice(0, end < 0 ? lines.length : end);
  };
  while (lines.length) {
    const line = lines[0];
    if (!line.trim()) lines.shift();
    else if (HEADING.test(line)) blocks.push(heading(lines.shift()));
    else if (FENCE.test(line)) {
      lines.shift();
      blocks.push(element("pre", {}, take((code) => !FENCE.test(code)).join("\n")));
      lines.shift();
    } else if (ROW.test(line)) blocks.push(table(take((row) => ROW.test(row))));
    else if (ITEM.test(line)) blocks.push(list(take((item) => item.trim() && !HEADING.test(item))));
    else {
      const isText = (text) => text.trim() && ![HEADING, FENCE, ROW, ITEM].some((start) => start.test(text));
      blocks.push(element("p", {}, ...inline(take(isText).join(" "))));
    }
  }
  return blocks;
}

function heading(line) {
  const [, marks, text] = line.match(HEADING);
  return element(`h${Math.min(marks.length + 3, 6)}`, {}, ...inline(text));
}

function list(lines) {
  const items = [];
  for (const line of lines) {
    const start = line.match(ITEM);
    if (start) items.push(start[1]);
    else items.push(`${items.pop()} ${line.trim()}`);
  }
  const kind = /^\s*\d/.test(lines[0]) ? "ol" : "ul";
  return element(kind, {}, ...items.map((item) => element("li", {}, ...inline(item))));
}

function table(lines) {
  const cells = (line) => line.trim().slice(1).replace(/\|$/, "").split(/(?<!\\)\|/);
  const rows = lines.map((line) => cells(line).map((cell) => cell.replaceAll("\\|", "|")));
  const isRule = (row) => row.every((cell) => /^\s*:?-+:?\s*$/.test(cell));
  const make = (row, name) => element("tr", {}, ...row.map((cell) => element(name, {}, ...inline(cell.trim()))));
  const hasHead = rows.length > 1 && isRule(rows[1]);
  const head = hasHead ? [element("thead", {}, make(rows[0], "th"))] : [];
  const body = element("tbody", {}, ...rows.slice(hasHead ? 2 : 0).map((row) => make(row, "td")));
  // A wide table scrolls by itself; tabIndex lets the keyboard do it.
  const label = { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Table of the model card" };
  return element("div", label, element("table", {}, ...head, body));
}

function inline(text) {
  const parts = [];
  let last = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, code, bold, italic, label, href] = match;
    parts.push(text.slice(last, match.index));
    last = match.index + whole.length;
    if (code) parts.push(element("code", {}, code));
    else if (bold) parts.push(element("strong", {}, ...inline(bold)));
    else if (italic) parts.push(element("em", {}, ...inline(italic)));
    else if (href) parts.push(element("a", { href, target: "_blank", rel: "noopener noreferrer" }, label));
  }
  return [...parts, text.slice(last)];
}
