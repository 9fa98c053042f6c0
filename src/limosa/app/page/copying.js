// The request that the page sent, as a command, as Python and as curl.

const FLAGS = { horizon: "-h", model: "-m" };

const shell = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${String(text).replaceAll("'", `'\\''`)}'`);

// Options as the command line takes them; those without a value are left out.
function given(query) {
  return Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
}

export function asCommand(verb, file, query) {
  const words = given(query).map(([name, value]) => {
    const flag = FLAGS[name] ?? `--${name.replaceAll("_", "-")}`;
    return value === true ? flag : `${flag} ${shell(String(value))}`;
  });
  return ["limosa", verb, shell(file), ...words].join(" ");
}

export function asPython(verb, file, query) {
  const lists = { level: (value) => `[${String(value).split(",").join(", ")}]` };
  const words = given(query).map(([name, value]) => {
    const several = verb === "backtest" && name === "model";
    const text = several
      ? `[${String(value).split(",").map((one) => JSON.stringify(one)).join(", ")}]`
      : lists[name]?.(value) ?? (value === true ? "True" : typeof value === "number" ? value : JSON.stringify(value));
    return `${name}=${text}`;
  });
  return `import limosa\n\ntable = limosa.${verb}(${[JSON.stringify(file), ...words].join(", ")})\n`;
}

export function asCurl(verb, file, query, token) {
  const url = new URL(`/v1/${verb}`, location.href);
  for (const [name, value] of given(query)) url.searchParams.set(name, value);
  const kind = /\.xlsx?$/i.test(file) ? "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet" : "text/csv";
  const bearer = token ? ` -H "authorization: Bearer $LIMOSA_TOKEN"` : "";
  const address = String(url).replaceAll("%2C", ",");
  return `curl ${shell(address)} -H 'content-type: ${kind}' -H 'accept: text/csv'${bearer} --data-binary ${shell(`@${file}`)}`;
}
