// SPDX-License-Identifier: GPL-2.0-only

//! `tests/SCENARIOS.md` names tests that are there.

const TABLE: &str = include_str!("../SCENARIOS.md");

/// The rows that name a scenario.
fn rows() -> impl Iterator<Item = &'static str> {
    TABLE
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| DRBD's "))
}

#[test]
fn every_row_of_the_table_names_a_test_or_says_that_there_is_none() {
    for row in rows() {
        let is_named = row.contains("::") || row.contains("not there yet");
        assert!(is_named && row.matches('|').count() == 4, "{row}");
    }
}

#[test]
fn every_test_that_the_table_names_exists() {
    for name in rows().flat_map(|row| row.split('`').skip(1).step_by(2)) {
        let (file, test) = name.split_once("::").expect(name);
        let path = format!("{}/tests/pair/{file}.rs", env!("CARGO_MANIFEST_DIR"));
        let source = std::fs::read_to_string(&path).expect(&path);
        assert!(
            source.contains(&format!("#[test]\nfn {test}() {{")),
            "{name}"
        );
    }
}
