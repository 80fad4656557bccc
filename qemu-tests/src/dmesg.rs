// SPDX-License-Identifier: GPL-2.0-only
//! Reads a machine's kernel log for complaints.

/// What a healthy kernel never prints.
const COMPLAINTS: &[&str] = &[
    "BUG:",
    "BUG at",
    "WARNING:",
    "Oops",
    "Kernel panic",
    "Call Trace:",
    "general protection fault",
    "Unable to handle kernel",
    "unable to handle kernel",
    "rust_kernel: panicked",
    "blocked for more than",
    "soft lockup",
    "hard LOCKUP",
    "detected stalls",
    "self-detected stall",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "scheduling while atomic",
    "sleeping function called",
    "list_add corruption",
    "list_del corruption",
    "refcount_t:",
    "stack-protector:",
    "page allocation failure",
    "UBSAN:",
    "KASAN:",
    "unreferenced object",
    "unregister_netdevice: waiting",
    "Attempted to kill init",
];

/// What looks like a complaint and says nothing about the module: an emulated
/// processor lacks mitigations, a slow one disturbs clocks.
const HARMLESS: &[&str] = &[
    "Spectre",
    "Retbleed",
    "MDS CPU bug",
    "clocksource:",
    "WARNING: Support for unprivileged",
];

/// Lines kept before and after a complaint.
const LINES_BEFORE: usize = 2;
const LINES_AFTER: usize = 40;

/// The complaints in a log, each with the lines around it. A line that holds one
/// of the `expected` texts is none.
pub fn complaints(log: &str, expected: &[String]) -> Vec<String> {
    let lines: Vec<&str> = log.lines().collect();
    let mut found = Vec::new();
    let mut next = 0;
    while let Some(at) = (next..lines.len()).find(|at| is_complaint(lines[*at], expected)) {
        let end = lines.len().min(at + LINES_AFTER);
        found.push(lines[at.saturating_sub(LINES_BEFORE)..end].join("\n"));
        next = end;
    }
    found
}

fn is_complaint(line: &str, expected: &[String]) -> bool {
    let holds = |text: &str| line.contains(text);
    COMPLAINTS.iter().any(|text| holds(text))
        && !HARMLESS.iter().any(|text| holds(text))
        && !expected.iter().any(|text| holds(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OOPS: &str = "[1.0] weft: loaded\n[2.0] BUG: kernel NULL pointer dereference\n\
                        [2.1] Call Trace:\n[2.2]  weft_main";

    #[test]
    fn an_oops_is_reported_once_with_its_trace() {
        let found = complaints(OOPS, &[]);
        assert_eq!(found, [OOPS]);
    }

    #[test]
    fn an_ordinary_log_is_clean() {
        assert!(complaints("[1.0] weft: loaded\n[1.1] weft0: I/O error\n", &[]).is_empty());
    }

    #[test]
    fn what_a_test_expects_is_no_complaint() {
        let expected = ["NULL pointer".to_owned(), "Call Trace".to_owned()];
        assert!(complaints(OOPS, &expected).is_empty());
    }
}
