// Reads requests and responses, one JSON object a line, and prints for each whether the network's verifier takes it.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const require = createRequire(process.cwd() + "/");
const { verifyRequestResponsePair } = require("@dfinity/response-verification");
const bytes = (hex) => Uint8Array.from(Buffer.from(hex, "hex"));

for await (const line of createInterface({ input: process.stdin })) {
  const it = JSON.parse(line);
  try {
    const found = verifyRequestResponsePair(
      { ...it.request, body: bytes(it.request.body) },
      { statusCode: it.response.status, status_code: it.response.status, headers: it.response.headers, body: bytes(it.response.body) },
      bytes(it.canister_id),
      BigInt(it.time_ns),
      300_000_000_000n,
      bytes(it.root_key),
      1,
    );
    console.log(JSON.stringify({ version: found.verificationVersion, headers: found.response?.headers ?? null }));
  } catch (error) {
    console.log(JSON.stringify({ error: String(error?.message ?? error) }));
  }
}
