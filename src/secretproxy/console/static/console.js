// Live rows, shorter addresses, keys. Every page works without it.
"use strict";

const LIVE_MOST = 500;
const AGAIN = 5000;

// New accesses: rows that the server has rendered and escaped. One that has ended since takes the place of the same one running.
let source = null;
function follow() {
  if (source) source.close();
  source = null;
  const status = document.getElementById("live");
  const body = document.querySelector("#accesses tbody");
  if (!status || !body || !window.EventSource) return;
  let gap = false;
  const say = (text) => { if (status.textContent !== text) status.textContent = text; };
  const listen = () => {
    if (!status.isConnected) return;
    const mine = source = new EventSource(status.dataset.source);
    source.addEventListener("there", () => {
      say(gap ? "Live, but more came than is shown here. Reload the page for all of them." : "Live: new accesses appear at the top.");
    });
    source.addEventListener("gap", () => { gap = true; });
    source.addEventListener("lost", () => { say("The log does not answer. Trying again."); });
    source.addEventListener("over", () => { mine.close(); say("Your session has ended. Sign in again."); });
    source.addEventListener("row", (message) => { put(body, message.data); });
    source.onerror = () => {
      say("The connection to the console is lost, or your session has ended. Trying again.");
      // A browser tries again by itself, but not where the answer was an error.
      if (mine.readyState === EventSource.CLOSED) window.setTimeout(listen, AGAIN);
    };
  };
  listen();
}
window.addEventListener("pagehide", () => { if (source) source.close(); });

// The filter of accesses takes effect without a reload: the page of the new address is loaded, and its content takes the place of this one's.
let shown = window.location.pathname + window.location.search;
let turn = 0;
async function show(address, push) {
  const content = document.getElementById("content");
  const mine = ++turn;
  const focused = document.activeElement && document.activeElement.name;
  content.setAttribute("aria-busy", "true");
  try {
    const answer = await window.fetch(address, { credentials: "same-origin" });
    const made = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (mine !== turn) return;
    const wanted = new URL(address, window.location.href);
    const found = made.getElementById("content");
    // A sign-in, or what is no page of this console, is loaded as such.
    if (new URL(answer.url).pathname !== wanted.pathname || !found) { window.location.assign(address); return; }
    content.replaceChildren(...found.childNodes);
    document.title = made.title;
    shown = wanted.pathname + wanted.search;
    if (push) window.history.pushState(null, "", address);
    const same = focused && content.querySelector(`#filter [name="${CSS.escape(focused)}"]`);
    (same || content.querySelector("#filter button") || content).focus();
    follow();
  } catch {
    if (mine === turn) window.location.assign(address);
  } finally {
    if (mine === turn) content.removeAttribute("aria-busy");
  }
}

document.addEventListener("submit", (event) => {
  // Not event.target.id: a field of the form has that name.
  if (event.target.getAttribute("id") !== "filter" || !window.DOMParser) return;
  event.preventDefault();
  const given = new URLSearchParams([...new FormData(event.target)].filter(([, value]) => value !== ""));
  const query = given.toString();
  show(event.target.getAttribute("action") + (query ? `?${query}` : ""), true);
});
window.addEventListener("popstate", () => {
  if (window.location.pathname + window.location.search !== shown) show(window.location.href, false);
});

function put(body, text) {
  const made = document.createElement("template");
  made.innerHTML = text;
  const row = made.content.querySelector("tr");
  if (!row) return;
  const same = document.getElementById(row.id);
  if (same) {
    // What somebody has opened stays open.
    const opened = same.querySelectorAll("details");
    row.querySelectorAll("details").forEach((one, place) => { one.open = Boolean(opened[place] && opened[place].open); });
    same.replaceWith(row);
    return;
  }
  row.classList.add("fresh");
  const none = body.querySelector("tr.none");
  if (none) none.remove();
  // By time, the newest first: what is looked up again may be older than what is here.
  const older = Array.from(body.rows).find((other) => (other.dataset.at || "") <= row.dataset.at);
  body.insertBefore(row, older || null);
  while (body.rows.length > LIVE_MOST) body.rows[body.rows.length - 1].remove();
}

// Keys: / goes to the filter, g then a letter to a page.
const PLACES = { o: "/", a: "/accesses", f: "/findings", i: "/incident", c: "/compare", v: "/integrity", r: "/reviews", d: "/doctor" };
let going = false;

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  if (event.key === "/") {
    const first = document.querySelector(".filter input");
    if (first) { event.preventDefault(); first.focus(); }
  } else if (going && PLACES[event.key]) {
    window.location.assign(PLACES[event.key]);
  }
  going = event.key === "g";
});

// A filter leaves empty fields out of the address, so that it is short enough to be shared.
const fields = () => document.querySelectorAll("form.filter:not(#filter) input, form.filter:not(#filter) select");
document.querySelectorAll("form.filter:not(#filter)").forEach((form) => {
  form.addEventListener("submit", () => { fields().forEach((field) => { field.disabled = field.value === ""; }); });
});
window.addEventListener("pageshow", () => { fields().forEach((field) => { field.disabled = false; }); });

// This script runs when the page has ended. What still waits then will not come.
document.querySelectorAll(".waiting:only-child").forEach((part) => {
  part.textContent = "The connection to the console was lost before this came. Load the page again.";
});

follow();
