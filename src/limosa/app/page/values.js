// Times and numbers between the server's texts, the chart and the reader.

// A time of an answer as seconds of the wall clock, or a count as it is.
export function toX(value) {
  if (/^-?\d+$/.test(value)) return Number(value);
  const [, year, month, day, hour = 0, minute = 0, second = 0] =
    /^(\d+)-(\d+)-(\d+)(?:[ T](\d+):(\d+)(?::(\d+(?:\.\d+)?))?)?/.exec(value);
  return Date.UTC(year, month - 1, day, hour, minute) / 1000 + Number(second);
}

const pad = (n) => String(n).padStart(2, "0");

export function timeText(x, calendar) {
  if (!calendar) return String(x);
  const at = new Date(x * 1000);
  const day = `${at.getUTCFullYear()}-${pad(at.getUTCMonth() + 1)}-${pad(at.getUTCDate())}`;
  const clock = `${pad(at.getUTCHours())}:${pad(at.getUTCMinutes())}`;
  return clock === "00:00" && at.getUTCSeconds() === 0 ? day : `${day} ${clock}`;
}

export function numberText(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 1 ? 2 : 3;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

export const count = (n) => n.toLocaleString("en");

// An element with attributes, and children that are elements or texts.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

export const shade = (name, opacity) => `rgba(${colour(name)}, ${opacity})`;
