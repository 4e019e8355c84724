// node compile.cjs SOURCE.mo OUT.wasm PACKAGE: compiles one actor with the npm package `motoko` of the working
// directory; PACKAGE is the name of the standard library that it brings along, base or core.
const fs = require("fs");
const path = require("path");
const { createRequire } = require("module");

const [source, out, library] = process.argv.slice(2);
const load = createRequire(path.join(process.cwd(), "index.js"));
const compiler = load("motoko").default;
const packages = path.join(process.cwd(), "node_modules/motoko/packages/latest", library + ".json");
compiler.loadPackage(JSON.parse(fs.readFileSync(packages, "utf8")));
compiler.write("Main.mo", fs.readFileSync(source, "utf8"));
compiler.setPublicMetadata(["candid:service", "candid:args"]);
fs.writeFileSync(out, compiler.wasm("Main.mo", "ic").wasm);
