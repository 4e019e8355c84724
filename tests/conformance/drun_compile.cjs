// node drun_compile.cjs SUITE JOBS: compiles Motoko programs with the npm package `motoko` of the working directory.
//
// SUITE is the directory of the programs, JOBS a JSON file: a list of {source, mangled, flags, aliases, idl, out},
// paths relative to SUITE but `out`. One line of JSON is printed for each: {source, out, error}.
const fs = require("fs");
const path = require("path");
const { createRequire } = require("module");

process.env.MOC_UNLOCK_PRIM = "yesplease";
const load = createRequire(path.join(process.cwd(), "index.js"));
const { compiler } = load("motoko").default;
const [suite, jobs] = process.argv.slice(2);

function save(directory) {
  for (const entry of fs.readdirSync(path.join(suite, directory), { withFileTypes: true })) {
    const name = path.join(directory, entry.name);
    if (entry.isDirectory()) {
      if (!["ok", "_out"].includes(entry.name)) save(name);
    } else if (/\.(mo|did)$/.test(entry.name)) {
      compiler.saveFile(name, fs.readFileSync(path.join(suite, name), "utf8"));
    }
  }
}

save("");
for (const job of JSON.parse(fs.readFileSync(jobs, "utf8"))) {
  let error = "";
  try {
    compiler.setExtraFlags(job.flags);
    compiler.setActorAliases(job.aliases);
    compiler.setCandidPath(job.idl);
    compiler.setPublicMetadata(["candid:service", "candid:args"]);
    if (job.mangled !== null) compiler.saveFile(job.source, job.mangled);
    const result = compiler.compileWasm("ic", job.source);
    const code = result.code;
    if (code) fs.writeFileSync(job.out, code.wasm);
    else error = result.diagnostics.map((one) => `${one.code}: ${one.message}`).join("\n") || "no module";
  } catch (thrown) {
    error = thrown instanceof Error ? thrown.message : JSON.stringify(thrown);
  }
  console.log(JSON.stringify({ source: job.source, out: job.out, error }));
}
