// What guarded_classical_1 refuses to become: it does not keep the people.
import Array "mo:base/Array";
import Debug "mo:base/Debug";
import Iter "mo:base/Iter";
import Text "mo:base/Text";

actor {
  let guard = "perdure:schema 1\n= count var: Nat\n";

  /// Traps where this version does not read what the one before has kept; else says what is kept from now on.
  func guarded(kept : Text, guard : Text) : Text {
    let lines = Iter.toArray(Text.split(guard, #char '\n'));
    let own = Array.mapFilter<Text, Text>(lines, func line = Text.stripStart(line, #text "= "));
    let others = Array.mapFilter<Text, Text>(lines, func line = Text.stripStart(line, #text "~ "));
    func start(line : Text) : ?Text = Text.split(line, #char ' ').next();
    for (old in Text.split(kept, #char '\n')) {
      func same(line : Text) : Bool = line == old;
      if (old != "" and Array.find<Text>(own, same) == null and Array.find<Text>(others, same) == null) {
        let new = switch (Array.find<Text>(own, func line = start(line) == start(old))) {
          case (?line) line;
          case null "nothing"
        };
        Debug.trap("schema: " # old # " became " # new)
      }
    };
    Text.join("\n", own.vals())
  };

  stable var kept : Text = guarded("", guard);
  stable var count : Nat = 0;

  system func postupgrade() { kept := guarded(kept, guard) };

  public func add(name : Text) : async () { ignore name; count += 1 };
  public query func size() : async Nat { count };
}
