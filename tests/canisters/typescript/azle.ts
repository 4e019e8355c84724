// A map in stable memory and a counter on the heap, in TypeScript: a JavaScript engine inside the module.
import { call, IDL, msgCaller, Principal, query, StableBTreeMap, update } from 'azle';

export default class {
    map = new StableBTreeMap<string, bigint>(0);
    counter = 0n;

    @query([], IDL.Nat)
    count(): bigint {
        return this.counter;
    }

    @update([], IDL.Nat)
    inc(): bigint {
        this.counter += 1n;
        return this.counter;
    }

    @update([IDL.Text, IDL.Nat], IDL.Opt(IDL.Nat))
    put(key: string, value: bigint): [bigint] | [] {
        const old = this.map.insert(key, value);
        return old === undefined ? [] : [old];
    }

    @query([IDL.Text], IDL.Opt(IDL.Nat))
    get(key: string): [bigint] | [] {
        const value = this.map.get(key);
        return value === undefined ? [] : [value];
    }

    @query([], IDL.Vec(IDL.Text))
    keys(): string[] {
        return this.map.keys();
    }

    @query([], IDL.Principal)
    whoami(): Principal {
        return msgCaller();
    }

    @update([IDL.Principal], IDL.Nat)
    async incOther(other: Principal): Promise<bigint> {
        this.counter += 1n;
        const theirs = await call<undefined, bigint>(other, 'inc', { returnIdlType: IDL.Nat });
        this.counter += 1n;
        return theirs;
    }
}
