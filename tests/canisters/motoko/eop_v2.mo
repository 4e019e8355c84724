// The second version of eop_v1.mo: ticks may be negative, resets are counted, and there are two methods more.
import Error "mo:core/Error";
import Iter "mo:core/Iter";
import Map "mo:core/Map";
import Nat64 "mo:core/Nat64";
import Principal "mo:core/Principal";
import Region "mo:core/Region";
import Text "mo:core/Text";
import Timer "mo:core/Timer";

persistent actor Self {
  var counter : Nat = 0;
  var ticks : Int = 0;
  var resets : Nat = 0;
  let map = Map.empty<Text, Nat>();
  let records : Region.Region = Region.new();
  var recordsEnd : Nat64 = 0;

  public query func version() : async Nat { 2 };

  public func inc() : async Nat { counter += 1; counter };
  public query func count() : async Nat { counter };
  public func reset() : async Nat { counter := 0; ticks := -1; resets += 1; resets };
  public query func resetCount() : async Nat { resets };
  public query func incInQuery() : async Nat { counter += 1; counter };

  public func put(key : Text, value : Nat) : async () { Map.add(map, Text.compare, key, value) };
  public query func get(key : Text) : async ?Nat { Map.get(map, Text.compare, key) };
  public query func entries() : async [(Text, Nat)] { Iter.toArray(Map.entries(map)) };

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
