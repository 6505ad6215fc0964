// Everything works without this. It makes confirmations dialogs, counts what is ticked, copies, wipes the value of a new
// token, and asks again for what changes by itself.
"use strict";

const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

// Confirmations: the page that asks is fetched, and shown as a dialog with the focus on the harmless button.
async function ask(path, options) {
  const reply = await fetch(path, { ...options, credentials: "same-origin", headers: { Accept: "text/html" } });
  const page = new DOMParser().parseFromString(await reply.text(), "text/html");
  const article = page.querySelector("[data-confirm]");
  if (!article) return false;
  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-labelledby", "confirm-title");
  dialog.append(document.adoptNode(article));
  const cancel = dialog.querySelector("[data-cancel]");
  cancel.setAttribute("role", "button");
  cancel.addEventListener("click", (event) => {
    event.preventDefault();
    dialog.close();
  });
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
  cancel.focus();
  return true;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-dialog]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  all("details[open]").forEach((menu) => (menu.open = false));
  ask(link.href).then((shown) => shown || location.assign(link.href), () => location.assign(link.href));
});

document.addEventListener("submit", (event) => {
  const button = event.submitter;
  if (!button || !button.matches("[data-dialog]")) return;
  event.preventDefault();
  const body = new URLSearchParams(new FormData(event.target, button));
  const send = () => {
    const field = document.createElement("input");
    field.type = "hidden";
    [field.name, field.value] = [button.name, button.value];
    event.target.append(field);
    event.target.submit();
  };
  ask(event.target.action, { method: "POST", body }).then((shown) => shown || send(), send);
});

// What is ticked.
all("form[data-bulk]").forEach((form) => {
  const boxes = all("input[name=id]", form);
  const [page, matching, count] = ["[data-page]", "[data-all]", "[data-count]"].map((one) => form.querySelector(one));
  const tell = () => {
    const ticked = boxes.filter((box) => box.checked).length;
    const everything = Boolean(matching && matching.checked);
    boxes.forEach((box) => (box.disabled = everything));
    form.classList.toggle("chosen", ticked > 0 || everything);
    if (page) {
      page.hidden = false;
      page.disabled = everything;
      page.checked = ticked === boxes.length && boxes.length > 0;
      page.indeterminate = ticked > 0 && ticked < boxes.length;
    }
    if (count) count.textContent = everything ? "All that match" : ticked ? `${ticked} selected` : "None selected";
  };
  if (page) {
    page.addEventListener("change", () => {
      boxes.forEach((box) => (box.checked = page.checked));
      tell();
    });
  }
  form.classList.add("live");
  form.addEventListener("change", tell);
  window.addEventListener("pageshow", tell);
  tell();
});

// One menu at a time; Escape closes it.
document.addEventListener("click", (event) => {
  const own = event.target.closest(".menu details");
  all(".menu details[open]").forEach((menu) => menu !== own && (menu.open = false));
});
document.addEventListener("keydown", (event) => {
  const menu = event.key === "Escape" && document.activeElement.closest(".menu details[open]");
  if (!menu) return;
  menu.open = false;
  menu.querySelector("summary").focus();
});

// Copying, where browsers let it be: on HTTPS and on this machine.
all("[data-copy]").forEach((button) => {
  if (!navigator.clipboard) return;
  button.hidden = false;
  button.addEventListener("click", async () => {
    const field = document.getElementById(button.dataset.copy);
    field.select();
    await navigator.clipboard.writeText(field.value);
    button.lastElementChild.textContent = "Copied";
  });
});

// The value of a new token does not outlive the page, nor its acknowledgement.
const secrets = all("[data-secret]");
if (secrets.length) {
  const wipe = () => secrets.forEach((field) => ((field.value = ""), field.setAttribute("value", "")));
  window.addEventListener("pagehide", wipe);
  all("[data-acknowledge]").forEach((button) => button.addEventListener("click", wipe));
  secrets.forEach((field) => field.addEventListener("focus", () => field.select()));
}

// Choosing single permissions is choosing them oneself.
all("[data-grid]").forEach((grid) => {
  const custom = document.getElementById(grid.dataset.grid);
  grid.addEventListener("change", (event) => {
    custom.checked = true;
    const row = event.target.closest("tr");
    const boxes = all("input[name=permission]:not(:disabled)", row);
    if (event.target.name === "every") boxes.forEach((box) => (box.checked = event.target.checked));
    const every = row.querySelector("input[name=every]");
    if (every) every.checked = boxes.length > 0 && boxes.every((box) => box.checked);
  });
});

// A date is said only where it is asked for.
all("[data-date-of]").forEach((part) => {
  const choice = document.getElementById(part.dataset.dateOf);
  const show = () => {
    part.hidden = choice.value !== "date";
    all("input", part).forEach((field) => (field.disabled = part.hidden));
  };
  choice.addEventListener("change", show);
  window.addEventListener("pageshow", show);
  show();
});

// What changes by itself: one question at a time, and none from a tab that nobody looks at. Who is signed out meanwhile is
// shown so within a second.
all("[data-live]").forEach((part) => {
  let failures = 0;
  const look = async () => {
    if (document.hidden) return;
    const reply = await fetch(location.href, { headers: { "X-Tollgate-Poll": "1" }, redirect: "error" }).catch(() => null);
    if (reply && reply.status === 401) return location.reload();
    failures = reply && reply.ok ? 0 : failures + 1;
    part.classList.toggle("stale", failures > 1);
    if (failures) return;
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    const fresh = page.querySelector("[data-live]");
    if (fresh) part.replaceChildren(...fresh.childNodes);
  };
  const again = () => setTimeout(() => look().then(again, again), 800);
  again();
});
