// @dfinity/assets and @dfinity/response-verification as they are: node assets.mjs URL CANISTER SEED. Prints one JSON object.
import { createHash } from "node:crypto";
import http from "node:http";
import { AssetManager } from "@dfinity/assets";
import { Actor, HttpAgent } from "@dfinity/agent";
import { Ed25519KeyIdentity } from "@dfinity/identity";
import { Principal } from "@dfinity/principal";
import { verifyRequestResponsePair } from "@dfinity/response-verification";

const [url, canisterId, seed] = process.argv.slice(2);
const identity = Ed25519KeyIdentity.generate(Buffer.from(seed, "hex"));
const agent = await HttpAgent.create({ host: url, identity, shouldFetchRootKey: true, verifyQuerySignatures: true });
const assets = new AssetManager({ canisterId, agent });

// One request, a batch, and a file of two chunks, which the canister then streams.
const large = Buffer.alloc(2_500_000, "perdure ");
const page = Buffer.from("<h1>a page</h1>");
await assets.store(page, { fileName: "index.html", contentType: "text/html" });
const batch = assets.batch();
await batch.store(Buffer.from("body { color: red }"), { fileName: "style.css", path: "/deep" });
await batch.store(large, { fileName: "large.bin", contentType: "application/octet-stream" });
await batch.store(Buffer.from("assets.localhost\n"), { fileName: "ic-domains", path: "/.well-known" });
await batch.commit();
const read = await assets.get("/large.bin");
const written = await read.toUint8Array();

const shown = (path, host, headers = {}) =>
  new Promise((resolve, reject) => {
    const { hostname, port } = new URL(url);
    const asked = http.get({ hostname, port, path, headers: { host: `${host}:${port}`, ...headers } }, (response) => {
      const parts = [];
      response.on("data", (part) => parts.push(part));
      response.on("end", () =>
        resolve([
          response.statusCode,
          response.headers["x-perdure-verification"],
          createHash("sha256").update(Buffer.concat(parts)).digest("hex"),
        ]),
      );
    });
    asked.on("error", reject);
  });

const interfaceOf = ({ IDL }) => {
  const header = IDL.Tuple(IDL.Text, IDL.Text);
  const request = IDL.Record({
    url: IDL.Text,
    method: IDL.Text,
    body: IDL.Vec(IDL.Nat8),
    headers: IDL.Vec(header),
    certificate_version: IDL.Opt(IDL.Nat16),
  });
  const response = IDL.Record({ body: IDL.Vec(IDL.Nat8), headers: IDL.Vec(header), status_code: IDL.Nat16 });
  return IDL.Service({ http_request: IDL.Func([request], [response], ["query"]) });
};
const actor = Actor.createActor(interfaceOf, { agent, canisterId });
const verified = async (path) => {
  const request = { url: path, method: "GET", body: new Uint8Array(), headers: [], certificate_version: [2] };
  const response = await actor.http_request(request);
  const now = BigInt(Date.now()) * 1_000_000n;
  const id = Principal.fromText(canisterId).toUint8Array();
  const found = verifyRequestResponsePair(request, response, id, now, 300_000_000_000n, agent.rootKey, 2);
  return [response.status_code, found.verificationVersion];
};

const host = `${canisterId}.localhost`;
console.log(
  JSON.stringify({
    listed: (await assets.list()).map((one) => one.key).sort(),
    is_written: Buffer.compare(Buffer.from(written), large) === 0 && (await read.isCertified()),
    shown: {
      index: await shown("/", host),
      style: await shown("/deep/style.css", host),
      large: await shown("/large.bin", host),
      range: await shown("/large.bin", host, { range: "bytes=0-99" }),
      fallback: await shown("/no/such/page", host),
      named: await shown("/index.html", "assets.localhost"),
      raw: await shown("/index.html", `${canisterId}.raw.localhost`),
    },
    verified: { index: await verified("/"), fallback: await verified("/no/such/page") },
    digests: Object.fromEntries(
      Object.entries({ page, large }).map(([name, bytes]) => [name, createHash("sha256").update(bytes).digest("hex")]),
    ),
  }),
);
