// The second version of classical_v1.mo: ticks may be negative, resets are counted, and there are two methods more.
import Array "mo:base/Array";
import Error "mo:base/Error";
import HashMap "mo:base/HashMap";
import Iter "mo:base/Iter";
import Nat64 "mo:base/Nat64";
import Principal "mo:base/Principal";
import Region "mo:base/Region";
import Text "mo:base/Text";
import Timer "mo:base/Timer";

actor Self {
  stable var counter : Nat = 0;
  stable var ticks : Int = 0;
  stable var resets : Nat = 0;
  stable var saved : [(Text, Nat)] = [];
  stable let records : Region.Region = Region.new();
  stable var recordsEnd : Nat64 = 0;

  var map = HashMap.fromIter<Text, Nat>(saved.vals(), 16, Text.equal, Text.hash);

  system func preupgrade() { saved := Iter.toArray(map.entries()) };
  system func postupgrade() { saved := [] };

  public query func version() : async Nat { 2 };

  public func inc() : async Nat { counter += 1; counter };
  public query func count() : async Nat { counter };
  public func reset() : async Nat { counter := 0; ticks := -1; resets += 1; resets };
  public query func resetCount() : async Nat { resets };
  public query func incInQuery() : async Nat { counter += 1; counter };

  public func put(key : Text, value : Nat) : async () { map.put(key, value) };
  public query func get(key : Text) : async ?Nat { map.get(key) };
  public query func entries() : async [(Text, Nat)] {
    Array.sort<(Text, Nat)>(Iter.toArray(map.entries()), func(a, b) { Text.compare(a.0, b.0) })
  };

  // Increments here, then there, and here again behind the reply: three messages.
  public func incOther(other : Principal) : async Nat {
    counter += 1;
    let peer = actor (Principal.toText(other)) : actor { inc : () -> async Nat };
    let theirs = await peer.inc();
    counter += 1;
    theirs
  };

  public func tryOther(other : Principal) : async Text {
    let peer = actor (Principal.toText(other)) : actor { fail : (Text) -> async () };
    try { await peer.fail("on purpose"); "no error" } catch (error) { Error.message(error) }
  };

  public func incSelf() : async Nat { await inc() };

  public func fail(text : Text) : async () { counter += 1; throw Error.reject(text) };
  public func crash() : async () { counter += 1; assert false };

  public func tickAfter(nanoseconds : Nat) : async () {
    ignore Timer.setTimer<system>(#nanoseconds nanoseconds, func() : async () { ticks += 1 })
  };
  public func tickEvery(nanoseconds : Nat) : async Nat {
    Timer.recurringTimer<system>(#nanoseconds nanoseconds, func() : async () { ticks += 1 })
  };
  public func stopTicking(timer : Nat) : async () { Timer.cancelTimer(timer) };
  public query func ticked() : async Int { ticks };

  public func record(data : Blob) : async Nat64 {
    let size = Nat64.fromNat(data.size());
    while (Region.size(records) * 65536 < recordsEnd + size) { ignore Region.grow(records, 1) };
    Region.storeBlob(records, recordsEnd, data);
    recordsEnd += size;
    recordsEnd
  };
  public query func recorded(offset : Nat64, size : Nat) : async Blob { Region.loadBlob(records, offset, size) };

  public shared query ({ caller }) func whoami() : async Principal { caller };
}
