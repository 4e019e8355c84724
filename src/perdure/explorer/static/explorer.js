// What the pages need beside htmx: the token, which is kept for this tab alone, and files that are sent as they are.
(() => {
  const page = new URL(location.href);
  const given = page.searchParams.get("token");
  if (given) {
    sessionStorage.setItem("perdure-token", given);
    page.searchParams.delete("token");
    history.replaceState(null, "", page);
  }
  const token = () => sessionStorage.getItem("perdure-token") || "";
  const show = () => document.documentElement.classList.toggle("may-act", Boolean(token()));
  show();
  document.addEventListener("htmx:config:request", (event) => {
    event.detail.ctx.request.headers["X-Perdure-Token"] = token();
  });
  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (form.id === "token-form") {
      event.preventDefault();
      sessionStorage.setItem("perdure-token", form.elements.token.value.trim());
      form.reset();
      show();
    } else if (form.dataset.upload) {
      event.preventDefault();
      const out = document.querySelector(form.dataset.out);
      const file = form.elements.file.files[0];
      out.textContent = "…";
      const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => typeof value === "string"));
      const answer = await fetch(`${form.dataset.upload}?${query}`, {
        method: "POST",
        body: file,
        headers: { "X-Perdure-Token": token(), "Content-Type": "application/wasm" },
      });
      out.innerHTML = await answer.text();
      htmx.process(out);
    }
  });
  document.addEventListener("change", (event) => {
    const chosen = event.target.closest("select[data-parts]");
    if (chosen) {
      for (const part of chosen.parentElement.querySelectorAll(":scope > [data-of]")) {
        part.hidden = part.dataset.of !== chosen.value;
      }
    }
  });
})();
