// node stable_compatible.cjs < PAIRS.json: for each pair of stable types, the codes of what the compiler objects to.
// The npm package `motoko` of the working directory is asked.
const path = require("path");
const { createRequire } = require("module");
const compiler = createRequire(path.join(process.cwd(), "index.js"))("motoko").default;
const pairs = JSON.parse(require("fs").readFileSync(0, "utf8"));
const answers = pairs.map(([before, after]) => {
  compiler.write("before.most", before);
  compiler.write("after.most", after);
  return compiler.compiler.stableCompatible("before.most", "after.most").diagnostics.filter((one) => one.severity === 1).map((one) => one.code);
});
process.stdout.write(JSON.stringify(answers));
