// A canister that refuses an upgrade itself. The next version keeps something else under another name, which the
// compiler would let pass with classical persistence.
import Array "mo:base/Array";
import Debug "mo:base/Debug";
import Iter "mo:base/Iter";
import Text "mo:base/Text";

actor {
  let guard = "perdure:schema 1\n= people var: [Text]\n";

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
  stable var people : [Text] = [];

  system func postupgrade() { kept := guarded(kept, guard) };

  public func add(name : Text) : async () { people := [name] };
  public query func size() : async Nat { people.size() };
}
