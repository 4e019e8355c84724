// Every type that a stable variable can have; what it holds, tests/upgrade/test_motoko_state.py says.
import Prim "mo:⛔";

actor {
  let P = Prim.principalOfBlob("\04");
  type Tree = {#leaf; #node : {l : Tree; r : Tree; v : Nat}}; type L<A> = ?(A, L<A>);
  stable var n : Nat = 5;
  stable var big : Nat = 1234567890123456789012345678901234567890;
  stable var i : Int = -7;
  stable var neg : Int = -1234567890123456789012345678901234567890;
  stable var n8 : Nat8 = 200;
  stable var n16 : Nat16 = 60000;
  stable var n32 : Nat32 = 4000000000;
  stable var n64 : Nat64 = 18446744073709551615;
  stable var s64 : Nat64 = 5;
  stable var i8 : Int8 = -100;
  stable var i16 : Int16 = -30000;
  stable var i32 : Int32 = -2000000000;
  stable var i64 : Int64 = -9223372036854775807;
  stable var t64 : Int64 = -5;
  stable var f : Float = 3.25;
  stable var c : Char = 'x';
  stable var b : Bool = true;
  stable var b0 : Bool = false;
  stable var text : Text = "héllo" # "";
  stable var bl : Blob = "\00\01\02";
  stable var p : Principal = P;
  stable var o : ?Nat = ?3;
  stable var oo : ??Nat = ?null;
  stable var no : ?Nat = null;
  stable var u : () = ();
  stable var tup : (Nat, Text) = (1, "one");
  stable var arr : [Nat] = [1,2,3];
  stable let marr : [var Nat] = [var 4,5];
  stable var ref : [var Nat] = marr;
  stable var bytes : [Nat8] = [1,2];
  stable var rec : {a : Nat; var m : Text} = {a = 1; var m = "mut"};
  stable var tree : Tree = #node {l = #leaf; r = #leaf; v = 9};
  stable var list : L<Nat> = ?(1, ?(2, null));
  stable var act : actor {g : shared () -> async ()} = actor("aaaaa-aa");
  stable var fun : shared () -> async () = act.g;
  stable var any : Any = 5;
  stable var chars : [Char] = ['a','é'];
  stable var bools : [Bool] = [true,false];
  stable var people : [{name : Text; age : Nat}] = [];
  stable var maybe : [?Bool] = [?true, ?false, null];
  stable var small : [??Int16] = [??-3, ?null, null];
  type Ring = {v : Nat; var next : ?Ring};
  stable let ring : Ring = {v = 1; var next = null};
  ring.next := ?ring;
  public func grow(k : Nat) : async () { var j = 0; while (j < k) { list := ?(j, list); j += 1 } };
  public func cat(t : Text) : async () { text := text # t };
  stable let reg = Prim.regionNew();
  public func regions() : async () { ignore Prim.regionGrow(reg, 2) };
  public func fill(k : Nat) : async () {
    people := Prim.Array_tabulate<{name : Text; age : Nat}>(k, func i = {name = "person " # debug_show i; age = i})
  };
}
