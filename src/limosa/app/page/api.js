// Ask the server; errors carry the words that the command line would have said.

const form = document.getElementById("ask-token");

export class Refused extends Error {}

function headers(more = {}) {
  const token = sessionStorage.getItem("limosa-token");
  return token ? { ...more, authorization: `Bearer ${token}` } : more;
}

async function askToken() {
  form.showModal();
  await new Promise((done) => form.addEventListener("close", done, { once: true }));
  sessionStorage.setItem("limosa-token", document.getElementById("token").value);
}

// query: {name: value}; values that are empty are left out, lists are joined by commas.
export function address(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const words = given.map(([name, value]) => `${name}=${encodeURIComponent(value).replaceAll("%2C", ",")}`);
  return words.length ? `${path}?${words.join("&")}` : path;
}

async function send(path, options) {
  for (;;) {
    let answer;
    try {
      answer = await fetch(path, { ...options, headers: headers(options.headers) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused("the server does not answer; is it still running?");
    }
    if (answer.ok) return answer;
    if (answer.status === 401) { await askToken(); continue; }
    const problem = await answer.json().catch(() => ({}));
    throw new Refused(problem.detail || `the server answered ${answer.status}`);
  }
}

export async function get(path) {
  return (await send(path, {})).json();
}

export async function remove(path) {
  return (await send(path, { method: "DELETE" })).json();
}

// Send a file as it is to a route; the answer as `accept` says.
export async function post(path, file, query, { signal, accept = "application/json" } = {}) {
  const sheet = /\.xlsx?$/i.test(file.name);
  const kind = sheet ? "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet" : "text/csv";
  const more = /\.gz$/i.test(file.name) ? { "content-encoding": "gzip" } : {};
  const answer = await send(address(path, query), {
    method: "POST", body: file, signal, headers: { "content-type": kind, accept, ...more },
  });
  return accept === "application/json" ? answer.json() : answer.text();
}
