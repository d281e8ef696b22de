// The page of `rkld compare`. Whatever a model or a record says goes into textContent, never into markup.

const SIDES = ["original", "unlearned"];
const TITLES = { original: "Original", unlearned: "Unlearned" };

const $ = (id) => document.getElementById(id);

const state = { about: null, chosen: null, transcript: [], running: null };

/** The token stands behind # in the address: it is taken out of sight, and kept while the tab is open. */
function takeToken() {
  const given = location.hash.slice(1);
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token") ?? "";
}

const token = takeToken();

async function ask(path, body, signal) {
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
  const method = body === undefined ? "GET" : "POST";
  const response = await fetch(`/api/${path}`, { method, headers, signal, body: body && JSON.stringify(body) });
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error ?? `Error ${response.status}`);
  return response;
}

/** Every line of a stream as a value. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const lines = (rest + (value ?? "")).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
    if (done) return;
  }
}

/** An element with a class, a text and children. */
function make(tag, { className = "", text = "", children = [] } = {}) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

/** What a model said, its facts marked. */
function showParts(element, parts) {
  element.replaceChildren(
    ...parts.map(([text, fact]) => {
      if (fact === null) return document.createTextNode(text);
      const marked = make("mark", { text });
      marked.title = `a fact of the request: ${fact}`;
      return marked;
    }),
  );
}

const plainText = (parts) => parts.map(([text]) => text).join("");

function settings() {
  const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
  const question = $("question").value;
  const chosen = state.chosen !== null && state.chosen.text === question ? state.chosen.number : undefined;
  return {
    question,
    number: chosen,
    begins: $("begins").value,
    plain: $("plain").checked,
    temperature: number("temperature"),
    top_p: number("top_p"),
    seed: number("seed"),
    max_new_tokens: number("max_new_tokens"),
    n: number("n"),
  };
}

/** A card for one exchange, with a place for each side. */
function card(title, body) {
  const sides = Object.fromEntries(
    SIDES.map((side) => {
      const said = make("p", { className: "said" });
      said.dir = "auto";
      const note = make("p", { className: "note" });
      return [side, { said, note, element: make("div", { className: `side ${side}`, children: [make("h3", { text: TITLES[side] }), said, note] }) }];
    }),
  );
  const heading = make("h2", { text: title });
  heading.dir = "auto";
  const begins = body.begins ? [make("p", { className: "note", text: `The answer begins with: ${body.begins}` })] : [];
  const pair = make("div", { className: "pair", children: SIDES.map((side) => sides[side].element) });
  const article = make("article", { children: [heading, ...begins, pair] });
  $("answers").prepend(article);
  return { sides, article, pair };
}

const WORK = {
  async stream(body, found, stream) {
    const { sides } = card(body.question, body);
    found.answers = {};
    for await (const event of stream) {
      const { said, note } = sides[event.side];
      showParts(said, event.parts);
      found.answers[event.side] = { text: plainText(event.parts), end: event.end ?? "stopped" };
      note.textContent = event.done ? (event.end === "cut" ? "cut at the longest answer" : "finished") : "…";
    }
  },

  async count(body, found, stream) {
    const { sides, article } = card(`${body.question} (asked ${body.n} times)`, body);
    found.answers = {};
    for await (const event of stream) {
      if (event.made !== undefined) sides[event.side].note.textContent = `${event.made} of ${event.n}`;
      if (event.answers) {
        const list = make("ol", {
          children: event.answers.map((parts) => {
            const item = make("li", { className: "said" });
            item.dir = "auto";
            showParts(item, parts);
            return item;
          }),
        });
        sides[event.side].element.append(make("details", { children: [make("summary", { text: "All answers" }), list] }));
        found.answers[event.side] = event.answers.map(plainText);
      }
      if (event.facts) {
        found.facts = event.facts;
        article.append(countTable(event.facts, body.n));
      }
    }
  },

  async next_words(body, found, stream) {
    const { article, pair } = card(`What comes next? ${body.question}`, body);
    for await (const event of stream) {
      found.tokens = event.tokens;
      pair.replaceWith(bars(event.tokens));
    }
    if (!found.tokens) article.remove();
  },
};

const REQUEST = { stream: "ask", count: "count", next_words: "next words" };

function table(caption, first, rows) {
  const head = make("tr", { children: [first, TITLES.original, TITLES.unlearned].map((text) => make("th", { text })) });
  for (const cell of head.children) cell.scope = "col";
  const made = make("table", { children: [make("caption", { text: caption }), make("thead", { children: [head] }), make("tbody", { children: rows })] });
  return make("div", { className: "wide", children: [made] });
}

function bar(side, share, text) {
  const drawn = make("span", { className: "bar" });
  drawn.style.width = `${(60 * share).toFixed(2)}%`;
  drawn.ariaHidden = "true";
  return make("td", { className: side, children: [drawn, text] });
}

function countTable(facts, n) {
  if (!facts.length) return make("p", { text: "None of the answers says a fact of the request." });
  const rows = facts.map((row) => {
    const name = make("th", { text: row.fact });
    name.scope = "row";
    return make("tr", { children: [name, ...SIDES.map((side) => bar(side, row[side] / n, `${row[side]} of ${n}`))] });
  });
  return table("Answers that say each fact", "Fact", rows);
}

/** A token so that its spaces and line ends are seen. */
const shown = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "⏎") || "(nothing)";

function bars(tokens) {
  const rows = tokens.map((row) => {
    const more = make("button", { text: shown(row.token) });
    more.type = "button";
    more.title = "go on behind this word";
    more.addEventListener("click", () => {
      $("begins").value += row.token;
      $("sampling").open = true;
      run("next_words");
    });
    const name = make("th", { children: [more] });
    name.scope = "row";
    const percent = (p) => (p === null ? "not a token of this model" : `${(100 * p).toFixed(p < 0.001 ? 3 : 1)} %`);
    return make("tr", { children: [name, ...SIDES.map((side) => bar(side, row[side] ?? 0, percent(row[side])))] });
  });
  return table("Probability of the next word (token)", "Next", rows);
}

function busy(running) {
  state.running = running;
  for (const id of ["ask", "next", "many"]) $(id).disabled = running !== null;
  $("stop").disabled = running === null;
  for (const id of ["save", "json", "clear"]) $(id).disabled = running !== null || !state.transcript.length;
  $("answers").ariaBusy = String(running !== null);
}

async function run(kind) {
  if (state.running) return;
  const body = settings();
  const found = { kind: REQUEST[kind], asked: new Date().toISOString(), ...body };
  const running = new AbortController();
  $("problem").textContent = "";
  busy(running);
  try {
    const response = await ask(kind, body, running.signal);
    state.transcript.push(found);
    await WORK[kind](body, found, unlessError(events(response)));
  } catch (error) {
    if (error.name !== "AbortError") $("problem").textContent = error.message;
  } finally {
    busy(null);
  }
}

async function* unlessError(stream) {
  for await (const event of stream) {
    if (event.error) throw new Error(event.error);
    yield event;
  }
}

// The transcript

function asText() {
  const models = state.about.models;
  const lines = [`Original: ${models.original}`, `Unlearned: ${models.unlearned}`, "It may hold personal data.", ""];
  for (const one of state.transcript) {
    lines.push(`[${one.asked}] ${one.kind}: ${one.question}`);
    if (one.begins) lines.push(`  begins with: ${one.begins}`);
    lines.push(`  temperature ${one.temperature}, top-p ${one.top_p}, seed ${one.seed}, at most ${one.max_new_tokens} tokens`);
    for (const side of SIDES) {
      const said = one.answers?.[side];
      if (said === undefined) continue;
      const texts = Array.isArray(said) ? said.map((text, i) => `${i + 1}. ${text}`) : [`${said.text} (${said.end})`];
      lines.push(`  ${TITLES[side]}:`, ...texts.map((text) => `    ${text}`));
    }
    for (const row of one.facts ?? []) lines.push(`  ${row.fact}: ${row.original} and ${row.unlearned} of ${one.n}`);
    for (const row of one.tokens ?? []) lines.push(`  ${shown(row.token)}: ${row.original} and ${row.unlearned}`);
    lines.push("");
  }
  return lines.join("\n");
}

function save(name, type, text) {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// What the user does

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  run("stream");
});
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run("stream");
  }
});
$("next").addEventListener("click", () => run("next_words"));
$("many").addEventListener("click", () => run("count"));
$("stop").addEventListener("click", () => state.running?.abort());
$("n").addEventListener("input", () => ($("times").textContent = $("n").value || "20"));
$("clear").addEventListener("click", () => {
  state.transcript = [];
  $("answers").replaceChildren();
  busy(null);
});
$("save").addEventListener("click", () => save("transcript.txt", "text/plain", asText()));
$("json").addEventListener("click", () =>
  save("transcript.json", "application/json", JSON.stringify({ models: state.about.models, exchanges: state.transcript }, null, 2)),
);
$("request").addEventListener("toggle", async () => {
  if (!$("request").open || $("questions").children.length) return;
  try {
    const { questions } = await (await ask("questions")).json();
    $("questions").replaceChildren(
      ...questions.map((text, number) => {
        const button = make("button", { text });
        button.type = "button";
        button.dir = "auto";
        button.addEventListener("click", () => {
          $("question").value = text;
          state.chosen = { number, text: $("question").value };
          $("question").focus();
        });
        return make("li", { children: [button] });
      }),
    );
  } catch (error) {
    $("problem").textContent = error.message;
  }
});

async function start() {
  try {
    state.about = await (await ask("about")).json();
    const { models, one_base, questions, note, template, most } = state.about;
    const how = one_base ? " (one base in memory, adapters switched)" : "";
    $("about").textContent = `${models.original} and ${models.unlearned}${how}. ${note}`;
    $("number").textContent = questions;
    $("request").hidden = questions === 0;
    $("n").max = most;
    if (!template) {
      $("plain").checked = true;
      $("plain").disabled = true;
    }
  } catch (error) {
    $("about").textContent = "Not connected.";
    $("problem").textContent = error.message;
  }
}

start();
