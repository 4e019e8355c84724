const list = document.querySelector("ol");
const form = document.querySelector("form");

async function show() {
  const entries = await (await fetch("/guestbook")).json();
  list.replaceChildren(...entries.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  await fetch("/guestbook", { method: "POST", body: new FormData(form).get("entry") });
  form.reset();
  await show();
});

await show();
