//! What pages compute without a page, tried in Node.js.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The value of an expression about a module of the workspace, as JSON.
fn of_module(path: &str, expression: &str) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let script = format!(
        "import('./{path}').then(async (module) => console.log(JSON.stringify(await module.{expression})))"
    );
    let output = Command::new("node").args(["-e", &script]).current_dir(root).output();
    let output = output.expect("node, which scripts/test installs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let value = serde_json::from_str(&out);
    assert!(output.status.success() && value.is_ok(), "{path}: {out}{err}");
    value.unwrap_or_default()
}

#[test]
fn what_the_consoles_modules_promise_holds() {
    let result = of_module("gateway/web/test/units.js", "run()");
    assert!(result["held"].as_u64() >= Some(20), "{result}");
    assert_eq!(result["failures"], Value::Array(Vec::new()));
}

#[test]
fn the_messaging_pages_format_is_the_one_that_others_are_held_against() {
    assert_eq!(of_module("loadtest/web/test/sealed.js", "run()"), Value::Array(Vec::new()));
    let vectors: Value = serde_json::from_str(include_str!("../data/sealed.json")).expect("vectors");
    assert_eq!(of_module("loadtest/web/test/sealed.js", "vectors()"), vectors);
}
