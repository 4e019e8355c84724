// A variable and a method more.
persistent actor {
  type Person = { name : Text; age : Nat };
  type List = ?(Person, List);
  var people : List = null;
  var count : Nat = 0; var visits : Nat = 0;
  var motto : Text = "";

  public func add(name : Text, age : Nat) : async () { people := ?({ name; age }, people); count += 1 };
  public func setMotto(text : Text) : async () { motto := text };
  public func visit() : async Nat { visits += 1; visits };
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
