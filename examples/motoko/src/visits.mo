// Who came, and how often: the version that is to be. It greets, in words that can be changed.
persistent actor {
  type Visit = { name : Text; number : Nat };
  type List = ?(Visit, List);
  var visits : List = null;
  var count : Nat = 0;
  var greeting : Text = "welcome";

  public func visit(name : Text) : async Nat { count += 1; visits := ?({ name; number = count }, visits); count };
  public func setGreeting(words : Text) : async () { greeting := words };
  public query func greet(name : Text) : async Text { greeting # ", " # name };
  public query func total() : async Nat { count };
  public query func last() : async ?Text { switch visits { case null { null }; case (?(one, _)) { ?one.name } } };
};
