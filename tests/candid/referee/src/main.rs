//! The reference implementation of Candid, asked by tests/candid/test_referee.py: a request a line, an answer a line.
//!
//! A request is a verb and its operands, each in hexadecimal: `encode TYPES TEXT`, `print TYPES MESSAGE`, `guess TEXT`
//! and `service PATH`. An answer is `ok RESULT` or `no MESSAGE`, in hexadecimal too. TYPES is a list of types in
//! parentheses, definitions before it.

use std::io::{self, BufRead, Write};
use std::path::Path;

use candid::types::{Type, TypeEnv};
use candid::IDLArgs;
use candid_parser::syntax::IDLInitArgs;
use candid_parser::{check_file, parse_idl_args, typing::check_init_args};

fn types(text: &str) -> Result<(TypeEnv, Vec<Type>), String> {
    let parsed = text.parse::<IDLInitArgs>().map_err(|error| error.to_string())?;
    let mut env = TypeEnv::new();
    let types = check_init_args(&mut env, &TypeEnv::new(), &parsed).map_err(|error| error.to_string())?;
    Ok((env, types))
}

fn values(text: &str) -> Result<IDLArgs, String> {
    parse_idl_args(text).map_err(|error| error.to_string())
}

fn text(operand: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(operand).map_err(|error| error.to_string())
}

fn answer(verb: &str, operands: &[Vec<u8>]) -> Result<Vec<u8>, String> {
    match (verb, operands) {
        ("encode", [wanted, written]) => {
            let (env, types) = types(text(wanted)?)?;
            let args = values(text(written)?)?;
            if args.args.len() > types.len() {
                return Err(format!("{} values for {} types", args.args.len(), types.len())); // annotate_types panics
            }
            let args = args.annotate_types(true, &env, &types).map_err(|error| error.to_string())?;
            args.to_bytes_with_types(&env, &types).map_err(|error| error.to_string())
        }
        ("guess", [written]) => values(text(written)?)?.to_bytes().map_err(|error| error.to_string()),
        ("print", [wanted, message]) => {
            let (env, types) = types(text(wanted)?)?;
            let args = IDLArgs::from_bytes_with_types(message, &env, &types).map_err(|error| error.to_string())?;
            Ok(args.to_string().into_bytes())
        }
        ("service", [path]) => {
            let (env, actor, _) = check_file(Path::new(text(path)?)).map_err(|error| error.to_string())?;
            Ok(candid::pretty::candid::compile(&env, &actor).into_bytes())
        }
        _ => Err(format!("no such request: {verb} with {} operands", operands.len())),
    }
}

fn bytes(text: &str) -> Vec<u8> {
    let digit = |one: u8| (one as char).to_digit(16).expect("hexadecimal") as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn hexadecimal(data: &[u8]) -> String {
    data.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split(' ');
        let verb = words.next().unwrap_or_default();
        let operands: Vec<Vec<u8>> = words.map(bytes).collect();
        match answer(verb, &operands) {
            Ok(result) => writeln!(out, "ok {}", hexadecimal(&result))?,
            Err(message) => writeln!(out, "no {}", hexadecimal(message.as_bytes()))?,
        }
        out.flush()?;
    }
    Ok(())
}
