// Copyright (c) 2026, The ainode.cpu authors
// SPDX-License-Identifier: GPL-3.0-or-later
// Whatever comes from a service or a package is set as text, never as HTML.
"use strict";

const EXAMPLES = ["retouch photos and remove red eyes", "play chess against the computer", "find out what fills my disk", "record and edit sound", "watch network traffic"];
const STAGES = {
  embed: "embed the query",
  recall: "recall by vector search",
  features: "compute features",
  rank: "rank",
};
const at = (id) => document.getElementById(id);
const element = (tag, text = "", className = "") => Object.assign(document.createElement(tag), { textContent: text, className });
let asked = 0;

function size(kib) {
  return kib < 1024 ? `${kib} KiB` : `${(kib / 1024).toFixed(1)} MiB`;
}

function moved(entry) {
  const places = entry.recall - entry.rank;
  if (places === 0) return element("span", "same place", "moved");
  const told = element("span", `${places > 0 ? "▲" : "▼"} ${Math.abs(places)}`, places > 0 ? "moved up" : "moved");
  told.setAttribute("aria-label", `${places > 0 ? "up" : "down"} ${Math.abs(places)}, recalled as number ${entry.recall}`);
  told.title = `recalled as number ${entry.recall}`;
  return told;
}

function ranked(entry) {
  const item = element("li");
  const title = element("h3");
  title.append(element("span", entry.rank, "place"), element("span", entry.name, "name"), moved(entry));
  const tags = entry.tags.slice(0, 4).join(", ");
  const meta = [entry.section, size(entry.size), tags].filter(Boolean).join(" · ");
  item.append(title, element("p", entry.synopsis, "synopsis"), element("p", entry.text, "text meta"), element("p", meta, "meta"));
  return item;
}

function recalled(entry) {
  const item = element("li");
  const title = element("h3");
  title.append(element("span", entry.recall, "place"), element("span", entry.name, "name"), element("span", `cosine ${entry.cosine.toFixed(2)}`, "moved"));
  item.append(title, element("p", entry.synopsis, "synopsis meta"));
  return item;
}

function showStages(stages) {
  const total = stages.reduce((sum, stage) => sum + stage.ms, 0);
  at("bar").replaceChildren(...stages.map((stage) => {
    const part = element("span");
    part.style.flexGrow = stage.ms;
    part.style.background = `var(--${stage.name})`;
    return part;
  }));
  at("legend").replaceChildren(...stages.map((stage) => {
    const item = element("li");
    const colour = element("i");
    colour.style.background = `var(--${stage.name})`;
    item.append(colour, `${STAGES[stage.name]}: ${stage.ms.toFixed(1)} ms`);
    if (stage.model) item.append(element("small", ` (${stage.model}${stage.version ? `, version ${stage.version}` : ""})`));
    return item;
  }));
  at("legend").append(element("li", `together ${total.toFixed(1)} ms`));
}

function say(text, isError = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", isError);
}

function hide(hidden) {
  at("results").hidden = at("stages").hidden = hidden;
}

async function search(text) {
  const number = ++asked;
  if (!text.trim()) {
    hide(true);
    return say("Type what you are looking for: the query is empty.", true);
  }
  history.replaceState(null, "", `?q=${encodeURIComponent(text)}`);
  at("results").classList.add("busy");
  say("Searching …");
  let found;
  try {
    const answer = await fetch(`/api/search?q=${encodeURIComponent(text)}`);
    found = await answer.json();
  } catch {
    found = { error: "The page's own server does not answer. Does its unit ainode-demo-0 run?" };
  }
  // An older question's answer that comes late is nobody's.
  if (number !== asked) return;
  at("results").classList.remove("busy");
  if (found.error) {
    hide(true);
    return say(found.error, true);
  }
  at("ranked").replaceChildren(...found.ranked.map(ranked));
  at("recalled").replaceChildren(...found.recalled.map(recalled));
  showStages(found.stages);
  hide(false);
  say(`${found.ranked.length} results for \u201c${found.query}\u201d.`);
}

async function tell() {
  const about = await (await fetch("/api/about")).json();
  at("about").textContent = `${about.packages.toLocaleString("en")} of Debian's packages, recommended by three models on this machine's CPU.`;
  const told = about.measured;
  if (told) {
    at("measured").textContent = `Measured here with ${told.queries} held out sentences: mean reciprocal rank ${told.recall.mrr.toFixed(3)} as recalled, `
      + `${told.ranked.mrr.toFixed(3)} ranked; among the first ten ${(100 * told.recall.hit10).toFixed(0)}% and ${(100 * told.ranked.hit10).toFixed(0)}%.`;
  }
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  search(at("query").value);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== at("query")) {
    event.preventDefault();
    at("query").select();
  }
});
for (const text of EXAMPLES) {
  const button = element("button", text);
  button.type = "button";
  button.addEventListener("click", () => {
    at("query").value = text;
    search(text);
  });
  at("examples").append(button);
}
tell().catch(() => {});
const given = new URLSearchParams(location.search).get("q");
if (given !== null) {
  at("query").value = given;
  search(given);
}
