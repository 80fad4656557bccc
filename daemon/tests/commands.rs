// SPDX-License-Identifier: GPL-2.0-only

//! The programs as they are called: exit codes, and metadata on files that play disks.

use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A node with one resource of two volumes on files.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        for (name, size) in [("disk0", 64 << 20), ("disk1", 64 << 20), ("meta1", 1 << 20)] {
            File::create(machine.path(name))
                .unwrap()
                .set_len(size)
                .unwrap();
        }
        let path = |name| machine.path(name).display().to_string();
        let text = format!(
            "[cluster]\nname = \"demo\"\nsecurity = \"none\"\n\
             [[node]]\nname = \"alpha\"\nid = 3\naddress = \"127.0.0.1:7790\"\n\
             [[resource]]\nname = \"r0\"\n\
             [[resource.volume]]\nid = 0\nminor = 0\ndisk = \"{}\"\n\
             [[resource.volume]]\nid = 1\nminor = 1\ndisk = \"{}\"\nmeta = \"{}\"\n",
            path("disk0"),
            path("disk1"),
            path("meta1")
        );
        std::fs::write(machine.path("weft.toml"), text).unwrap();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn weft(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command
            .arg("--config")
            .arg(self.path("weft.toml"))
            .args(["--node", "alpha"]);
        command.args(words).output().unwrap()
    }

    #[track_caller]
    fn done(&self, words: &[&str]) -> String {
        let output = self.weft(words);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, words: &[&str]) -> String {
        let output = self.weft(words);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn dump(&self) -> Value {
        serde_json::from_str(&self.done(&["dump-md", "r0", "--json"])).unwrap()
    }
}

#[test]
fn metadata_are_made_shown_and_not_overwritten() {
    let machine = Machine::new();
    machine.done(&["create-md", "r0"]);
    let dump = machine.dump();
    for (volume, kind) in [(0, "internal"), (1, "external")] {
        let content = &dump[volume]["superblock"];
        assert_eq!(content["resource"], "r0");
        assert_eq!(
            (&content["volume"], &content["node"]),
            (&Value::from(volume), &Value::from(3))
        );
        assert_eq!(content["meta_kind"], kind);
        assert_eq!(content["generation"], Value::Null);
        let copies = dump[volume]["copies"].as_array().unwrap();
        assert!(
            copies.iter().all(|copy| copy["state"] == "valid"),
            "{copies:?}"
        );
    }
    let refusal = machine.refused(&["create-md", "r0"]);
    assert!(
        refusal.contains("meta-exists") && refusal.contains("--force"),
        "{refusal}"
    );
    assert_eq!(machine.dump(), dump, "nothing was touched");
    machine.done(&["create-md", "r0", "--force"]);
    assert_ne!(
        machine.dump()[0]["superblock"]["device"],
        dump[0]["superblock"]["device"]
    );
    assert!(machine
        .done(&["dump-md", "r0", "--volume", "1"])
        .contains("volume 1"));
}

#[test]
fn a_damaged_superblock_is_passed_over_and_two_of_them_are_told() {
    let machine = Machine::new();
    machine.done(&["create-md", "r0", "--volume", "1"]);
    let meta = File::options()
        .write(true)
        .open(machine.path("meta1"))
        .unwrap();
    meta.write_all_at(b"x", 100).unwrap();
    assert_eq!(machine.dump()[1]["copies"][0]["state"], "corrupt");
    assert_eq!(machine.dump()[1]["superblock"]["resource"], "r0");
    meta.write_all_at(b"x", 4096 + 100).unwrap();
    assert_eq!(machine.dump()[1]["superblock"], Value::Null);
    let refusal = machine.refused(&["create-md", "r0", "--volume", "1"]);
    assert!(refusal.contains("damaged metadata"), "{refusal}");
}

#[test]
fn a_file_system_in_the_way_is_named_and_one_that_leaves_room_is_not_in_the_way() {
    let machine = Machine::new();
    let disk = File::options()
        .write(true)
        .open(machine.path("disk0"))
        .unwrap();
    // An ext4 superblock of so many blocks of 4 KiB.
    let ext4 = |blocks: u32| {
        disk.write_all_at(&[0x53, 0xef], 0x438).unwrap();
        disk.write_all_at(&2u32.to_le_bytes(), 0x418).unwrap();
        disk.write_all_at(&blocks.to_le_bytes(), 0x404).unwrap();
    };
    ext4(64 << 8);
    let refusal = machine.refused(&["create-md", "r0"]);
    assert!(
        refusal.contains("ext2/3/4 file system of 64.0 MiB"),
        "{refusal}"
    );
    assert!(machine
        .dump()
        .as_array()
        .unwrap()
        .iter()
        .all(|volume| volume["superblock"].is_null()));
    ext4(60 << 8);
    machine.done(&["create-md", "r0"]);
}

#[test]
fn a_disk_that_is_too_small_or_missing_is_named() {
    let machine = Machine::new();
    File::create(machine.path("disk0"))
        .unwrap()
        .set_len(16 << 10)
        .unwrap();
    assert!(machine
        .refused(&["create-md", "r0"])
        .contains("disk-too-small"));
    std::fs::remove_file(machine.path("disk0")).unwrap();
    let refusal = machine.refused(&["create-md", "r0"]);
    assert!(
        refusal.contains("disk-open") && refusal.contains("disk0"),
        "{refusal}"
    );
    let refusal = machine.refused(&["create-md", "r0", "--volume", "9"]);
    assert!(refusal.contains("no-such-volume"), "{refusal}");
}

#[test]
fn what_up_would_do_is_printed_without_a_module() {
    let machine = Machine::new();
    let lines = machine.done(&["up", "all", "--dry-run"]);
    assert!(
        lines.starts_with("weftsetup new-resource r0 3 --protocol C\n"),
        "{lines}"
    );
    assert_eq!(lines.lines().count(), 5);
    assert_eq!(
        machine.done(&["down", "r0", "--dry-run"]),
        "weftsetup down r0\n"
    );
}

#[test]
fn a_resource_or_node_that_is_not_configured_is_refused_with_those_that_are() {
    let machine = Machine::new();
    assert!(machine
        .refused(&["up", "r9", "--dry-run"])
        .contains("only: r0"));
    let refusal = machine.refused(&["up", "r0", "--dry-run", "--node", "gamma"]);
    assert!(refusal.contains("configured nodes are: alpha"), "{refusal}");
    assert!(machine
        .done(&["config", "check"])
        .contains("no fault found"));
    std::fs::write(machine.path("weft.toml"), "[cluster]\nname = 5\n").unwrap();
    assert!(machine
        .refused(&["config", "check"])
        .contains("weft.toml:2:8:"));
}

#[test]
fn no_daemon_is_told_as_such() {
    let machine = Machine::new();
    let place = machine.path("nowhere").display().to_string();
    let refusal = machine.refused(&["daemon-status", "--run-dir", &place]);
    assert!(
        refusal.contains("no-daemon") && refusal.contains("systemctl start weftd"),
        "{refusal}"
    );
}

fn code(program: &str, words: &[&str]) -> Option<i32> {
    Command::new(program)
        .args(words)
        .output()
        .unwrap()
        .status
        .code()
}

#[test]
fn wrong_usage_exits_2_and_help_0() {
    let (weft, weftsetup, weftd) = (
        env!("CARGO_BIN_EXE_weft"),
        env!("CARGO_BIN_EXE_weftsetup"),
        env!("CARGO_BIN_EXE_weftd"),
    );
    for (program, words) in [
        (weft, &["dance"][..]),
        (weft, &[]),
        (weft, &["up"]),
        (weft, &["wait-sync", "r0", "--timeout", "soon"]),
        (weftsetup, &[]),
        (weftsetup, &["dance"]),
        (weftsetup, &["attach", "r0"]),
        (weftsetup, &["new-peer", "r0", "99"]),
        (weftsetup, &["primary", "r0", "--gently"]),
        (weftd, &["--colour", "red"]),
        (weftd, &["--log", "loud"]),
    ] {
        assert_eq!(code(program, words), Some(2), "{program} {words:?}");
    }
    for program in [weft, weftsetup, weftd] {
        assert_eq!(code(program, &["--help"]), Some(0));
        assert_eq!(code(program, &["--version"]), Some(0));
    }
}

#[test]
fn h1_a_daemon_with_a_broken_configuration_leaves_nothing_behind() {
    let machine = Machine::new();
    std::fs::write(machine.path("weft.toml"), "[cluster]\nname = \"x\"\n").unwrap();
    let run_dir = machine.path("run");
    let output = Command::new(env!("CARGO_BIN_EXE_weftd"))
        .arg("--config")
        .arg(machine.path("weft.toml"))
        .arg("--run-dir")
        .arg(&run_dir)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("weft.toml:2:8: security is \"tls\" by default"),
        "{text}"
    );
    assert!(!run_dir.exists());
}
