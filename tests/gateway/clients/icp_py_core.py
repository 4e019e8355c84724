"""icp-py-core as it is: python icp_py_core.py URL CANISTER ROOT_KEY. Prints one JSON object.

Signatures of queries are verified. Its verification of certificates needs a library that is on no package index.
"""

import json
import sys

from icp_core import Agent, Client, Identity, Types

url, canister_id, root_key = sys.argv[1:]
users = {"anonymous": Identity(anonymous=True), "ed25519": Identity(), "secp256k1": Identity(type="secp256k1")}
found = {}
for name, identity in users.items():
    agent = Agent(identity, Client(url=url), root_key=bytes.fromhex(root_key))
    before = agent.query(canister_id, "count", [], return_type=[Types.Nat], verify_query_signatures=True)
    after = agent.update(canister_id, "inc", [], return_type=[Types.Nat], verify_certificate=False)
    found[name] = [before[0]["value"], after[0]["value"]]
print(json.dumps(found))
