//! Which module of the program may know which: only those of the rows above its own. So there are no circles, and
//! whoever reads a module has to know nothing of what is built on it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The modules of `src`, the lowest first. Modules of one row do not know each other.
const LAYERS: &[&[&str]] = &[
    &["chain", "descriptor", "hex", "histogram", "http1", "lines", "lock", "random", "units", "words"],
    &["backoff", "clock", "reading", "slots", "socket", "token"],
    &["sampler"],
    &["tls"],
    &["access_log", "store"],
    &["audit"],
    &["registry", "replica", "usage"],
    // The data path.
    &["readiness", "worker"],
    &["upstream"],
    &["traces"],
    &["proxy"],
    &["connection"],
    &["listener"],
    // Whether all of that holds, seen from outside.
    &["prove"],
    // What is said of a sidecar.
    &["health", "reload"],
    &["fleet", "metrics"],
    // Who manages tokens and users from elsewhere.
    &["console"],
    &["admin"],
    // Only what is below this line knows the configuration; everything above is told its own settings.
    &["config"],
    &["app"],
    &["dev"],
    &["cli"],
];

/// The row of a module.
fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// Calls `visit` with every Rust file below the directory: the module of `src` it belongs to, its path, and its text.
fn files(directory: &Path, top: Option<&str>, visit: &mut dyn FnMut(&str, &Path, &str)) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        let module = top.unwrap_or(&name);
        if path.is_dir() {
            files(&path, Some(module), visit);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            visit(module, &path, &fs::read_to_string(&path).expect("text"));
        }
    }
}

/// The modules that a text names, in `use` lines and anywhere else but in comments.
fn imports(text: &str) -> BTreeSet<&str> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let paths = code.flat_map(|line| line.split("crate::").skip(1));
    paths
        .map(|path| path.split(|symbol: char| !symbol.is_alphanumeric() && symbol != '_').next().unwrap_or(""))
        .collect()
}

#[test]
fn a_module_imports_only_what_is_below_it() {
    let mut known = BTreeSet::new();
    let mut wrong = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), None, &mut |module, path, text| {
        if matches!(module, "lib" | "main") {
            return;
        }
        known.insert(module.to_owned());
        let own = layer(module);
        for import in imports(text).into_iter().filter(|import| *import != module) {
            if own.is_none() || layer(import) >= own || layer(import).is_none() {
                wrong.push(format!("{} imports crate::{import}", path.display()));
            }
        }
    });
    wrong.sort();
    assert!(wrong.is_empty(), "against the table of layers:\n{}", wrong.join("\n"));
    let listed: BTreeSet<String> = LAYERS.iter().copied().flatten().map(|module| (*module).to_owned()).collect();
    assert_eq!(known, listed, "the modules of src, and those of the table");
}

#[test]
fn nobody_below_the_configuration_knows_it() {
    let above: Vec<&str> =
        LAYERS.iter().copied().skip_while(|row| !row.contains(&"config")).skip(1).flatten().copied().collect();
    assert_eq!(above, ["app", "dev", "cli"]);
}

#[test]
fn the_contract_of_the_store_opens_none() {
    let contract =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store.rs")).expect("the contract");
    for implementation in ["RedisStore::", "SqliteStore::", "StoreUrl::"] {
        assert!(!contract.contains(implementation), "{implementation}");
    }
}

#[test]
fn imports_are_found_wherever_they_are_written() {
    let text = "use crate::token::Digest;\n/// As [`crate::cli`]\nfn f() -> crate::store::Store { crate::a::b(crate::c::D) }\nuse crate::{x, y};";
    assert_eq!(imports(text).into_iter().collect::<Vec<_>>(), ["", "a", "c", "store", "token"], "a group is no module");
}
