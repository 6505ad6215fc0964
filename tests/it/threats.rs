//! `docs/threats.md` names a test for each threat. Each is there.

use std::fs;
use std::path::Path;

/// The file and the tests that a cell names: `` `FILE`: `TEST`, `TEST` ``, more after a semicolon.
fn named(cell: &str) -> Vec<(&str, &str)> {
    let mut named = Vec::new();
    for part in cell.split(';') {
        let mut words = part.split('`').skip(1).step_by(2);
        let Some(file) = words.next() else { continue };
        named.extend(words.map(|test| (file, test)));
    }
    named
}

#[test]
fn every_threat_names_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/threats.md")).expect("text");
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---") && !line.starts_with("| threat"));
    let mut count = 0;
    for row in rows {
        let cell = row.trim_end_matches('|').rsplit(" | ").next().expect("a cell");
        let tests = named(cell);
        assert!(!tests.is_empty(), "no test: {row}");
        for (file, test) in tests {
            let source = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            let is_function = format!("fn {test}");
            assert!(source.contains(&is_function), "{file} has no test `{test}`");
            count += 1;
        }
    }
    assert!(count > 100, "{count}");
}
