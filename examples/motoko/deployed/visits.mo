// Who came, and how often: the version that runs in production.
persistent actor {
  type Visit = { name : Text; number : Nat };
  type List = ?(Visit, List);
  var visits : List = null;
  var count : Nat = 0;

  public func visit(name : Text) : async Nat { count += 1; visits := ?({ name; number = count }, visits); count };
  public query func total() : async Nat { count };
  public query func last() : async ?Text { switch visits { case null { null }; case (?(one, _)) { ?one.name } } };
};
