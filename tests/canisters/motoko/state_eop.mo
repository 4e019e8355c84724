// Every type that a stable variable can have; what it holds, tests/upgrade/test_motoko_state.py says.
import Prim "mo:⛔";

persistent actor {
  transient let P = Prim.principalOfBlob("\04");
  type Tree = {#leaf; #node : {l : Tree; r : Tree; v : Nat}}; type L<A> = ?(A, L<A>);
  var n : Nat = 5;
  var big : Nat = 1234567890123456789012345678901234567890;
  var i : Int = -7;
  var neg : Int = -1234567890123456789012345678901234567890;
  var n8 : Nat8 = 200;
  var n16 : Nat16 = 60000;
  var n32 : Nat32 = 4000000000;
  var n64 : Nat64 = 18446744073709551615;
  var s64 : Nat64 = 5;
  var i8 : Int8 = -100;
  var i16 : Int16 = -30000;
  var i32 : Int32 = -2000000000;
  var i64 : Int64 = -9223372036854775807;
  var t64 : Int64 = -5;
  var f : Float = 3.25;
  var c : Char = 'x';
  var b : Bool = true;
  var b0 : Bool = false;
  var text : Text = "héllo" # "";
  var bl : Blob = "\00\01\02";
  var p : Principal = P;
  var o : ?Nat = ?3;
  var oo : ??Nat = ?null;
  var no : ?Nat = null;
  var u : () = ();
  var tup : (Nat, Text) = (1, "one");
  var arr : [Nat] = [1,2,3];
  let marr : [var Nat] = [var 4,5];
  var ref : [var Nat] = marr;
  var bytes : [Nat8] = [1,2];
  var rec : {a : Nat;
  var m : Text} = {a = 1; var m = "mut"};
  var tree : Tree = #node {l = #leaf; r = #leaf; v = 9};
  var list : L<Nat> = ?(1, ?(2, null));
  var act : actor {g : shared () -> async ()} = actor("aaaaa-aa");
  var fun : shared () -> async () = act.g;
  var any : Any = 5;
  var chars : [Char] = ['a','é'];
  var bools : [Bool] = [true,false];
  var people : [{name : Text; age : Nat}] = [];
  var maybe : [?Bool] = [?true, ?false, null];
  var small : [??Int16] = [??-3, ?null, null];
  type Ring = {v : Nat; var next : ?Ring};
  let ring : Ring = {v = 1; var next = null};
  ring.next := ?ring;
  let weakly : weak Ring = Prim.allocWeakRef(ring);
  public func grow(k : Nat) : async () { var j = 0; while (j < k) { list := ?(j, list); j += 1 } };
  public func cat(t : Text) : async () { text := text # t };
  let reg = Prim.regionNew();
  public func regions() : async () { ignore Prim.regionGrow(reg, 2) };
  public func fill(k : Nat) : async () {
    people := Prim.Array_tabulate<{name : Text; age : Nat}>(k, func i = {name = "person " # debug_show i; age = i})
  };
}
