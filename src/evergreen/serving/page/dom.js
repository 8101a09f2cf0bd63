/** Elements made from data: what a server or a file says is only ever text. */

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export const button = (text, onclick) => element("button", { type: "button", className: "quiet", onclick }, text);

export const percent = (fraction) => `${(100 * fraction).toFixed(1)} %`;

/** The largest of rows, [name, value, figure], and a row that sums the others; all in their order where they are few. */
export function keepLargest(rows, describe, most = 12) {
  if (rows.length <= most) return rows;
  const sorted = [...rows].sort((one, other) => other[1] - one[1]);
  const rest = sorted.slice(most - 1).reduce((sum, row) => sum + row[1], 0);
  return [...sorted.slice(0, most - 1), [`${rows.length - most + 1} others`, rest, describe(rest)]];
}

/** A table whose rows, [name, fraction, figure], have a bar beside the figure. */
export function bars(caption, rows) {
  const lines = rows.map(([name, fraction, figure]) => {
    const bar = element("div", { className: "bar" });
    bar.style.width = `${100 * fraction}%`;
    const track = element("div", { className: "track", ariaHidden: "true" }, bar);
    const cell = element("td", {}, element("div", {}, track, element("span", { className: "figure" }, figure)));
    return element("tr", {}, element("th", { scope: "row" }, name), cell);
  });
  const head = element("caption", {}, caption);
  return element("table", { className: "bars" }, head, element("tbody", {}, ...lines));
}

/** The terms and descriptions of a list, from [term, text or element]. */
export const terms = (rows) =>
  rows.flatMap(([term, text]) => [element("dt", {}, term), element("dd", {}, text)]);
