// An agent as its package has it, verification on: node agent.mjs PACKAGE URL CANISTER. Prints one JSON object.
const [kind, host, canisterId] = process.argv.slice(2);
const isNew = kind === "@icp-sdk/core";
const { Actor, HttpAgent, CanisterStatus, AnonymousIdentity } = await import(isNew ? "@icp-sdk/core/agent" : "@dfinity/agent");
const { Principal } = await import(isNew ? "@icp-sdk/core/principal" : "@dfinity/principal");
const identities = isNew ? await import("@icp-sdk/core/identity") : await import("@dfinity/identity");
const { Ed25519KeyIdentity, ECDSAKeyIdentity, DelegationChain, DelegationIdentity } = identities;
const Secp256k1KeyIdentity = isNew ? (await import("@icp-sdk/core/identity/secp256k1")).Secp256k1KeyIdentity : undefined;

const counter = ({ IDL }) =>
  IDL.Service({
    inc: IDL.Func([], [IDL.Nat], []),
    incSelf: IDL.Func([], [IDL.Nat], []),
    count: IDL.Func([], [IDL.Nat], ["query"]),
    whoami: IDL.Func([], [IDL.Principal], []),
    fail: IDL.Func([IDL.Text], [], []),
  });

const found = {};
const session = Ed25519KeyIdentity.generate();
const user = Ed25519KeyIdentity.generate();
const chain = await DelegationChain.create(user, session.getPublicKey(), new Date(Date.now() + 600_000), {
  targets: [Principal.fromText(canisterId)],
});
const who = {
  anonymous: new AnonymousIdentity(),
  ed25519: user,
  ecdsa: await ECDSAKeyIdentity.generate(),
  delegated: DelegationIdentity.fromDelegation(session, chain),
};
if (Secp256k1KeyIdentity) who.secp256k1 = Secp256k1KeyIdentity.generate();

for (const [name, identity] of Object.entries(who)) {
  const agent = await HttpAgent.create({ host, identity, shouldFetchRootKey: true, verifyQuerySignatures: true });
  const actor = Actor.createActor(counter, { agent, canisterId });
  const before = await actor.count();
  const after = await actor.inc();
  const seen = await actor.count();
  const me = await actor.whoami();
  found[name] = {
    counted: [before, after, seen].map(Number),
    is_me: me.toText() === (await agent.getPrincipal()).toText(),
  };
}

const agent = await HttpAgent.create({ host, identity: user, shouldFetchRootKey: true });
const actor = Actor.createActor(counter, { agent, canisterId });
found.rounds = Number(await actor.incSelf());
found.rejected = await actor.fail("no such luck").then(() => "", (error) => String(error));
const id = Principal.fromText(canisterId);
const status = await CanisterStatus.request({
  agent,
  canisterId: id,
  paths: ["module_hash", "controllers", "time", "candid", "subnet"],
});
found.status = {
  module_hash: status.get("module_hash"),
  controllers: status.get("controllers").map((one) => one.toText()),
  is_now: Math.abs(status.get("time").getTime() - Date.now()) < 60_000,
  has_candid: status.get("candid").includes("service"),
  nodes: status.get("subnet").nodeKeys.size,
};
const late = await HttpAgent.create({ host, identity: user, shouldFetchRootKey: true, ingressExpiryInMinutes: 1 });
await late.syncTime(id);
found.is_synchronised = Math.abs(late.getTimeDiffMsecs?.() ?? 0) < 60_000;
console.log(JSON.stringify(found));
