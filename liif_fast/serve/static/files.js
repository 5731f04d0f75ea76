// "Make a file": an order, its progress, its end.
"use strict";

const MARK = { "X-Liif-Fast": "page" }; // a page of another site cannot send this header

async function asked(address, options = {}) {
  const answer = await fetch(address, { ...options, headers: { ...MARK, ...options.headers } });
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  const text = (await answer.text()).trim();
  throw new Error(text || `the server answered ${answer.status}`);
}

const byId = (id) => document.getElementById(id);

// what(): {picture, way} of what is looked at.
function fileDialog(what) {
  const dialog = byId("make");
  const said = byId("make-message");
  let current = null;

  function show(state, text) {
    const busy = state === "running";
    said.textContent = text;
    byId("make-start").disabled = busy;
    byId("make-cancel").hidden = !busy;
    byId("progress").hidden = !busy;
    byId("download").hidden = state !== "done";
  }

  function order() {
    const wanted = { ...what(), format: byId("format").value };
    const fields = document.forms["make-form"].by.value === "scale" ? { scale: "factor" } : { width: "width", height: "height" };
    for (const [name, id] of Object.entries(fields)) {
      if (byId(id).value !== "") wanted[name] = Number(byId(id).value);
    }
    return wanted;
  }

  async function make(event) {
    event.preventDefault();
    byId("progress").value = 0;
    show("running", "Waiting ...");
    try {
      const body = JSON.stringify(order());
      let made = await asked("/api/files", { method: "POST", body, headers: { "Content-Type": "application/json" } });
      const size = `${made.size[0]} x ${made.size[1]}`;
      current = made.id;
      while (made.state === "waiting" || made.state === "running") {
        const part = made.total ? made.done / made.total : 0;
        byId("progress").value = part;
        said.textContent = `${size}: ${Math.floor(100 * part)} %`;
        await new Promise((go) => setTimeout(go, 300));
        made = await asked(`/api/files/${current}`);
      }
      byId("download").href = `/api/files/${current}/content`;
      byId("download").download = made.name;
      const texts = { done: `${made.name} is ready (${size}).`, cancelled: "Cancelled.", failed: made.error };
      show(made.state, [texts[made.state], ...made.notes].join(" "));
    } catch (error) {
      show("failed", error.message);
    }
    current = null;
  }

  byId("make-open").addEventListener("click", () => dialog.showModal());
  byId("make-close").addEventListener("click", () => dialog.close());
  byId("make-form").addEventListener("submit", make);
  byId("make-cancel").addEventListener("click", () => {
    if (current) asked(`/api/files/${current}`, { method: "DELETE" }).catch((error) => show("failed", error.message));
  });
  for (const choice of document.forms["make-form"].by) {
    choice.addEventListener("change", () => {
      byId("by-scale").hidden = choice.value !== "scale";
      byId("by-size").hidden = choice.value === "scale";
    });
  }
}
