// How numbers are written, and elements are made: text is always text, never markup.

function number(value, digits = 4) {
  const text = value.toFixed(digits);
  return text.startsWith("-") ? (Number(text) ? `−${text.slice(1)}` : text.slice(1)) : text;
}

function short(value) {
  return String(Math.round(value * 1e6) / 1e6);
}

function span(interval) {
  return interval ? `[${number(interval[0])}, ${number(interval[1])}]` : "";
}

function count(amount, one, several = `${one}s`) {
  return `${amount.toLocaleString("en-GB")} ${amount === 1 ? one : several}`;
}

/** element("a", {href: "…"}, "text", otherElement): attributes, and children as text or elements. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child != null && child !== ""));
  return made;
}

function link(address) {
  if (!/^https?:\/\//i.test(address)) return document.createTextNode(address);
  return element("a", { href: address, rel: "noopener noreferrer", target: "_blank" }, address);
}
