// Asks for the page again and puts it in the place of the old one. Without this
// the browser reloads it by itself, less often.
"use strict";
const every = 5000;
async function refresh() {
  if (document.hidden || String(getSelection())) return;
  const stale = document.getElementById("stale");
  try {
    const answer = await fetch(location.pathname, {cache: "no-store", signal: AbortSignal.timeout(every - 500)});
    if (!answer.ok) throw new Error(answer.statusText);
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.getElementById("page").replaceWith(next.getElementById("page"));
    stale.replaceWith(next.getElementById("stale"));
    document.title = next.title;
  } catch {
    stale.hidden = false;
  }
}
setInterval(refresh, every);
document.addEventListener("visibilitychange", refresh);
