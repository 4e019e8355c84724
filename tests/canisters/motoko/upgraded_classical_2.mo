// A field more in the type of a stable variable: the upgrade goes through, and the list is gone.
actor {
  type Person = { name : Text; age : Nat; mail : Text };
  type List = ?(Person, List);
  stable var people : List = null;
  stable var count : Nat = 0;
  stable var motto : Text = "";

  public func add(name : Text, age : Nat) : async () { people := ?({ name; age; mail = "" }, people); count += 1 };
  public func setMotto(text : Text) : async () { motto := text };
  public query func size() : async Nat { count };
  public query func slogan() : async Text { motto };
  public query func oldest() : async ?Text {
    var at = people; var best : ?Person = null;
    label look loop {
      switch at {
        case null { break look };
        case (?(person, rest)) {
          switch best { case null { best := ?person }; case (?b) { if (person.age > b.age) { best := ?person } } };
          at := rest
        }
      }
    };
    switch best { case null { null }; case (?person) { ?person.name } }
  };
}
