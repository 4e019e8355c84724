// A variable and a method more, and a wider type: all is taken over.
actor {
  type Person = { name : Text; age : Nat };
  type List = ?(Person, List);
  stable var people : List = null;
  stable var count : Int = 0; stable var visits : Nat = 0;
  stable var motto : Text = "";

  public func add(name : Text, age : Nat) : async () { people := ?({ name; age }, people); count += 1 };
  public func setMotto(text : Text) : async () { motto := text };
  public query func size() : async Nat { if (count < 0) 0 else { var n = 0; var i = count; while (i > 0) { n += 1; i -= 1 }; n } }; public func visit() : async Nat { visits += 1; visits };
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
