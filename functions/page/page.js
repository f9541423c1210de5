// The page works without this. With it, it looks again by itself, keeps what is typed and opened, and says when nobody
// answers.
(() => {
  "use strict";
  const pause = document.getElementById("pause");
  const main = () => document.querySelector("main");
  const every = 1000 * document.body.dataset.every;
  let seen = new Date();
  pause.hidden = false;
  pause.addEventListener("click", () => {
    const now = pause.getAttribute("aria-pressed") !== "true";
    pause.setAttribute("aria-pressed", now);
    pause.textContent = now ? "Go on" : "Pause";
  });
  const busy = () => {
    const form = document.getElementById("letters");
    if (!form) return false;
    const typed = [...form.querySelectorAll("input")].some((one) => one.checked || (one.name === "token" && one.value));
    return typed || form.contains(document.activeElement);
  };
  const selecting = () => !document.getSelection().isCollapsed;
  const stale = (on) => {
    let note = document.getElementById("stale");
    if (!on) return void (note && note.remove());
    if (!note) {
      note = document.createElement("p");
      note.id = "stale";
      note.setAttribute("role", "alert");
      main().before(note);
    }
    document.title = "Nobody answers · Crossfeed";
    note.textContent = "Nobody answers since " + seen.toLocaleTimeString() + ". What you see is old.";
  };
  const swap = (found) => {
    const fresh = found.querySelector("main");
    if (!fresh) throw new Error("not the page");
    for (const one of fresh.querySelectorAll("details[id]")) {
      const known = document.getElementById(one.id);
      if (known) one.open = known.open;
    }
    main().replaceWith(fresh);
    document.getElementById("when").replaceWith(found.getElementById("when"));
    document.title = found.title;
    document.querySelector("link[rel=icon]").href = found.querySelector("link[rel=icon]").href;
  };
  const look = async () => {
    if (pause.getAttribute("aria-pressed") === "true" || busy() || selecting() || document.hidden) return;
    try {
      const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(2 * every) });
      swap(new DOMParser().parseFromString(await answer.text(), "text/html"));
      seen = new Date();
      stale(false);
    } catch {
      stale(true);
    }
  };
  const again = () => setTimeout(() => look().finally(again), every);
  again();
})();
