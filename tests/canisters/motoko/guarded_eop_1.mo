// A canister that refuses an upgrade itself. What it keeps in a region is bytes to the compiler.
import Array "mo:core/Array";
import Iter "mo:core/Iter";
import Runtime "mo:core/Runtime";
import Text "mo:core/Text";

persistent actor {
  transient let guard = "perdure:schema 1\n= people var: [Text]\n= 0 entries: log, value cbor\n";

  /// Traps where this version does not read what the one before has kept; else says what is kept from now on.
  func guarded(kept : Text, guard : Text) : Text {
    let lines = Iter.toArray(Text.split(guard, #char '\n'));
    let own = Array.filterMap<Text, Text>(lines, func line = Text.stripStart(line, #text "= "));
    let others = Array.filterMap<Text, Text>(lines, func line = Text.stripStart(line, #text "~ "));
    func start(line : Text) : ?Text = Text.split(line, #char ' ').next();
    for (old in Text.split(kept, #char '\n')) {
      func same(line : Text) : Bool = line == old;
      if (old != "" and Array.find<Text>(own, same) == null and Array.find<Text>(others, same) == null) {
        let new = switch (Array.find<Text>(own, func line = start(line) == start(old))) {
          case (?line) line;
          case null "nothing"
        };
        Runtime.trap("schema: " # old # " became " # new)
      }
    };
    Text.join(own.vals(), "\n")
  };

  var kept : Text = guarded("", guard);
  var people : [Text] = [];

  system func postupgrade() { kept := guarded(kept, guard) };

  public func add(name : Text) : async () { people := [name] };
  public query func size() : async Nat { people.size() };
}
