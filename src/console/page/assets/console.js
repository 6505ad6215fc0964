// Everything works without this. It makes confirmations dialogs, counts what is ticked, copies, wipes the value of a new
// token, and asks again for what changes by itself.
"use strict";

const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

// A form is sent once, however often its button is pressed; again when one comes back to the page, or when no answer came.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.dataset.sent) return event.preventDefault();
  if (form.method !== "post" || (event.submitter && event.submitter.matches("[data-dialog]"))) return;
  form.dataset.sent = "1";
  setTimeout(() => delete form.dataset.sent, 10000);
});
window.addEventListener("pageshow", () => all("form[data-sent]").forEach((form) => delete form.dataset.sent));

// Confirmations: the page that asks is fetched, and shown as a dialog with the focus on the harmless button; afterwards the
// focus is where it was. One at a time, whether it is shown or still on its way.
let asking = false;
async function ask(opener, path, options) {
  asking = true;
  try {
    return await show(opener, path, options);
  } finally {
    asking = false;
  }
}
async function show(opener, path, options) {
  const signal = AbortSignal.timeout(15000);
  const reply = await fetch(path, { ...options, signal, credentials: "same-origin", headers: { Accept: "text/html" } });
  const page = new DOMParser().parseFromString(await reply.text(), "text/html");
  const article = page.querySelector("[data-confirm]");
  if (!article) return false;
  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-labelledby", "confirm-title");
  dialog.append(document.adoptNode(article));
  const cancel = document.createElement("button");
  [cancel.type, cancel.textContent] = ["button", "Cancel"];
  cancel.addEventListener("click", () => dialog.close());
  dialog.querySelector("[data-cancel]").replaceWith(cancel);
  dialog.addEventListener("close", () => {
    dialog.remove();
    opener.focus();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  document.body.append(dialog);
  dialog.showModal();
  cancel.focus({ preventScroll: true });
  return true;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-dialog]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  if (asking) return;
  const menu = link.closest(".menu details");
  if (menu) menu.open = false;
  const opener = menu ? menu.querySelector("summary") : link;
  ask(opener, link.href).then((shown) => shown || location.assign(link.href), () => location.assign(link.href));
});

document.addEventListener("submit", (event) => {
  const button = event.submitter;
  if (!button || !button.matches("[data-dialog]")) return;
  event.preventDefault();
  if (asking) return;
  const body = new URLSearchParams(new FormData(event.target, button));
  const count = event.target.querySelector("[data-count]");
  if (count && !body.has("id") && !body.has("all")) return void (count.textContent = count.dataset.count);
  const send = () => {
    const field = document.createElement("input");
    field.type = "hidden";
    [field.name, field.value] = [button.name, button.value];
    event.target.append(field);
    event.target.submit();
  };
  ask(button, event.target.action, { method: "POST", body }).then((shown) => shown || send(), send);
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

// They are in view as soon as one wants to.
all("[data-custom]").forEach((part) => {
  const custom = document.getElementById(part.dataset.custom);
  all(`input[name=${custom.name}]`).forEach((choice) => {
    choice.addEventListener("change", () => (part.open = custom.checked));
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

// What is the same stays, and with it what somebody has marked there.
function renew(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
  const alike = old.nodeName === fresh.nodeName && before.length === after.length;
  if (alike && old.nodeType === Node.TEXT_NODE) return void (old.data = fresh.data);
  if (!alike || !before.length) return old.replaceWith(fresh);
  [...fresh.attributes].forEach(({ name, value }) => old.setAttribute(name, value));
  before.forEach((child, at) => renew(child, after[at]));
}

// What changes by itself: one question at a time, and none from a tab that nobody looks at. Who is signed out meanwhile is
// shown so within a second, and that no answer comes is said after three.
all("[data-live]").forEach((part) => {
  const late = document.querySelector("[data-late]");
  let answered = Date.now();
  const tell = () => {
    const seconds = Math.floor((Date.now() - answered) / 1000);
    part.classList.toggle("stale", seconds >= 3);
    late.firstElementChild.hidden = seconds < 3;
    late.querySelector("[data-since]").textContent = `since ${seconds} s`;
  };
  const look = async () => {
    if (document.hidden) return;
    const options = { headers: { "X-Tollgate-Poll": "1" }, redirect: "error", signal: AbortSignal.timeout(2000) };
    const reply = await fetch(location.href, options);
    if (reply.status === 401) return location.reload();
    if (!reply.ok) return;
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    const fresh = page.querySelector("[data-live]");
    if (!fresh) return;
    answered = Date.now();
    tell();
    renew(part, fresh);
  };
  const again = () => setTimeout(() => look().then(again, again), 800);
  again();
  setInterval(tell, 1000);
  document.addEventListener("visibilitychange", () => {
    answered = Date.now();
    tell();
  });
});
